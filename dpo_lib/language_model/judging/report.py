"""An evaluation as a table, a picture and a file."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from dpo_lib.language_model import files

HEAD = ("policy", "T", "reward", "KL, nats", "win rate", "z", "length", "ended")


def read(path: str | Path) -> dict:
    """The report that `write` wrote.

    Raises:
        ValueError, OSError: in one line, if it is none, or is not there.
    """
    try:
        report = json.loads(Path(path).read_bytes().decode())
        table(report)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        raise ValueError(f"{path}: not an evaluation that dpo evaluate --out wrote") from None
    return report


def lines(report: dict) -> list[str]:
    """What a person reads: a table of the policies, then Best-of-N."""
    rows = [HEAD, *table(report)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def table(report: dict) -> list[tuple[str, ...]]:
    """The cells under `HEAD`: the reference, each policy at each temperature, Best-of-N."""
    base = report["reference"]
    found = [("reference", "1", show(base["reward"]), "0", "", "", *_ends(base))]
    for row in report["policies"]:
        columns = [show(row.get(name)) for name in ("reward", "kl", "win_rate")]
        found.append(
            (row["name"], f"{row['temperature']:g}", *columns, f"{row['z']:.1f}", *_ends(row))
        )
    for row in report["best_of"][1:]:
        kl = f"≤ {row['kl_at_most']:.3f}"
        found.append((f"best of {row['n']}", "1", show(row["reward"]), kl, "", "", "", ""))
    return found


def show(record: dict | None) -> str:
    """An estimate's record as mean and half its 95% interval."""
    return f"{record['mean']:.3f} ± {1.96 * record['standard_error']:.3f}" if record else "-"


def draw_plot(report: dict) -> str:
    """Reward against KL as SVG markup; beside it, given several temperatures, win rates.

    The two sides of the paper's Figure 2.
    """
    from dpo_lib.page import plotting

    several = len({row["temperature"] for row in report["policies"]}) > 1
    fig, axes = plotting.figure(width=10 if several else 6, columns=1 + several, squeeze=False)
    _draw_rewards(axes[0, 0], report)
    if several:
        _draw_win_rates(axes[0, 1], report)
    listed = "; ".join(line for line in lines(report)[1:])
    return plotting.svg(fig, f"Reward against KL from the reference. {listed}")


def _draw_rewards(ax, report: dict) -> None:
    from dpo_lib.page import plotting

    ax.plot(0, report["reference"]["reward"]["mean"], "s", color=plotting.GREY, label="reference")
    best = report["best_of"][1:]
    if best:
        points = [(row["kl_at_most"], row["reward"]["mean"]) for row in best]
        label = f"Best-of-N, N up to {best[-1]['n']} (KL at most)"
        ax.plot(*zip(*points, strict=True), "^--", color=plotting.GREEN, label=label)
    for name, marker, rows in _by_policy(report):
        rows = [row for row in rows if "kl" in row]
        x, y = ([row[key]["mean"] for row in rows] for key in ("kl", "reward"))
        xerr, yerr = (_bars(rows, key) for key in ("kl", "reward"))
        ax.errorbar(x, y, yerr, xerr, fmt=marker, capsize=2, label=name)
    ax.set_xlabel("KL from the reference, nats for each completion")
    ax.set_ylabel("reward")
    ax.legend()


def _draw_win_rates(ax, report: dict) -> None:
    from dpo_lib.page import plotting

    ax.axhline(0.5, color=plotting.GREY, linestyle=":")
    for name, marker, rows in _by_policy(report):
        rows = sorted(rows, key=lambda row: row["temperature"])
        x, y = [row["temperature"] for row in rows], [row["win_rate"]["mean"] for row in rows]
        ax.errorbar(x, y, _bars(rows, "win_rate"), fmt=f"{marker}-", capsize=2, label=name)
    ax.set_xlabel("sampling temperature")
    ax.set_ylabel("win rate against the reference")
    ax.legend()


def _by_policy(report: dict) -> Iterator[tuple[str, str, list[dict]]]:
    """Short name, marker and rows of each policy."""
    names = dict.fromkeys(row["name"] for row in report["policies"])
    for name, marker in zip(names, itertools.cycle("oDvP"), strict=False):
        rows = [row for row in report["policies"] if row["name"] == name]
        short = name.removesuffix("/model")[-30:].replace("$", r"\$")  # text, not mathematics
        yield short, marker, rows


def _bars(rows: list[dict], key: str) -> list[float]:
    return [1.96 * row[key]["standard_error"] for row in rows]


def check_out(path: str | Path) -> list[Path]:
    """The paths of a report and of its plot, in a folder that is made if it is not there.

    Raises:
        ValueError, OSError: they cannot be written there.
    """
    path = Path(path)
    if path.suffix == ".svg":
        raise ValueError(f"out must not end in .svg (the plot is written beside it), got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A device is no file either: renamed onto, /dev/null would be gone.
    if path.exists() and not path.is_file():
        raise ValueError(f"out must be a file, got {path}")
    picture = path.with_suffix(".svg")
    if picture.exists() and not picture.is_file():
        raise ValueError(f"out has its plot beside it, but {picture} is no file: got {path}")
    return [path, picture]


def write(report: dict, path: str | Path) -> list[Path]:
    """Write the report as JSON to `path` and its plot beside it as .svg; return both paths.

    Whole or not at all: what was there stays until both are on the disk under other names.
    """
    from dpo_lib.page import plotting

    paths = check_out(path)
    texts = [json.dumps(report, indent=1), plotting.standalone(draw_plot(report))]
    contents = [(text + "\n").encode() for text in texts]
    files.write(dict(zip(paths, contents, strict=True)))
    return paths


def _ends(row: dict) -> tuple[str, str]:
    return f"{row['length']['mean']:.1f}", f"{row['ended']['mean']:.0%}"
