"""Exercises that take a number or a choice and say right, nearly, or not yet."""

from collections.abc import Mapping, Sequence

from dpo_lib.page.questions.question import Question, distinct, index_of
from dpo_lib.page.questions.words import listed, number, rich


def ask(
    name: str,
    question: str,
    answer,
    slips: Mapping[str, object] | None = None,
    hint: str = "",
    solution: str = "",
    tolerance: float | None = None,
    unit: str = "",
    choices: Sequence[str] = (),
    digits: int = 3,
) -> Question:
    """Ask for a number, or for one of some choices.

    A number is typed as 0.53, 53%, 1/3, 2e-3, "0,53" or as an expression with ln, exp, sqrt and
    pi. The turned sign, and a percentage typed as a plain number, are found without being told.

    Args:
        name: small letters, digits and hyphens; unique in the book.
        question: its text, in which ``$…$`` and backquotes may stand.
        answer: the number, as a cell computed it; of choices the text or the place.
        slips: for a number, what went wrong -> the value that comes of it, as in
            `{"you forgot β": value}`; for choices, a wrong choice's text -> why it is wrong.
        hint: shown folded, and said after a wrong answer.
        solution: shown with the answer.
        tolerance: how far from the number is still right; by default a hundredth of it.
        unit: of the number, shown behind the field; a percentage has none, 53% is 0.53.
        choices: what there is to choose from.
        digits: significant digits of the answer as it is shown.

    Returns:
        an object that a notebook and the book show.

    Raises:
        ValueError: if a slip's value would be taken for the answer or for another slip, if a
            choice is none, or if the unit is "%".
    """
    if choices:
        return _choice(name, question, answer, slips or {}, hint, solution, choices)
    if unit == "%":
        raise ValueError("ask for the fraction, without a unit: a reader may type 53% for 0.53")
    answer = float(answer)
    tolerance = _width(answer) if tolerance is None else tolerance
    known = [(float(value), says) for says, value in (slips or {}).items()]
    for place, (value, says) in enumerate(known):
        near = [answer] + [other for other, _ in known[:place]]
        if any(abs(value - other) <= tolerance + _width(value) for other in near):
            raise ValueError(f"the slip {says!r} cannot be told from another value, at {value:g}")
    known += [
        (value, says)
        for value, says in _generic(answer)
        if all(abs(value - other) > tolerance + _width(value) for other in [answer, *dict(known)])
    ]
    data = {
        "answer": answer,
        "tolerance": tolerance,
        "slips": [[value, _width(value), rich(says)] for value, says in known],
        "unit": rich(unit),
    }
    shown = f"{number(answer, digits, unit)}\n\n{solution}"
    return Question(name, "number", question, data, "", hint, shown)


def _choice(name, question, answer, slips, hint, solution, choices):
    choices = distinct(choices, "choices")
    right = index_of(answer, choices)
    why = {index_of(choice, choices): rich(says) for choice, says in slips.items()}
    if right in why:
        raise ValueError(f"the right choice {choices[right]!r} is among the slips")
    data = {"choices": [rich(choice) for choice in choices], "answer": right, "slips": why}
    shown, body = f"{choices[right]}\n\n{solution}", listed(choices, "dpo-choices")
    return Question(name, "choice", question, data, body, hint, shown)


def _width(value: float) -> float:
    """How far from a value an answer may lie: a hundredth of it."""
    return abs(value) / 100 or 0.005


def _generic(answer: float) -> list[tuple[float, str]]:
    """Slips that any number allows."""
    found = [(-answer, "the size is right, the sign is not")] if answer else []
    if 0 < answer < 1:
        found.append((100 * answer, "write a percentage with its sign %, or as a fraction of 1"))
    return found
