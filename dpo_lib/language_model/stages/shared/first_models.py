"""The models that a stage starts from, and what a run is bound to by hashes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model._transformers import attention_of
from dpo_lib.language_model.data.tokens import (
    Sequences,
    data_hash,
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
    JudgedSettings,
    Settings,
    TrainingError,
)
from dpo_lib.language_model.training.parallel.processes import processes


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
