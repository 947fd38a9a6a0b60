"""Draw what a shared link shows: the book's title beside its triangle, in assets/social.png."""

from pathlib import Path

from matplotlib.figure import Figure

from dpo_lib import optimal_log_policy, three_answers
from dpo_lib.page.plotting import GREY, ORANGE, mark, objective_hill, optimum_curve, simplex

WIDTH, HEIGHT = 1200, 630  # px: what services crop nothing from
INK, PAPER = "#1b2430", "#ffffff"

world = three_answers()
reward, log_ref = world.true_reward[0], world.log_ref[0]
fig = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=PAPER)
ax = fig.add_axes((0.45, 0.04, 0.54, 0.92))
simplex(ax, ("best", "middle", "worst"))
objective_hill(ax, reward, log_ref, beta=1.0)
optimum_curve(ax, reward, log_ref)
mark(ax, log_ref, "reference", GREY, "s")
mark(ax, optimal_log_policy(world.true_reward, world.log_ref, 1.0)[0], "optimum", ORANGE)
ax.lines[0].set_linewidth(4)
for line in ax.lines[1:]:
    line.set_markersize(16)
for text in ax.texts:
    text.set(fontsize=20, color=INK)
for k, words in enumerate(("Direct", "Preference", "Optimization,", "checked")):
    fig.text(0.06, 0.76 - 0.12 * k, words, fontsize=46, weight="bold", color=INK)
for k, words in enumerate(("Every claim derived,", "proved in sympy and", "checked in numbers.")):
    fig.text(0.06, 0.25 - 0.065 * k, words, fontsize=19, color=INK)
target = Path(__file__).parents[1] / "assets/social.png"
fig.savefig(target, metadata={"Software": None})
