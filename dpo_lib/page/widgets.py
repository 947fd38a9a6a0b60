"""Sliders: one drawing function, two renderings.

With a live kernel (Colab, JupyterLab, VS Code) `slide` shows core ipywidgets and draws in Python.
While the book is built, it draws every position beforehand and emits HTML that needs no kernel,
no network and no library. No mathematics happens here.
"""

import html
import os
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from dpo_lib.page.plotting import svg
from dpo_lib.page.sliders import FEW, StaticSlider, label, nominal, text

BETAS = (0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5,
         2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0)  # fmt: skip


def slide(
    draw: Callable[..., Figure],
    describe: Callable[..., str],
    title: str,
    start: dict | None = None,
    **choices: Sequence,
):
    """A slider (or two) over pictures that `draw` makes.

    A grid of numbers is slid along. One of names, which have no order, is chosen from: with radio
    buttons if they are few, from a list otherwise.

    Args:
        draw: called with one keyword for each control, returns a matplotlib figure.
        describe: called like `draw`, returns a sentence that says what the picture shows: the
            picture's text alternative, read aloud by screen readers and shown below it.
        title: what is being explored, the group's name.
        start: starting values by name; by default the middle of each grid.
        choices: for each control its name and its grid, for example `beta=BETAS`.

    Returns:
        an ipywidgets box where a kernel is live, an HTML object while the book is built.

    Raises:
        ValueError: if a starting value does not lie on its grid.
    """
    start = {name: grid[len(grid) // 2] for name, grid in choices.items()} | (start or {})
    for name, value in start.items():
        if value not in choices.get(name, ()):
            raise ValueError(f"start[{name!r}] must lie on the grid, got {value}")
    render = StaticSlider if os.environ.get("DPO_BOOK_BUILD") else _live
    return render(draw, describe, title, start, choices)


def _live(draw, describe, title, start, choices):
    import ipywidgets

    sliders = {name: _control(name, grid, start[name]) for name, grid in choices.items()}
    picture = ipywidgets.HTML()

    def redraw(change=None):
        values = {name: slider.value for name, slider in sliders.items()}
        sentence = describe(**values)
        picture.value = f"{svg(draw(**values), sentence)}<p>{html.escape(sentence)}</p>"

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    redraw()
    heading = ipywidgets.HTML(f"<b>{html.escape(title)}</b>")
    return ipywidgets.VBox([heading, *sliders.values(), picture])


def _control(name, grid, value):
    import ipywidgets

    names = ipywidgets.RadioButtons if len(grid) <= FEW else ipywidgets.Dropdown
    kind = names if nominal(grid) else ipywidgets.SelectionSlider
    return kind(
        options=[(text(value), value) for value in grid],
        value=value,
        description=label(name),
        layout=ipywidgets.Layout(width="95%"),
    )
