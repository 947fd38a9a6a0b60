"""What every question is made of: words for all readers, and data for assets/questions.js."""

import json
import re
from collections.abc import Sequence

from dpo_lib.page.questions.words import folded, paragraphs, rich

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Question:
    """A question as a notebook or a page shows it.

    Args:
        name: its address and the place of the reader's answer, unique in the book.
        kind: number, choice, order, blanks, predict-number or predict-choice.
        question: its text.
        data: what assets/questions.js needs to judge an answer.
        body: HTML between question and hint: what there is to choose from.
        hint, answer: texts that are folded, or nothing.

    Raises:
        ValueError: if the name is not of small letters, digits and single hyphens.
    """

    def __init__(self, name, kind, question, data, body="", hint="", answer=""):
        if not NAME.fullmatch(name):
            raise ValueError(f"a question's name is like a-over-c, got {name!r}")
        self.name, self.kind, self.question, self.body = name, kind, question, body
        self.hint, self.answer = hint, answer
        self.data = {"name": name, "kind": kind, "question": rich(question)} | data
        if hint:
            self.data["hint"] = rich(hint)

    def __repr__(self) -> str:
        return f"Question: {self.question}"

    def _repr_html_(self) -> str:
        return (
            f'<div class="dpo-question" id="q-{self.name}" data-kind="{self.kind}">'
            f'<div class="dpo-asked" id="q-{self.name}-asked">{paragraphs(self.question)}</div>'
            f"{self.body}{folded('Hint', self.hint)}{folded('Answer', self.answer)}"
            f"{packed(self.data)}</div>"
        )


def packed(data: dict) -> str:
    """Data for a script of the page; no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def index_of(choice: int | str, choices: Sequence[str]) -> int:
    """The place of a choice that is given by its place or its text.

    Raises:
        ValueError: if it is none of them.
    """
    place = choices.index(choice) if choice in choices else choice
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        raise ValueError(f"{choice!r} is none of the choices {list(choices)}")
    return place


def distinct(texts: Sequence[str], what: str) -> list[str]:
    """The texts as a list.

    Raises:
        ValueError: if two are the same, or there are fewer than two.
    """
    if len(set(texts)) != len(texts) or len(texts) < 2:
        raise ValueError(f"{what} must be two or more, each of them once, got {list(texts)}")
    return list(texts)
