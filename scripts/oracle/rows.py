"""A comparison as a row of a table: equal, explained by a check that was made, or different."""

import math
from dataclasses import dataclass

EQUAL, EXPLAINED, DIFFERENT = "equal", "explained", "**differs**"


@dataclass(frozen=True)
class Row:
    """One line: what is compared, both numbers, their difference, and what to think of it.

    ours, trl: numbers, or text where there is none.
    difference: relative to the larger of both, or None.
    verdict: one of the three above, and after a colon the reason.
    """

    name: str
    ours: float | str
    trl: float | str
    difference: float | None
    verdict: str


def relative(a: float, b: float) -> float:
    """|a - b| over the larger of them, 0 if both are 0."""
    return abs(a - b) / (max(abs(a), abs(b)) or 1.0)


def judged(difference: float, tolerance: float, why: str = "", checked: bool = True) -> str:
    """The verdict: a reason excuses a difference only if what it claims was `checked`."""
    if difference <= tolerance:
        return EQUAL
    return f"{EXPLAINED}: {why}" if why and checked else DIFFERENT


def markdown(rows: list[Row], headings: tuple[str, ...]) -> list[str]:
    """The lines of a table, and below it the reasons, numbered, each once.

    Args:
        headings: of the five columns.
    """
    reasons: dict[str, int] = {}
    lines = [f"| {' | '.join(headings)} |", "|---|---:|---:|---:|---|"]
    for row in rows:
        said, _, why = row.verdict.partition(": ")
        if why:
            said += f" ({reasons.setdefault(why, len(reasons) + 1)})"
        cells = (row.name, _number(row.ours), _number(row.trl), _small(row.difference), said)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *(f"{number}. {why}." for why, number in reasons.items())]


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _small(value: float | None) -> str:
    """A power of ten above it: the last digits of rounding are not the same everywhere."""
    if not value:
        return "" if value is None else "0"
    return f"{value:.1g}" if value > 1e-3 else f"< 1e{math.ceil(math.log10(value))}"
