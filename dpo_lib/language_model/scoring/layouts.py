"""How the tokens of a batch are laid out for the model: one stream without padding, or rows.

A stream (`stream`) holds every token once; models that it does not fit get *padded rows*,
right-padded, with masks from lengths. Which of the two a model can do is measured once, on a few
tokens, and never assumed.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.models.hub import quiet
from dpo_lib.language_model.models.lengths import check_rope
from dpo_lib.language_model.scoring.sequences import scoring, vocabulary_of
from dpo_lib.language_model.scoring.stream import stream_hidden

WINDOWS = ("sliding_window", "attention_chunk_size")  # set through masks, which the stream skips


def padded_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """`completion_hidden` by right-padded rows: causal attention cannot look at the padding."""
    rows = [prompt + completion for prompt, completion in sequences]
    longest = max(map(len, rows))
    ids = torch.tensor([row + (0,) * (longest - len(row)) for row in rows])
    mask = torch.arange(longest) < torch.tensor([[len(row)] for row in rows])
    sources = [
        row * longest + position
        for row, (prompt, completion) in enumerate(sequences)
        for position in range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    ]
    output = model.base_model(
        input_ids=ids.to(model.device),
        attention_mask=mask.long().to(model.device),  # from lengths, never from ids == pad
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1)[torch.tensor(sources).to(model.device)]


def completion_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """The last hidden state from which each completion token is predicted.

    Returns:
        shape (completion tokens of all sequences, width), sequence after sequence.
    """
    check_rope(model, [len(prompt) + len(completion) for prompt, completion in sequences])
    layout = _layout(model)
    # A checkpointed block runs again in the backward pass, when the model's own attention is back.
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        layout = padded_hidden
    return layout(model, sequences)


_layouts: WeakKeyDictionary[PreTrainedModel, Callable] = WeakKeyDictionary()


def _layout(model: PreTrainedModel) -> Callable[[PreTrainedModel, Sequences], Tensor]:
    """The fastest layout that gives this model's own hidden states, found at the first call."""
    if model not in _layouts:
        candidates = [stream_hidden] if _may_stream(model) else []
        for layout in [*candidates, padded_hidden]:
            if _agrees(model, layout):
                _layouts[model] = layout
                break
        else:
            name = type(model).__name__
            raise ValueError(f"{name}: a batch changes what the model computes for a sequence")
    return _layouts[model]


def _may_stream(model: PreTrainedModel) -> bool:
    windowed = any(getattr(model.config, name, None) for name in WINDOWS)
    return not windowed and not model.config.sub_configs


@torch.no_grad()
def _agrees(model: PreTrainedModel, layout: Callable) -> bool:
    """Whether the layout leaves each of a few short sequences as it is alone."""
    some = [tuple((start + 7 * i) % vocabulary_of(model) for i in range(3)) for start in range(4)]
    sequences = [(some[0], some[1][:2]), (some[0], some[2]), (some[3][:2], some[1])]
    with scoring(model), quiet():  # an attention that cannot be set is a notice, and no error
        try:
            together = layout(model, sequences)
        except TypeError:  # an argument that this architecture or the stream does not have
            return False
        alone = torch.cat([_alone(model, *sequence) for sequence in sequences])
    if not alone.isfinite().all():
        raise ValueError(f"{type(model).__name__}: hidden states are not finite")
    # Some models normalise and rotate in float32 even when they are float64.
    tolerance = max(torch.finfo(dtype).eps for dtype in (alone.dtype, torch.float32)) ** 0.5
    return bool((together - alone).abs().max() <= tolerance * alone.abs().max())


def _alone(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    ids = torch.tensor([prompt + completion], device=model.device)
    output = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    hidden = output.last_hidden_state
    return hidden[0, len(prompt) - 1 : -1]
