"""Answers that stand alone, each labelled as desirable or not: what KTO is trained on.

A row has prompt, completion and label, in every shape that a demonstration can have; or it is a
pair, whose chosen answer is desirable and whose rejected one is not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dpo_lib.language_model.data.reading import Report, check_prompts, read_each
from dpo_lib.language_model.data.rows import DataError, Malformed
from dpo_lib.language_model.data.shapes import texts
from dpo_lib.language_model.data.shapes.columns import Fields, Useless
from dpo_lib.language_model.data.shapes.rankings import is_ranking
from dpo_lib.language_model.data.tokens import Sequences, kept_examples

SHAPES = "KTO learns from prompt, completion and label, or from prompt, chosen and rejected"

ADVISED = (1.0, 4 / 3)  # lambda_D n_D / (lambda_U n_U), equation (8) of arXiv 2402.01306


@dataclass(frozen=True)
class Labelled:
    """An answer and whether it is a good one, as text."""

    prompt: str
    completion: str
    label: bool
    place: str  # "file:line"


@dataclass(frozen=True)
class TokenLabelled:
    """The same as token ids; the completion ends in EOS unless it was cut."""

    prompt: tuple[int, ...]  # never empty
    completion: tuple[int, ...]
    label: bool

    def relabelled(self) -> "TokenLabelled":
        """The answer with the other label."""
        return TokenLabelled(self.prompt, self.completion, not self.label)


def read_labelled(path: str | Path, tokenizer=None) -> tuple[list[Labelled], Report]:
    """Labelled answers of a file, a folder's preferences.jsonl[.gz], or "hub:NAME[:SPLIT]".

    Arguments and errors are those of read_preferences. The report counts rows; a pair is one
    row that gives two answers.
    """

    def convert(row: Fields, place: str) -> list[Labelled]:
        return [Labelled(*answer, place) for answer in answers(row, tokenizer)]

    rows, report = read_each(path, "preferences", convert)
    report.parts = "answers"
    report.pairs = {row[0].place: len(row) for row in rows if len(row) > 1}
    check_prompts(path, [(row[0].prompt, row[0].place) for row in rows], report)
    found, seen = [answer for row in rows for answer in row], set()
    for one in found:
        if (one.prompt, one.completion, one.label) in seen:
            report.note("repeats an earlier row", one.place)
        if (one.prompt, one.completion, not one.label) in seen:
            report.note("contradicts an earlier row", one.place)
        seen.add((one.prompt, one.completion, one.label))
    return found, report


def answers(row: Fields, tokenizer=None) -> list[tuple[str, str, bool]]:
    """(prompt, completion, label) of a row, two of them if it is a pair.

    Raises:
        Malformed: it is neither, or a field that changes its meaning would be ignored.
        Useless: an answer is empty, or the two of a pair are no pair.
    """
    if is_ranking(row.row):
        raise Malformed("a list of answers has no labels; write each as a row of its own with one")
    if row.has("chosen") or row.has("rejected"):
        prompt, chosen, rejected = texts.preference(row, tokenizer)
        if chosen == rejected:
            raise Useless("chosen and rejected are identical")
        return [(prompt, chosen, True), (prompt, rejected, False)]
    if not row.has("label"):
        raise Malformed(f"has no field 'label'; {SHAPES}")
    if not (row.names("completion") or row.names("messages")):
        raise Malformed(f"has a label and no completion; {SHAPES}")
    label = row.verdict()
    return [(*texts.example(row, tokenizer, bad_too=True), label)]


def tokenize_labelled(
    rows: Sequence[Labelled], tokenizer, max_length: int, report: Report
) -> list[TokenLabelled]:
    """Token ids of each answer; rules and errors are those of tokenize_preferences."""
    kept = kept_examples(rows, tokenizer, max_length, report)
    return [TokenLabelled(ids.prompt, ids.completion, row.label) for row, ids in kept]


def counted(found: Sequence[Labelled | TokenLabelled]) -> str:
    """How many answers have which label, for a person."""
    good = sum(one.label for one in found)
    return f"{good:,} desirable and {len(found) - good:,} undesirable answers"


def require_both(path: str | Path, found: Sequence[Labelled | TokenLabelled]) -> None:
    """Raise DataError if all labels are the same: nothing then tells good answers from bad."""
    if len({one.label for one in found}) < 2:
        raise DataError(
            f"{path}: has {counted(found)}, and KTO needs both; dpo sft learns from good ones alone"
        )


def imbalance(
    found: Sequence[TokenLabelled], desirable_weight: float, undesirable_weight: float
) -> str | None:
    """A line where the two sides weigh otherwise than the paper advises, with what would do."""
    good = sum(one.label for one in found)
    bad = len(found) - good
    times = desirable_weight * good / (undesirable_weight * bad)
    low, high = ADVISED
    if 0.99 * low <= times <= 1.01 * high:  # the weights advised here are rounded
        return None
    return (
        f"desirable answers weigh {times:.3g} times the others, at desirable_weight "
        f"{desirable_weight:g} and undesirable_weight {undesirable_weight:g}; the paper advises "
        f"{low:g} to {high:.3g} times: --desirable-weight {desirable_weight * low / times:.3g} to "
        f"{desirable_weight * high / times:.3g}, or --undesirable-weight "
        f"{undesirable_weight * times / high:.3g} to {undesirable_weight * times / low:.3g}"
    )


class Answers:
    """Labelled answers, and beside each prompt another's answer."""

    def __init__(self, answers: Sequence[TokenLabelled], max_length: int):
        self.own: Sequences = [(answer.prompt, answer.completion) for answer in answers]
        self.others = mismatched(answers, max_length)
        self.all = self.own + self.others
        self.labels = torch.tensor([answer.label for answer in answers], dtype=torch.bool)

    def tokens(self, indices: Sequence[int]) -> int:
        """Tokens of these prompts and answers."""
        return sum(len(ids) for index in indices for ids in self.own[index])


def mismatched(items: Sequence[TokenLabelled], max_length: int) -> Sequences:
    """Each item's prompt with the completion of another item, for KTO's reference point.

    Every completion is used once, and none beside its own prompt where that can be avoided, that
    is where no prompt has more than half of the items: put items of one prompt together and take
    the completion as many places back as the commonest prompt has items. Where every prompt is
    another one, that is the item before. Which it is follows from the data alone.

    A completion that does not fit beside the prompt loses its right end.
    """
    first: dict[tuple[int, ...], int] = {}
    for place, item in enumerate(items):
        first.setdefault(item.prompt, place)
    together = sorted(range(len(items)), key=lambda n: first[items[n].prompt])
    commonest = max(Counter(item.prompt for item in items).values(), default=0)
    back = min(commonest, len(items) // 2)  # half way round, where it cannot be avoided
    found: Sequences = [((), ())] * len(items)
    for place, n in enumerate(together):
        prompt, other = items[n].prompt, items[together[place - back]]
        found[n] = (prompt, other.completion[: max_length - len(prompt)])
    return found
