"""Runs as one HTML file that needs nothing else: what came of them, and what repeats them.

Its markup is `web_page.html.jinja`, which escapes whatever comes from data, settings and paths.
It has no script, and asks no other machine for anything.
"""

from pathlib import Path

import jinja2

from dpo_lib.language_model import files
from dpo_lib.language_model.judging import report, runs
from dpo_lib.language_model.judging.curves import draw, draw_frontier, panels_of
from dpo_lib.language_model.training.parallel.processes import processes

# Nothing that a terminal or a page would obey: control characters are shown as their pictures.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
DIRECTIONS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def write_page(paths: list[str], out: str | Path, evaluation: str | Path | None = None) -> Path:
    """Write the report of one or more runs, whole or not at all.

    Args:
        paths: what `read_log` takes; a run's name in the page is its last part.
        out: of the file, ending in .html.
        evaluation: JSON file of `dpo evaluate --out`, for reward against KL.

    Raises:
        ValueError: in one line, if a run has no log, two have one name, the evaluation is none,
            or the file cannot be written, as on a full disk.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise ValueError(f"out must end in .html, got {out}")
    if out.exists() and not out.is_file():
        raise ValueError(f"out must be a file, got {out}")
    page = render(runs.read_runs(paths), report.read(evaluation) if evaluation else None)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write({out: page.encode("utf-8", "replace")})  # half a surrogate pair has no bytes
    except OSError as error:
        raise ValueError(
            f"{out}: cannot write the report: {error.strerror or error}; make room there, or choose"
            " another --out"
        ) from None
    return out


def leave_page(run: Path) -> str:
    """Write RUN/report.html beside the model that is saved by now.

    Returns:
        in one line why there is none, or "": a run that is whole does not fail by its page.
    """
    if not processes().main:
        return ""
    try:
        write_page([str(run)], run / "report.html")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"the run is whole, but has no report: {reason}"
    return ""


def render(read: list[runs.Run], evaluation: dict | None = None) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    logs = {run.name: run.log for run in read}
    drawn = report.draw_plot(evaluation) if evaluation else draw_frontier(logs)
    page = environment.get_template("web_page.html.jinja").render(
        runs=read,
        of=runs,
        curves=_curves,
        frontier=drawn,
        head=report.HEAD,
        evaluated=report.table(evaluation) if evaluation else [],
    )
    return page.strip() + "\n"


def _curves(run: runs.Run) -> str:
    logs = {run.name: run.log}
    return draw(logs) if panels_of(logs) else ""


def _visible(value: object) -> object:
    """Text without what cannot be seen but would change what is seen."""
    if isinstance(value, str) and not hasattr(value, "__html__"):  # no markup
        return value.translate(CONTROLS | DIRECTIONS)
    return value
