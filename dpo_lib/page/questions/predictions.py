"""Predictions: made before a result is shown, met again where it stands."""

from collections.abc import Sequence

from dpo_lib.page.questions.question import Question, distinct, index_of, packed
from dpo_lib.page.questions.words import listed, number, rich

_MADE: dict[str, Question] = {}  # of this kernel, by name


def predict(
    name: str,
    question: str,
    choices: Sequence[str] = (),
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Question:
    """Ask for a prediction. It is kept in the reader's browser and never judged at this place.

    Args:
        name: small letters, digits and hyphens; unique in the book, the same in `revisit`.
        question: its text, in which ``$…$`` and backquotes may stand.
        choices: what there is to choose from; without them the reader types a number.
        unit: of the number, shown behind the field.
        low, high: what the number must lie between, if it must.

    Returns:
        an object that a notebook and the book show.

    Raises:
        ValueError: if the name is not of this form, or the choices are fewer than two or repeated.
    """
    if choices:
        choices = distinct(choices, "choices")
        data = {"choices": [rich(choice) for choice in choices]}
        made = Question(name, "predict-choice", question, data, listed(choices, "dpo-choices"))
    else:
        between = low is not None and high is not None
        bounds = f" between {number(low)} and {number(high)}" if between else ""
        measure = f", in {rich(unit)}" if unit else ""
        body = f'<p class="dpo-bounds">A number{bounds}{measure}.</p>'
        data = {"unit": rich(unit), "low": low, "high": high}
        made = Question(name, "predict-number", question, data, body)
    made.choices = list(choices)
    made.unit = unit
    _MADE[name] = made
    return made


class Revisit:
    """A result beside what the reader had predicted."""

    def __init__(self, name: str, truth: float | int, shown: str, subject: str, because: str):
        self.name, self.truth, self.shown = name, truth, shown
        self.subject, self.because = subject, because

    def __repr__(self) -> str:
        subject = self.subject[0].upper() + self.subject[1:]
        return f"{subject} is {self.shown}, because {self.because}"

    def _repr_html_(self) -> str:
        subject = self.subject[0].upper() + self.subject[1:]
        data = {"name": self.name, "truth": self.truth, "shown": self.shown}
        return (
            f'<div class="dpo-revisit" id="q-{self.name}-seen">'
            f'<p><span class="dpo-said">{subject}</span> is <strong>{rich(self.shown)}</strong>, '
            f"because {rich(self.because)}</p>{packed(data | {'subject': self.subject})}</div>"
        )


def revisit(name: str, truth, because: str, digits: int = 3) -> Revisit:
    """Show where a result stands what the reader had predicted: "You said 0.2; it is 0.53".

    Args:
        name: of the prediction, made in an earlier cell.
        truth: a number that a cell has computed, or the right choice, as its text or its place.
        because: why it is so; the sentence goes on with these words.
        digits: significant digits of the number.

    Returns:
        an object that a notebook and the book show.

    Raises:
        ValueError: if no prediction has this name, or the truth is none of its choices.
    """
    if name not in _MADE:
        raise ValueError(f"no prediction {name!r} was asked for: run its cell first")
    made = _MADE[name]
    if made.choices:
        place = index_of(truth, made.choices)
        return Revisit(name, place, f"“{made.choices[place]}”", "the answer", because)
    return Revisit(name, float(truth), number(float(truth), digits, made.unit), "it", because)
