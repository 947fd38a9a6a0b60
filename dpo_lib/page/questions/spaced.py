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


# Which chapter asks what: (chapter, question). Those of the fast path ask of pages on it, since
# its readers have met no other.
ASKED = {
    2: [(1, 0), (0, 0)],
    3: [(1, 1), (0, 1)],
    4: [(2, 0), (2, 1)],
    5: [(3, 0), (1, 2)],
    6: [(5, 0), (3, 1)],
    7: [(6, 0), (5, 1)],
    8: [(7, 0), (4, 0)],
    9: [(8, 0), (4, 1)],
} | {chapter: [(chapter - 1, 0), (chapter - 4, 1)] for chapter in range(10, 20)}


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
    """Ask again what earlier chapters have answered, one question of late and one of long ago.

    Each question of the bank is asked at one place only.

    Args:
        chapter: the name of its file, as in "05_optimal_policy".

    Returns:
        an object that a notebook and the book show.

    Raises:
        ValueError: for a page that asks nothing.
    """
    number = int(chapter[:2]) if chapter[:2].isdigit() else 0
    if number not in ASKED:
        raise ValueError(f"{chapter!r} asks nothing: chapters 02 to 19 do")
    names = sorted(BANK)
    return Recall([BANK[names[earlier]]()[which] for earlier, which in ASKED[number]])
