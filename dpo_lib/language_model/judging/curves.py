"""Curves of one or more runs: training beside held-out, and held-out reward against KL."""

import math
from collections.abc import Iterator
from pathlib import Path

from dpo_lib.language_model import files
from dpo_lib.language_model.judging.training_log import Log, read_logs

# What a panel shows: its title, and the names of the log, of which the first found is drawn.
PANELS = (
    ("loss", ("loss",)),
    ("margin", ("rewards/margins", "margin")),
    ("accuracy", ("rewards/accuracies", "accuracy")),
    ("log-probability of the chosen answer, nats", ("logps/chosen",)),
    ("log-probability of the rejected answer, nats", ("logps/rejected",)),
    ("KL from the reference, nats", ("objective/kl",)),
    ("KTO's reference point, nats", ("kl",)),
    ("reward", ("objective/scores",)),
    ("length of a completion, tokens", ("completions/mean_length",)),
    ("share of completions that ended by themselves", ("completions/ended",)),
    ("share of 4-grams that stood there before", ("completions/repetition",)),
    ("share of prompts whose completions tie", ("completions/ties",)),
)
POINTS = 200  # of a training curve; a longer run is drawn as means of neighbours


def plot(runs: list[str], path: str | Path) -> Path:
    """Draw the logs of runs into an SVG file, whole or not at all.

    Args:
        runs: what `read_log` takes; a run's name in the picture is its last part.
        path: of the file, ending in .svg.

    Raises:
        ValueError: if a run has no log, two have one name, or the path has another ending.
    """
    from dpo_lib.page import plotting

    path = Path(path)
    if path.suffix != ".svg":
        raise ValueError(f"out must end in .svg, got {path}")
    logs = read_logs(runs)
    text = plotting.standalone(draw(logs))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write({path: (text + "\n").encode()})
    return path


def draw(logs: dict[str, Log]) -> str:
    """The picture as SVG markup: a panel for each quantity that a log has, a colour for each run.

    A line is the training's, circles are held-out rows.
    """
    from dpo_lib.page import plotting

    panels = panels_of(logs)
    rows = math.ceil(len(panels) / 2)
    fig, axes = plotting.figure(9, 2.7 * rows, min(2, len(panels)), rows=rows, squeeze=False)
    for ax, (title, names) in zip(axes.flat, panels, strict=False):
        for number, (run, log) in enumerate(logs.items()):
            colour = plotting.COLOURS[number % len(plotting.COLOURS)]
            label = run.replace("$", r"\$")  # text, not mathematics
            training = _columns(_thinned(log.series(*names)))
            ax.plot(*training, color=colour, linewidth=1.2, label=f" {label}")
            held_out = _columns(log.held_out(*names))
            ax.plot(*held_out, "o-", color=colour, markersize=4, linewidth=0.6, fillstyle="none")
        ax.set_title(title)
        ax.set_xlabel("step")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    first = next(axes.flat)
    if any(log.measured for log in logs.values()):
        first.plot(
            [], [], "o", color=plotting.GREY, markersize=4, fillstyle="none", label=" held out"
        )
    first.legend(fontsize=8)
    return plotting.svg(fig, " ".join(_sentences(logs, panels)))


def panels_of(logs: dict[str, Log]) -> list[tuple[str, tuple[str, ...]]]:
    """Those of `PANELS` that some log has something for."""
    return [
        (title, names)
        for title, names in PANELS
        if any(log.series(*names) or log.held_out(*names) for log in logs.values())
    ]


def draw_frontier(logs: dict[str, Log]) -> str:
    """Held-out reward against KL as SVG markup, from a run's first measurement to its last.

    "" where no log has both. Each KL is to that run's own reference.
    """
    from dpo_lib.page import plotting

    fig, ax = plotting.figure()
    said = []
    for number, (run, log) in enumerate(logs.items()):
        kl, reward = (dict(log.held_out(f"objective/{name}")) for name in ("kl", "scores"))
        if steps := sorted(kl.keys() & reward.keys()):
            x, y = ([values[step] for step in steps] for values in (kl, reward))
            colour = plotting.COLOURS[number % len(plotting.COLOURS)]
            label = run.replace("$", r"\$")
            ax.plot(x, y, "o-", color=colour, linewidth=0.6, markersize=3, label=f" {label}")
            ax.plot(x[-1:], y[-1:], "o", color=colour, markersize=8)  # where it ends
            said.append(f"{run}: reward {y[0]:.3g} to {y[-1]:.3g} at KL {x[0]:.3g} to {x[-1]:.3g}")
    if not said:
        return ""
    ax.set_xlabel("KL from the reference, nats for each completion")
    ax.set_ylabel("reward")
    ax.legend()
    return plotting.svg(fig, f"Held-out reward against KL. {'; '.join(said)}.")


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _sentences(logs: dict[str, Log], panels) -> Iterator[str]:
    """What a reader who cannot see the picture gets: where each curve begins and ends."""
    for run, log in logs.items():
        said = []
        for title, names in panels:
            for what, points in (("", log.series(*names)), ("held-out ", log.held_out(*names))):
                if points:
                    ends = f"{points[0][1]:.3g} to {points[-1][1]:.3g}"
                    said.append(f"{what}{title.partition(',')[0]} {ends}")
        yield f"{run}: {'; '.join(said)}."
