"""Numbers and tables as text; assets/workbench.js writes its numbers in the same way."""

import html
import math
from collections.abc import Iterable, Sequence

from torch import Tensor


def shown(value: float) -> str:
    """A number with three decimals, or as a power of ten where these would say nothing."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0.000"  # not -0.000
    mantissa, _, power = f"{value:.2e}".partition("e")
    plain = 5e-4 <= abs(value) < 1e6
    return (f"{value:.3f}" if plain else f"{mantissa}e{int(power)}").replace("-", "−")


def shown_exp(logarithm: float) -> str:
    """exp(logarithm), also where a float cannot hold it."""
    return shown(math.exp(logarithm)) if abs(logarithm) < 700 else f"e^{shown(logarithm)}"


def short(value: float) -> str:
    """A number in at most four digits."""
    return repr(float(f"{value:.4g}")).removesuffix(".0").replace("-", "−")


def listed(row: Tensor) -> str:
    """Numbers with all their digits, as an address holds them."""
    return ",".join(repr(value).removesuffix(".0") for value in row.tolist())


def markup(corner: str, head: Iterable[str], names: Sequence[str], rows: Iterable) -> str:
    """A table as HTML, a named row for each name."""
    columns = "".join(f'<th scope="col">{html.escape(word)}</th>' for word in (corner, *head))
    lines = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for name, row in zip(names, rows, strict=True)
    )
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>"
