"""What a slider is in a built page: markup and data; assets/sliders.js moves it."""

import hashlib
import html
import itertools
import json
from collections.abc import Sequence

from dpo_lib.page.plotting import svg

FEW = 6  # names that are shown side by side; more make a list
_SYMBOLS = {"beta": "β", "epsilon": "ε", "lam": "λ", "gamma": "γ"}
_OFF = 'autocomplete="off" data-lm-suppress-shortcuts="true"'


def label(name: str) -> str:
    """How a control is called: β for beta."""
    return _SYMBOLS.get(name, name.replace("_", " "))


def text(value) -> str:
    """A value as it is shown and typed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def nominal(grid: Sequence) -> bool:
    """Whether the values are names, which have no order to slide along."""
    return all(isinstance(value, str) for value in grid)


def ticks(texts: Sequence[str]) -> list[int]:
    """Positions of the five to eight values that are written under a slider.

    They lie evenly where that is possible; in a fine grid one step aside to a shorter number: 0.1
    rather than 0.12.
    """
    last = len(texts) - 1
    short = max(map(len, texts)) <= 4
    if last < (8 if short else 5):
        return list(range(len(texts)))
    counts = (7, 6, 5) if short else (5, 6)
    count = next((count for count in counts if last % (count - 1) == 0), counts[0])
    places = [k * last / (count - 1) for k in range(1, count - 1)]
    reach = 1.5 if last >= 3 * (count - 1) else 0.5
    near = [[k for k in range(last + 1) if abs(k - place) <= reach] for place in places]
    inner = [
        min(ks, key=lambda k, place=place: (len(texts[k]), abs(k - place)))
        for ks, place in zip(near, places, strict=True)
    ]
    return [0, *inner, last]


class StaticSlider:
    """The book's rendering: all frames drawn beforehand, and a native control for each choice.

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
            "labels": [label(name) for name in self.choices],
            "values": [[text(value) for value in grid] for grid in self.choices.values()],
            "frames": self.frames,
            "sentences": self.sentences,
        }
        packed = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
        # Named by content, so that two builds are equal byte for byte.
        name = "dpo-" + hashlib.sha256((self.title + packed).encode()).hexdigest()[:10]
        return (
            f'<div class="dpo-slider" id="{name}" role="group" '
            f'data-takes="{" ".join(self.choices)}" '
            f'aria-label="{html.escape(self.title)}">'
            f'<p class="dpo-title">{html.escape(self.title, quote=False)}</p>'
            + "".join(self._control(name, choice) for choice in self.choices)
            + f'<div class="dpo-frame">{self.frames[self.first]}</div>'
            f'<p class="dpo-sentence" role="status">'
            f"{html.escape(self.sentences[self.first], quote=False)}</p>"
            f"{self._table()}"
            f'<script type="application/json">{packed}</script></div>'
        )

    def _control(self, name: str, choice: str) -> str:
        values = [text(value) for value in self.choices[choice]]
        given = f"{name}-{choice}", label(choice), values, values.index(text(self.start[choice]))
        if not nominal(self.choices[choice]):
            tag, inside = "div", _range(*given)
        elif len(values) > FEW:
            tag, inside = "div", _list(*given)
        else:
            tag, inside = "fieldset", _radios(*given)
        return f'<{tag} class="dpo-control" data-name="{choice}">{inside}</{tag}>'

    def _table(self) -> str:
        head = "".join(f'<th scope="col">{label(name)}</th>' for name in self.choices)
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(text(value))}</td>' for value in values)}"
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


def _range(ident: str, name: str, values: list[str], at: int) -> str:
    shown, last = html.escape(values[at]), len(values) - 1
    marks = "".join(
        f'<span style="left: {100 * k / max(last, 1):.4g}%">{html.escape(values[k])}</span>'
        for k in ticks(values)
    )
    # A decimal keyboard has no minus sign on some phones.
    keys = "" if any(value.startswith("-") for value in values) else 'inputmode="decimal" '
    return (
        f'<label for="{ident}">{name} =</label>'
        f'<input class="dpo-value" type="text" {keys}value="{shown}" '
        f'aria-label="{name}, a value" {_OFF}>'
        '<button type="button" class="dpo-play" hidden>Play</button>'
        f'<input id="{ident}" type="range" min="0" max="{last}" value="{at}" '
        f'aria-valuetext="{name} = {shown}" {_OFF}>'
        f'<div class="dpo-ticks" aria-hidden="true">{marks}</div>'
    )


def _radios(ident: str, name: str, values: list[str], at: int) -> str:
    return f"<legend>{name}</legend>" + "".join(
        f'<label class="dpo-choice"><input type="radio" name="{ident}" value="{k}" '
        f"{'checked ' if k == at else ''}{_OFF}>{html.escape(value)}</label>"
        for k, value in enumerate(values)
    )


def _list(ident: str, name: str, values: list[str], at: int) -> str:
    options = "".join(
        f"<option{' selected' if k == at else ''}>{html.escape(value)}</option>"
        for k, value in enumerate(values)
    )
    return f'<label for="{ident}">{name}</label><select id="{ident}" {_OFF}>{options}</select>'
