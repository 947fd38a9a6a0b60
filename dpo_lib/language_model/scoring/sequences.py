"""What can be scored by a model, and what is refused before a model sees it."""

from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.models.lengths import check_rope


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many words the model's embeddings have."""
    return model.get_input_embeddings().weight.shape[0]


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU, copied; a GPU takes it while it computes, and nobody waits."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def scoring(model: PreTrainedModel):
    """The model in eval mode and full precision for a moment; every module's mode comes back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def check_sequences(model: PreTrainedModel, sequences: Sequences) -> Sequences:
    """The sequences as tuples; one line of refusal for any that cannot be scored."""
    if not sequences:
        raise ValueError("there are no sequences to score")
    sequences = [(tuple(prompt), tuple(completion)) for prompt, completion in sequences]
    vocabulary = vocabulary_of(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    for row, (prompt, completion) in enumerate(sequences):
        if not prompt:
            raise ValueError(f"sequence {row}: the prompt is empty, so nothing predicts a token")
        if not completion:
            raise ValueError(f"sequence {row}: the completion is empty, there is nothing to score")
        ids = prompt + completion
        if limit and len(ids) > limit:
            raise ValueError(f"sequence {row}: {len(ids)} tokens, the model has {limit} positions")
        if min(ids) < 0 or max(ids) >= vocabulary:
            strange = min(ids) if min(ids) < 0 else max(ids)
            raise ValueError(f"sequence {row}: token id {strange} is not in [0, {vocabulary})")
    return sequences


def check_data(model: PreTrainedModel, sequences: Sequences) -> None:
    """Refuse before a run what one of its batches would be refused for."""
    lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and max(lengths, default=0) > limit:
        raise ValueError(
            f"{max(lengths)} tokens in a sequence, the model has {limit} positions: "
            f"set max_length to {limit} at most"
        )
    check_sequences(model, sequences)
    check_rope(model, lengths)
