"""Several answers to one prompt, with scores or ranks, made into pairs if that is asked for.

    {"prompt", "responses": ["a", "b"], "scores": [4, 7.5]}
    {"prompt", "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]}

A larger score is better, and rank 1 is the best; no pair is made of two answers with one score.
Which of the others become pairs matters. If answers are ranked by Plackett-Luce, all pairs together
have Bradley-Terry's probabilities, equation (1), and so their loss its minimum at the true rewards.
Best and worst, or neighbours, are picked by how the ranking came out, and those have not (Azari
Soufiani, Chen, Parkes and Xia 2013, "Generalized Method-of-Moments for Rank Aggregation").
"""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

from dpo_lib.language_model.data.rows import Malformed, kind
from dpo_lib.language_model.data.shapes.columns import Fields, Useless

LISTS = ("responses", "completions", "answers", "generations")
TEXTS = ("response", "completion", "answer", "generation", "text")
NUMBERS = ("score", "rating", "overall_score", "rank")  # of an answer; of the list with an s too
TIED = "no answer is better than another"
UNSCORED = "an answer has no score"
# Of scores, from the best to the worst and each once, those whose answers become pairs.
CHOICES = {
    "all": lambda levels: combinations(levels, 2),
    "best_and_worst": lambda levels: zip(levels[:1], levels[1:][-1:], strict=False),
    "adjacent": pairwise,
}


def is_ranking(row: dict) -> bool:
    """Whether a row has a list of answers, and no pair."""
    lists = any(isinstance(row.get(name), list) for name in LISTS)
    return lists and row.get("chosen") is None and row.get("rejected") is None


def pairs(row: Fields, pairs_from: str) -> list[Fields]:
    """A preference row for each pair of answers: chosen, rejected and what the row has besides.

    Args:
        row: a ranking.
        pairs_from: as `choose`.

    Raises:
        Malformed: answers without score or rank, or what is wrong with them.
        Useless: no pair can be made, or an answer was not scored.
    """
    name = _only(row, LISTS)
    answers = [_answer(a, f"{name} {n}", row) for n, a in enumerate(row.row[name], start=1)]
    if len(answers) < 2:
        raise Useless(TIED)
    scores = _scores(answers, name, row)
    rest = {other: value for other, value in row.row.items() if other not in row.used}
    found = []
    for better, worse in choose(scores, pairs_from):
        sides = {"chosen": answers[better][0], "rejected": answers[worse][0]}
        found.append(Fields(rest | sides))
        found[-1].ignored += row.ignored
    if not found:
        raise Useless(TIED)
    return found


def choose(scores: Sequence[float], pairs_from: str) -> list[tuple[int, int]]:
    """Places (better, worse) of the pairs that are made of answers with these scores.

    Args:
        scores: of each answer, the larger the better.
        pairs_from: "all" scores that differ, "best_and_worst" of them, or "adjacent" ones.

    Raises:
        ValueError: pairs_from is none of these.
    """
    if pairs_from not in CHOICES:
        raise ValueError(f"pairs_from must be one of {', '.join(CHOICES)}, got {pairs_from!r}")
    at: dict[float, list[int]] = {}
    for place, score in enumerate(scores):
        at.setdefault(score, []).append(place)
    levels = CHOICES[pairs_from](sorted(at, reverse=True))
    return [(better, worse) for high, low in levels for better in at[high] for worse in at[low]]


def _only(fields: Fields, names: Sequence[str]) -> str | None:
    """The one of these fields that there is, used from now on."""
    found = [name for name in names if fields.has(name)]
    if len(found) > 1:
        raise Malformed(f"has {found[0]} and {found[1]}; leave one of them out")
    fields.used.update(found)
    return found[0] if found else None


def _answer(answer: object, where: str, row: Fields) -> tuple[object, str | None, object]:
    """Its text, and the name and value of its score, if it has one."""
    if isinstance(answer, str | list):  # a list is of messages
        return answer, None, None
    if not isinstance(answer, dict):
        raise Malformed(f"{where} must be text or an object, got {kind(answer)}")
    fields = Fields(answer)
    try:
        named, scored = _only(fields, TEXTS), _only(fields, NUMBERS)
        if named is None:
            raise Malformed(f"has none of {', '.join(TEXTS)}")
        fields.settle()
    except Malformed as reason:
        raise Malformed(f"{where}: {reason}") from None
    row.ignored += [f"{what} of an answer" for what in fields.ignored]
    scored = scored or next((name for name in NUMBERS if name in answer), None)  # it is null
    return answer[named], scored, answer.get(scored)


def _scores(answers: list[tuple], name: str, row: Fields) -> list[float]:
    """A number for each answer, the larger the better."""
    scored, values = {found for _, found, _ in answers if found}, [value for *_, value in answers]
    if beside := _only(row, [n for one in NUMBERS for n in (one, f"{one}s")]):
        scored.add(beside)
        values = row.row[beside]
        if not isinstance(values, list) or len(values) != len(answers):
            raise Malformed(f"{beside} must be a list of {len(answers)} numbers, as {name} are")
    if not scored:
        raise Malformed(
            f"{name} need scores, the larger the better, or ranks, of which 1 is the best; a field "
            "ranking does not say which of the two it has"
        )
    if len(scored) > 1:
        raise Malformed(f"{name} have {' and '.join(sorted(scored))}; leave one of them out")
    (scale,) = scored
    sign = -1 if scale in ("rank", "ranks") else 1
    return [sign * _number(value, scale) for value in values]


def _number(value: object, name: str) -> float:
    if value is None or value != value:  # a table has NaN where a number is missing
        raise Useless(UNSCORED)
    infinite = value in (math.inf, -math.inf)
    if isinstance(value, bool) or not isinstance(value, int | float) or infinite:
        raise Malformed(f"{name} must be a number, got {str(value)[:40]!r}")
    return value
