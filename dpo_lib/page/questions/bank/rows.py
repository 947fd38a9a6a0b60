"""What a row of the bank is: a question, and the chapter and section where it is answered."""

from collections.abc import Mapping

from dpo_lib.page.questions.answers import ask
from dpo_lib.page.questions.question import Question
from dpo_lib.page.questions.words import shuffled


def choice(
    name: str, place: str, question: str, right: str, wrong: Mapping[str, str], why: str
) -> Question:
    """A question with choices, in an order that depends on its name.

    Args:
        name: as for `ask`.
        place: chapter and section, as in "07_dpo_loss#the-derivation".
        question: its text.
        right: the right choice.
        wrong: the other choices -> why each is wrong.
        why: the right one is right.
    """
    choices = shuffled([right, *wrong], name)
    return ask(name, question, right, wrong, solution=told(why, place), choices=choices)


def number(
    name: str, place: str, question: str, right, slips: Mapping[str, object], why: str, unit=""
) -> Question:
    """A question for a number, which the caller computes; the other arguments as in `choice`."""
    return ask(name, question, right, slips, solution=told(why, place), unit=unit)


def told(why: str, place: str) -> str:
    """The reason, with a link to where it is given in full."""
    page, _, section = place.partition("#")
    link = f"{page}.ipynb" + (f"#{section}" if section else "")
    return f"{why} It stands in [Chapter {int(page[:2])}]({link})."
