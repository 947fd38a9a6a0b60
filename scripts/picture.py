"""Draw the README's picture: the hill of objective (3), its curve of optima, the top at beta 1."""

from pathlib import Path

from dpo_lib import optimal_log_policy, three_answers
from dpo_lib.page.plotting import (
    GREY,
    ORANGE,
    figure,
    mark,
    objective_hill,
    optimum_curve,
    simplex,
    svg,
)

world = three_answers()
reward, log_ref = world.true_reward[0], world.log_ref[0]
fig, ax = figure(6.4, 4.4)
simplex(ax, ("best", "middle", "worst"))
objective_hill(ax, reward, log_ref, beta=1.0)
optimum_curve(ax, reward, log_ref)
mark(ax, log_ref, "reference", GREY, "s")
mark(ax, optimal_log_policy(world.true_reward, world.log_ref, 1.0)[0], "optimum for β = 1", ORANGE)
ax.legend(loc="upper right", fontsize=9)
markup = svg(fig, "A triangle of policies with the hill of the objective and the curve of optima")
# An image file has no page around it to take its colour from; this grey reads on both themes.
picture = markup.replace("currentColor", "#848484")
Path(__file__).parents[1].joinpath("assets", "simplex.svg").write_text(picture + "\n")
