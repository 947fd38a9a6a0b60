"""The rows that a stage learns from and is measured on, read before any model is.

A row that is refused should not wait for gigabytes.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

from transformers import PreTrainedTokenizerBase

from dpo_lib.language_model.data.reading import (
    Report,
    held_out,
    read_examples,
    read_preferences,
    read_prompts,
)
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.tokens import (
    Pair,
    TokenExample,
    tokenize_examples,
    tokenize_preferences,
    tokenize_prompts,
)
from dpo_lib.language_model.data.unpaired import (
    TokenLabelled,
    counted,
    imbalance,
    read_labelled,
    require_both,
    tokenize_labelled,
)
from dpo_lib.language_model.settings import (
    DrawnSettings,
    HeldOutSettings,
    KTOSettings,
    PreferenceSettings,
    Settings,
)


def load_pairs(
    settings: PreferenceSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Pair], Report]:
    """The preference data that `settings.data` names, and what became of its rows."""
    rows, report = read_preferences(settings.data, tokenizer, settings.pairs_from)
    return tokenize_preferences(rows, tokenizer, settings.max_length, report), report


def load_labelled(
    settings: KTOSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TokenLabelled], Report]:
    """The labelled answers that `settings.data` names, and what became of their rows.

    Raises:
        DataError: as the readers, and where all labels are the same.
    """
    rows, report = read_labelled(settings.data, tokenizer)
    found = tokenize_labelled(rows, tokenizer, settings.max_length, report)
    require_both(settings.data, found)
    said = imbalance(found, settings.desirable_weight, settings.undesirable_weight)
    print(*filter(None, (counted(found), said)), sep="\n", file=sys.stderr)
    return found, report


def load_prompts(
    settings: DrawnSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[tuple[int, ...]], Report]:
    """The prompts that `settings.data` names, as text and as token ids that leave room to draw."""
    texts, report = read_prompts(settings.data, tokenizer)
    room = settings.max_length - settings.max_new_tokens
    return texts, tokenize_prompts(texts, tokenizer, room, report), report


def load_held_out(
    settings: PreferenceSettings, tokenizer: PreTrainedTokenizerBase, trained_on: list[Pair]
) -> list[Pair]:
    """The pairs that `settings.eval_data` names; none if it names nothing.

    Raises:
        DataError: as the readers, and where a held-out pair is trained on, whatever its order.
    """
    known = {*trained_on, *(pair.swapped() for pair in trained_on)}
    read = partial(read_preferences, pairs_from=settings.pairs_from)
    return _held_out(settings, tokenizer, known, read, tokenize_preferences, "preferences")


def load_held_out_labelled(
    settings: KTOSettings, tokenizer: PreTrainedTokenizerBase, trained_on: list[TokenLabelled]
) -> list[TokenLabelled]:
    """The labelled answers that `settings.eval_data` names; none if it names nothing.

    Raises:
        DataError: as the readers, where one is trained on, whatever its label, and where it is
            alone, so that no other answer can stand beside its prompt.
    """
    known = {*trained_on, *(answer.relabelled() for answer in trained_on)}
    found = _held_out(settings, tokenizer, known, read_labelled, tokenize_labelled, "preferences")
    if len(found) == 1:
        raise DataError(f"{settings.eval_data}: has one answer; KTO is measured on two or more")
    return found


def load_held_out_examples(
    settings: HeldOutSettings, tokenizer: PreTrainedTokenizerBase, trained_on: list[TokenExample]
) -> list[TokenExample]:
    """The demonstrations that `settings.eval_data` names, or the chosen sides of its pairs."""
    known, names = set(trained_on), ("sft", "preferences")
    return _held_out(settings, tokenizer, known, read_examples, tokenize_examples, *names)


def load_held_out_prompts(
    settings: HeldOutSettings,
    tokenizer: PreTrainedTokenizerBase,
    trained_on: list[tuple[int, ...]],
) -> list[tuple[int, ...]]:
    """The prompts that `settings.eval_data` names; errors are those of load_held_out."""
    known, names = set(trained_on), ("prompts", "preferences")
    return _held_out(settings, tokenizer, known, read_prompts, tokenize_prompts, *names)


def _held_out(
    settings: HeldOutSettings,
    tokenizer: PreTrainedTokenizerBase,
    known: set,
    read: Callable,
    tokenize: Callable,
    *names: str,
) -> list:
    """Read `eval_data`, say what became of its rows, refuse items that are trained on."""
    if settings.eval_data is None:
        return []
    path = held_out(settings.eval_data, *names)
    rows, report = read(path, tokenizer)
    items = tokenize(rows, tokenizer, settings.max_length, report)
    print(*(f"held out: {line}" for line in report.lines()), sep="\n", file=sys.stderr)
    if both := [number for number, item in enumerate(items, start=1) if item in known]:
        raise DataError(
            f"{path}: {len(both)} of {len(items)} held-out items are trained on too, the first of "
            f"them item {both[0]}; leave them out of one of the two files"
        )
    return items


def batches(items: Sequence, settings: Settings) -> list[Sequence]:
    """Held-out items in groups of the size of a micro-batch."""
    size = math.ceil(settings.batch_size / settings.accumulate)
    return [items[start : start + size] for start in range(0, len(items), size)]
