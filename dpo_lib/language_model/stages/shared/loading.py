"""What every stage loads before it starts, and what a run is bound to by hashes.

Data before models: a row that is refused should not wait for gigabytes.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model._transformers import attention_of
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
    Sequences,
    TokenExample,
    data_hash,
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
from dpo_lib.language_model.models.adapters.layers import add_adapter, require_peft
from dpo_lib.language_model.models.devices import pick_device
from dpo_lib.language_model.models.hashes import state_hash, tokenizer_hash
from dpo_lib.language_model.models.hub import find_folder, is_adapter
from dpo_lib.language_model.models.judges import Score, named_judge
from dpo_lib.language_model.models.policies import (
    RANDOM,
    check_same_tokens,
    frozen_copy,
    load_policy,
    load_tokenizer,
)
from dpo_lib.language_model.scoring.layouts import layout_of
from dpo_lib.language_model.scoring.output_layer import linear_head
from dpo_lib.language_model.scoring.sequences import check_data
from dpo_lib.language_model.settings import (
    START,
    DrawnSettings,
    HeldOutSettings,
    JudgedSettings,
    KTOSettings,
    PreferenceSettings,
    Settings,
    TrainingError,
)
from dpo_lib.language_model.training.parallel.processes import processes


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


def load_first(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model that `settings.model` names, to be trained, on this process's device.

    With `settings.lora` it has a new adapter, and nothing else in it is trained.
    """
    processes()  # before any model: it picks the GPU
    base = "" if settings.lora is None else _base(settings.model)
    model = load_policy(settings.model, tokenizer, torch.float32, settings.seed)
    model = model.to(pick_device())
    return model if settings.lora is None else add_adapter(model, settings, base)


def _base(model: str) -> str:
    """What an adapter shall name as its base: where the model stands for anyone who loads both."""
    require_peft()
    if model in RANDOM:
        raise TrainingError(
            f"lora: no folder holds the random weights of {model} for an adapter to name; train "
            "them first (dpo sft), and give the model/ of that run as --model"
        )
    folder = find_folder(model)
    if is_adapter(folder):
        raise TrainingError(
            f"lora: {model} is an adapter itself; make a plain folder of it with dpo merge --model "
            f"{model} --out FOLDER, and give that as --model"
        )
    local = Path(model).expanduser().is_dir()
    return str(folder.resolve()) if local else model


def load_reference(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> PreTrainedModel:
    """The frozen model that `settings.reference` names, or a copy of the policy at step 0.

    A resume brings the policy's weights back later, so the copy is of step 0 there too. Of a
    policy with a new adapter it is the same frozen tensors without the adapter.
    """
    if settings.reference is None:
        return frozen_copy(policy)
    own = load_tokenizer(settings.reference, settings.data)
    check_same_tokens(f"reference {settings.reference}", own, tokenizer)
    model = load_policy(settings.reference, tokenizer, torch.float32, settings.seed)
    return model.requires_grad_(False).eval().to(policy.device)


def load_own_judge(
    settings: JudgedSettings, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> Score | None:
    """What scores the samples of a stage that itself needs no reward; None if nothing is named."""
    if settings.reward is None:
        return None
    return named_judge(settings.reward, tokenizer, policy.device).score


def check_comparable(
    policy: PreTrainedModel, reference: PreTrainedModel, sequences: Sequences
) -> None:
    """Raise unless both models can score the data, in one precision."""
    if reference.dtype != policy.dtype:
        raise TrainingError(f"the reference is {reference.dtype}, the policy {policy.dtype}")
    for model in (policy, reference):
        check_data(model, sequences)


def check_start(settings: Settings, *rewards: Tensor) -> None:
    """Raise unless a policy with a new adapter is its reference, to the bit: all rewards are 0."""
    if settings.lora is None or settings.reference not in START:
        return
    if worst := torch.stack([values.abs().sum() for values in rewards]).max().item():
        raise TrainingError(
            "step 0: with a new adapter the policy must be its reference, but rewards of a batch "
            f"add up to {worst:.3g}, not 0: either B of the adapter is not zero, or one side is "
            "another model"
        )


def fingerprint(
    items: list, tokenizer: PreTrainedTokenizerBase, **models: torch.nn.Module
) -> dict[str, str]:
    """What a run is bound to: its folder takes no other data, tokenizer or first weights."""
    hashes = {name: state_hash(model) for name, model in models.items()}
    return {"data": data_hash(items), "tokenizer": tokenizer_hash(tokenizer), **hashes}


def held_out_hash(items: Sequence) -> dict[str, str]:
    """The same for rows that are only measured on, where there are any."""
    return {"held-out data": data_hash(items)} if items else {}


def layout(model: PreTrainedModel) -> dict[str, str]:
    """A stage's `layout`, where completions of this model are scored."""
    one_by_one = "one sequence at a time (its logits are no multiple of its output layer)"
    said = one_by_one if linear_head(model) is None else str(layout_of(model))
    return {"attention": attention_of(model), "layout": said}
