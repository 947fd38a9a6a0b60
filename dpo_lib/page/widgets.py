"""Sliders: one drawing function, two renderings.

With a live kernel (Colab, JupyterLab, VS Code) `slide` shows core ipywidgets and draws in Python.
While the book is built, it draws every position beforehand and emits HTML that needs no kernel,
no network and no library. No mathematics happens here.
"""

import hashlib
import html
import itertools
import json
import os
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from dpo_lib.page.plotting import svg

BETAS = (0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5,
         2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0)  # fmt: skip
_SYMBOLS = {"beta": "β", "epsilon": "ε", "lam": "λ", "gamma": "γ"}
_SCRIPT = """(root => {
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const inputs = [...root.querySelectorAll("input")];
  const outputs = [...root.querySelectorAll("output")];
  const frame = root.querySelector(".dpo-frame");
  const sentence = root.querySelector(".dpo-sentence");
  const draw = () => {
    let position = 0;
    inputs.forEach((input, k) => {
      position = position * data.values[k].length + Number(input.value);
      const value = data.values[k][input.value];
      outputs[k].textContent = value;
      input.setAttribute("aria-valuetext", data.labels[k] + " = " + value);
    });
    frame.innerHTML = data.frames[position];
    sentence.textContent = data.sentences[position];
  };
  inputs.forEach(input => input.addEventListener("input", draw));
  addEventListener("pageshow", draw);
})(document.getElementById("ID"));"""


def slide(
    draw: Callable[..., Figure],
    describe: Callable[..., str],
    title: str,
    start: dict | None = None,
    **choices: Sequence,
):
    """A slider (or two) over pictures that `draw` makes.

    Args:
        draw: called with one keyword for each slider, returns a matplotlib figure.
        describe: called like `draw`, returns a sentence that says what the picture shows: the
            picture's text alternative, read aloud by screen readers and shown below it.
        title: what is being explored, the group's name.
        start: starting values by name; by default the middle of each grid.
        choices: for each slider its name and its grid, for example `beta=BETAS`.

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


def _label(name: str) -> str:
    return _SYMBOLS.get(name, name.replace("_", " "))


def _text(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _live(draw, describe, title, start, choices):
    import ipywidgets

    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[(_text(value), value) for value in grid],
            value=start[name],
            description=_label(name),
            layout=ipywidgets.Layout(width="95%"),
        )
        for name, grid in choices.items()
    }
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


class StaticSlider:
    """The book's rendering: all frames drawn beforehand, a native range input, a short script.

    Without JavaScript, and in print, the starting frame and a table of all positions remain.
    """

    def __init__(self, draw, describe, title, start, choices):
        positions = [
            dict(zip(choices, values, strict=True))
            for values in itertools.product(*choices.values())
        ]
        self.title, self.start, self.choices = title, start, choices
        self.sentences = [describe(**values) for values in positions]
        self.frames = [
            svg(draw(**values), sentence)
            for values, sentence in zip(positions, self.sentences, strict=True)
        ]
        self.first = positions.index(start)

    def __repr__(self) -> str:
        return f"Slider: {self.title}. {self.sentences[self.first]}"

    def _repr_html_(self) -> str:
        data = {
            "labels": [_label(name) for name in self.choices],
            "values": [[_text(value) for value in grid] for grid in self.choices.values()],
            "frames": self.frames,
            "sentences": self.sentences,
        }
        packed = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
        # Named by content, so that two builds are equal byte for byte.
        name = "dpo-" + hashlib.sha256((self.title + packed).encode()).hexdigest()[:10]
        return (
            f'<div class="dpo-slider" id="{name}" role="group" '
            f'aria-label="{html.escape(self.title)}">'
            f'<p class="dpo-title">{html.escape(self.title, quote=False)}</p>'
            + "".join(self._control(name, choice) for choice in self.choices)
            + f'<div class="dpo-frame">{self.frames[self.first]}</div>'
            f'<p class="dpo-sentence" role="status">'
            f"{html.escape(self.sentences[self.first], quote=False)}</p>"
            f"{self._table()}"
            f'<script type="application/json">{packed}</script>'
            f"<script>{_SCRIPT.replace('ID', name)}</script></div>"
        )

    def _control(self, name: str, choice: str) -> str:
        grid, value, label = self.choices[choice], self.start[choice], _label(choice)
        ident, shown = f"{name}-{choice}", html.escape(_text(value))
        return (
            f'<div class="dpo-control"><label for="{ident}">{label} = '
            f'<output for="{ident}">{shown}</output></label>'
            f'<input id="{ident}" type="range" min="0" max="{len(grid) - 1}" '
            f'value="{list(grid).index(value)}" aria-valuetext="{label} = {shown}" '
            'autocomplete="off" data-lm-suppress-shortcuts="true"></div>'
        )

    def _table(self) -> str:
        head = "".join(f'<th scope="col">{_label(name)}</th>' for name in self.choices)
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(_text(value))}</td>' for value in values)}"
            f"<td>{html.escape(sentence)}</td></tr>"
            for values, sentence in zip(
                itertools.product(*self.choices.values()), self.sentences, strict=True
            )
        )
        return (
            "<details><summary>Every position in words</summary><table><thead><tr>"
            f'{head}<th scope="col">what the picture shows</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></details>"
        )
