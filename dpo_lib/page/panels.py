"""Figures with several panels: where each of them lies, so that a narrow screen can stack them.

A page shows the same drawing once per panel, each time cut to its box (assets/panels.js).
"""

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox

PANEL, AXIS = "dpo-panel-", "dpo-axis-"  # ids of groups in the SVG that matplotlib writes
_AIR = 2.0  # points around a box


def panels(fig: Figure) -> list[list[Artist]]:
    """What is shown together on a narrow screen, from top to bottom, with its ids set.

    What belongs to the whole figure comes first. Empty for a figure with one panel, or with axes
    that lie on no grid.
    """
    places: dict = {}
    for ax in filter(Axes.get_visible, fig.axes):
        places.setdefault(ax.get_subplotspec(), []).append(ax)  # twins share a place
    if len(places) < 2 or None in places:
        return []
    found = [[artist] for artist in [*fig.texts, *fig.legends]] + list(places.values())
    for index, artists in enumerate(found):
        for artist in artists:
            artist.set_gid(f"{PANEL}{index}")
            if isinstance(artist, Axes):
                artist.yaxis.set_gid(f"{AXIS}{index}")
    return found


def boxes(fig: Figure, found: list[list[Artist]]) -> list[list[float]]:
    """For each panel of a drawn figure its index, x, y, width and height, in points of the SVG.

    A panel without numbers on its vertical axis, because it shares those of a panel to its left,
    has two values more: that panel's index, and how far its axis must be moved. A legend that is
    wider than the panels comes in pieces, each with the legend's index.
    """
    dpi, fig.dpi = fig.dpi, 72  # as the SVG was drawn: a legend's parts lie where they did then
    try:
        renderer = FigureCanvasAgg(fig).get_renderer()
        axes = [artists[0] for artists in found if isinstance(artists[0], Axes)]
        widest = max(ax.get_tightbbox(renderer).width for ax in axes)
        return [box for artists in found for box in _boxes_of(artists, found, widest, renderer)]
    finally:
        fig.dpi = dpi


def _boxes_of(artists: list[Artist], found: list[list[Artist]], widest: float, renderer):
    first, borrowed = artists[0], []
    if isinstance(first, Legend):
        parts = _columns(first, widest, renderer)
    else:
        parts = [Bbox.union([artist.get_tightbbox(renderer) for artist in artists])]
    if lender := _lender(first, found):
        shift = float(first.bbox.x0 - lender.bbox.x0)
        axis = lender.yaxis.get_tightbbox(renderer).translated(shift, 0)
        parts = [Bbox.union([*parts, axis])]
        borrowed = [int(lender.get_gid().removeprefix(PANEL)), round(shift, 1)]
    top = first.figure.bbox.height
    for box in parts:
        corner = box.x0 - _AIR, top - box.y1 - _AIR
        numbers = *corner, box.width + 2 * _AIR, box.height + 2 * _AIR
        yield [found.index(artists), *(round(float(number), 1) for number in numbers), *borrowed]


def _columns(legend: Legend, widest: float, renderer) -> list[Bbox]:
    """A legend's box; its title's and those of as many columns at a time as fit, if it is wider."""
    whole, columns = legend.get_tightbbox(renderer), {}
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        box = Bbox.union([handle.get_window_extent(renderer), text.get_window_extent(renderer)])
        columns.setdefault(round(text.get_window_extent(renderer).x0), []).append(box)
    parts = []
    for _, entries in sorted(columns.items()):
        column = Bbox.union(entries)
        wider = Bbox.union([parts[-1], column]) if parts else column
        parts[-1:] = [wider] if wider.width <= widest else [*parts[-1:], column]
    title = legend.get_title()
    heading = [title.get_window_extent(renderer)] if title.get_text() else []
    return heading + parts if len(parts) > 1 else [whole]


def _lender(panel: Artist, found: list[list[Artist]]) -> Axes | None:
    """The panel in the same row whose vertical axis has the numbers that this one shares."""
    if not isinstance(panel, Axes) or _numbered(panel):
        return None
    row, shared = panel.get_subplotspec().rowspan, panel.get_shared_y_axes()
    axes = [artists[0] for artists in found if isinstance(artists[0], Axes)]
    same = [ax for ax in axes if ax.get_subplotspec().rowspan == row and shared.joined(panel, ax)]
    return next(filter(_numbered, same), None)


def _numbered(ax: Axes) -> bool:
    shown = [label for label in ax.get_yticklabels() if label.get_visible() and label.get_text()]
    return bool(shown) and ax.axison
