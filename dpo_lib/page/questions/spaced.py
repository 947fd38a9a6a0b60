"""Questions from earlier chapters at the head of a later one: practice that is spaced."""

from dpo_lib.page.questions.bank import (
    chapters_00_to_04,
    chapters_05_to_09,
    chapters_10_to_14,
    chapters_15_to_19,
)
from dpo_lib.page.questions.question import Question

BANK = (
    chapters_00_to_04.ROWS | chapters_05_to_09.ROWS
    | chapters_10_to_14.ROWS | chapters_15_to_19.ROWS
)  # fmt: skip


class Recall:
    """Some questions under one heading."""

    def __init__(self, questions: list[Question]):
        self.questions = questions

    def __repr__(self) -> str:
        return "\n".join(["From earlier chapters", *map(repr, self.questions)])

    def _repr_html_(self) -> str:
        shown = "".join(question._repr_html_() for question in self.questions)
        return f'<p class="dpo-recall">From earlier chapters</p>{shown}'


def recall(chapter: str) -> Recall:
    """Ask again what earlier chapters have answered: one question from the chapter before, one
    from three chapters before. Each question of the bank is asked at one place only.

    Args:
        chapter: the name of its file, as in "05_optimal_policy".

    Returns:
        an object that a notebook and the book show; for the first two chapters one question.

    Raises:
        ValueError: if no chapter comes before.
    """
    number = int(chapter[:2]) if chapter[:2].isdigit() else 0
    names = sorted(BANK)
    wanted = [(number - 1, 0), (number - 3, 1)]
    asked = [BANK[names[n]]()[which] for n, which in wanted if 0 <= n < len(names)]
    if not asked:
        raise ValueError(f"no chapter comes before {chapter!r}")
    return Recall(asked)
