"""One look for every figure of the book: data and an `ax` in, the drawing on it.

Importing this module sets matplotlib's defaults to the book's style. Figures are shown as inline
SVG (`show`) whose text and axes take the colour of the page around them, so that they read well
in a light and in a dark theme. The colours keep a contrast of 3:1 on both and differ in
lightness, for readers who do not see hues.
"""

import html
import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from torch import Tensor

from dpo_lib.evaluation import frontier
from dpo_lib.objective import objective, optimal_log_policy
from dpo_lib.page.panels import AXIS, PANEL, boxes, panels

BLUE, ORANGE, GREEN, PINK, GREY = "#2f86c8", "#c9731a", "#1f9a6c", "#b05a96", "#848484"
COLOURS = (BLUE, ORANGE, GREEN, PINK, GREY)
_INK = "#010203"  # stands for the page's text colour until `svg` replaces it
matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.titlesize": 10,
        "figure.facecolor": "none",
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "hatch.color": _INK,
        "svg.fonttype": "none",
        "svg.hashsalt": "dpo",
    }
)


def figure(width: float = 6.0, height: float = 3.4, columns: int = 1, rows: int = 1, **options):
    """A figure and its axes (one, or an array of `columns`, or of `rows` of them), in inches."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(rows, columns, **options)


def svg(fig: Figure, alt: str) -> str:
    """The figure as an SVG element for a web page, byte for byte the same at each run.

    Args:
        alt: what the figure shows, in a sentence, for readers who cannot see it.
    """
    found, buffer = panels(fig), io.StringIO()
    fig.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A <style> inside an inline SVG would restyle the whole page, and slowly at that.
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(rf' id="{PANEL}(\d+)"', r' data-panel="\1"', text)
    text = re.sub(rf' id="{AXIS}(\d+)"', r' data-axis="\1"', text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    # Ids such as "axes_1" recur in every figure of a page; only those referred to may stay.
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r' (?!style)[\w:]+="[^"]*"', _rounded, text)
    text = text.replace(_INK, "currentColor").replace("'DejaVu Sans'", "'DejaVu Sans', Verdana")
    text = re.sub(r">\s+<", "><", text)
    label = html.escape(alt, quote=True)
    narrowest = 0.6 * 96 * fig.get_figwidth()  # px: on a phone it scrolls before text is too small
    style = f"min-width: {narrowest:.0f}px; stroke-linejoin: round"
    stacked = f'data-panels="{boxes(fig, found)}" ' if found else ""
    opening = f'<svg role="img" aria-label="{label}" {stacked}style="{style}" '
    return text.replace("<svg ", opening, 1).strip()


def standalone(markup: str) -> str:
    """The markup of `svg` as a file of its own, which has no page around it to take colour from."""
    markup = markup.replace("currentColor", GREY)  # reads on light and on dark
    if "xmlns=" not in markup[: markup.index(">")]:
        markup = markup.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return markup


def _rounded(attribute: re.Match) -> str:
    """Coordinates to a tenth of a point: a third of the bytes, the same picture."""
    number = r"-?\d+\.\d{2,}"
    return re.sub(number, lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), attribute[0])


class Picture:
    """A figure with its caption, shown as inline SVG by Jupyter and by the book.

    The caption is also what a screen reader says, so the drawing itself is silent.
    """

    def __init__(self, fig: Figure, alt: str):
        self.markup, self.alt = svg(fig, alt), alt

    def _repr_html_(self) -> str:
        label = f'role="img" aria-label="{html.escape(self.alt, quote=True)}"'
        drawing = self.markup.replace(label, 'aria-hidden="true"', 1)
        caption = f"<figcaption>{html.escape(self.alt, quote=False)}</figcaption>"
        return (
            f'<figure class="dpo-figure"><div class="dpo-frame">{drawing}</div>{caption}</figure>'
        )

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def show(fig: Figure, alt: str) -> Picture:
    """Show a figure; `alt` says in a sentence what a reader would see."""
    return Picture(fig, alt)


def to_plane(probabilities: Tensor) -> np.ndarray:
    """Points of the triangle for distributions over three responses.

    Args:
        probabilities: shape (..., 3).

    Returns:
        array (..., 2); the corners are the top (0.5, 0.866), (0, 0) and (1, 0), in this order.
    """
    corners = np.array([[0.5, np.sqrt(0.75)], [0.0, 0.0], [1.0, 0.0]])
    return probabilities.detach().numpy() @ corners


def simplex(ax: Axes, names: Sequence[str]) -> None:
    """Draw the triangle of policies over three responses; each corner is one sure response.

    Args:
        names: of the responses at the top, left and right corner.
    """
    corners = to_plane(torch.eye(3, dtype=torch.float64))
    ax.fill(*corners.T, facecolor="none", edgecolor=_INK, linewidth=1)
    for (x, y), name in zip(corners, names, strict=True):
        top = y > 0
        ax.text(x, y + (0.03 if top else -0.03), name, ha="center", va="bottom" if top else "top")
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_xlim(-0.12, 1.12)
    ax.set_ylim(-0.1, 0.95)


def objective_hill(ax: Axes, reward: Tensor, log_ref: Tensor, beta: float, cells: int = 40) -> None:
    """Contours of objective (3) over the triangle, for one prompt with three responses.

    Bands are fractions 1%, 5%, 15%, 30%, 50%, 75% of the way down from the top to the lowest
    corner: darker is higher.

    Args:
        reward, log_ref: shape (3,).
    """
    first, second = np.meshgrid(np.arange(cells + 1), np.arange(cells + 1), indexing="ij")
    keep = first + second <= cells
    weights = np.stack([first[keep], second[keep], cells - first[keep] - second[keep]], -1) / cells
    policies = torch.from_numpy(weights).clamp_min(1e-12)
    policies = policies / policies.sum(-1, keepdim=True)
    height = objective(
        policies.log(), reward.expand_as(policies), log_ref.expand_as(policies), beta
    ).numpy()
    optimum = optimal_log_policy(reward[None], log_ref[None], beta)
    top = objective(optimum, reward[None], log_ref[None], beta).item()
    fractions = np.array([1.0, 0.75, 0.5, 0.3, 0.15, 0.05, 0.01, 0.0])
    levels = top - fractions * (top - height.min())
    triangles = Triangulation(*to_plane(policies).T)
    shades = [(0.184, 0.525, 0.784, alpha) for alpha in np.linspace(0.02, 0.6, len(levels) - 1)]
    ax.tricontourf(triangles, height, levels=levels, colors=shades)


def optimum_curve(ax: Axes, reward: Tensor, log_ref: Tensor) -> None:
    """The curve that equation (4) draws on the triangle as beta goes from infinity to 0."""
    betas = np.geomspace(0.01, 1000, 120)
    policies, _, _ = frontier(reward[None], log_ref[None], betas.tolist())
    ax.plot(*to_plane(policies[:, 0].exp()).T, color=ORANGE, label="optima, β from ∞ to 0")


def mark(ax: Axes, log_policy: Tensor, name: str, colour: str, marker: str = "o") -> None:
    """Mark one policy over three responses, shape (3,), on the triangle."""
    x, y = to_plane(log_policy.exp())
    ax.plot(x, y, marker, color=colour, markersize=8, label=name, markeredgecolor=_INK, zorder=5)


def policy_bars(ax: Axes, policies: dict[str, Tensor], names: Sequence[str]) -> None:
    """Bars of several policies side by side, one group for each response.

    Args:
        policies: legend name -> log-probabilities, shape (responses,).
        names: the responses' names.
    """
    width = 0.8 / len(policies)
    for k, (label, log_policy) in enumerate(policies.items()):
        place = np.arange(len(names)) + (k - (len(policies) - 1) / 2) * width
        hatch = ("", "//", "..", "xx")[k % 4]
        ax.bar(place, log_policy.exp().tolist(), width * 0.92, label=label, hatch=hatch, alpha=0.9)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylim(0, 1)
    ax.set_ylabel("probability")
    ax.legend()
