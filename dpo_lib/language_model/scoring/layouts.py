"""How the tokens of a batch are laid out for the model: one stream without padding, or rows.

A stream (`stream`) holds every token once; models that it does not fit get *padded rows*,
right-padded, with masks from lengths. Which of the two a model can do is measured once, on a few
tokens, and never assumed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.models.hub import quiet
from dpo_lib.language_model.models.lengths import check_rope
from dpo_lib.language_model.scoring.sequences import scoring, to_device, vocabulary_of
from dpo_lib.language_model.scoring.stream import NoStream, stream_hidden

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
        input_ids=to_device(ids, model.device),
        attention_mask=to_device(mask.long(), model.device),  # from lengths, never from ids == pad
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1)[to_device(torch.tensor(sources), model.device)]


def completion_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """The last hidden state from which each completion token is predicted.

    Returns:
        shape (completion tokens of all sequences, width), sequence after sequence.
    """
    check_rope(model, [len(prompt) + len(completion) for prompt, completion in sequences])
    return layout_of(model).hidden(model, sequences)


@dataclass(frozen=True)
class Layout:
    """How a model is given a batch."""

    hidden: Callable[[PreTrainedModel, Sequences], Tensor]
    why: str = ""  # what keeps a model from the stream

    def __str__(self) -> str:
        return f"padded rows ({self.why})" if self.why else "a stream without padding"


STREAMED = Layout(stream_hidden)
_layouts: WeakKeyDictionary[PreTrainedModel, Layout] = WeakKeyDictionary()


def layout_of(model: PreTrainedModel) -> Layout:
    """The fastest layout that gives this model's own hidden states, found at the first call.

    Raises:
        ValueError: if a batch of any layout changes what the model computes for a sequence.
    """
    # A checkpointed block runs again in the backward pass, when the model's own attention is back.
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return Layout(padded_hidden, "gradient checkpointing")
    if model not in _layouts:
        why = _not_streamed(model)
        _layouts[model] = Layout(padded_hidden, why) if why else STREAMED
        if why and not _leaves_alone(model, padded_hidden):
            del _layouts[model]
            name = type(model).__name__
            raise ValueError(f"{name}: a batch changes what the model computes for a sequence")
    return _layouts[model]


def _not_streamed(model: PreTrainedModel) -> str:
    """What keeps the model from the stream, in words; "" if nothing does."""
    if windows := [name for name in WINDOWS if getattr(model.config, name, None)]:
        return f"it has a {windows[0]}"
    kinds = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:  # convolutions, say, which would read across a border
        return f"it has layers of {min(kinds)}"
    if model.config.sub_configs:
        return "it is made of several models"
    try:
        fits = _leaves_alone(model, stream_hidden)
    except NoStream as reason:
        return str(reason)
    except TypeError as error:  # of any other argument, and of any other error, let it be heard
        unknown = re.search(r"unexpected keyword argument '(stream|position_ids)'", str(error))
        if unknown is None:
            raise
        return f"it takes no {unknown[1]}"
    return "" if fits else "a stream changes its hidden states"


@torch.no_grad()
def _leaves_alone(model: PreTrainedModel, hidden: Callable) -> bool:
    """Whether the layout leaves each of a few short sequences as it is alone.

    Its numbers must be the model's own, and must not move at all with the sequences beside it: a
    convolution that reads across the border is faint in a model with random weights, but there.
    """
    some = [tuple((start + 7 * i) % vocabulary_of(model) for i in range(3)) for start in range(6)]
    first, last = (some[0], some[1][:2]), (some[3][:2], some[1])
    together = [first, (some[0], some[2]), last]
    with scoring(model), quiet():  # an attention that cannot be set is a notice, and no error
        found = hidden(model, together)
        others = hidden(model, [(some[4], some[5][:2]), (some[4], some[3]), last])
        before = hidden(model, [*together[:2], (some[5][:2], some[4])])
        alone = torch.cat([_alone(model, *sequence) for sequence in together])
    if not alone.isfinite().all():
        raise ValueError(f"{type(model).__name__}: hidden states are not finite")
    # Some models normalise and rotate in float32 even when they are float64.
    eps = max(torch.finfo(dtype).eps for dtype in (alone.dtype, torch.float32))
    largest, rows = alone.abs().max(), len(last[1])
    moved = max((found[-rows:] - others[-rows:]).abs().max(), (found - before)[:-rows].abs().max())
    return bool((found - alone).abs().max() <= eps**0.5 * largest and moved <= 8 * eps * largest)


def _alone(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    ids = torch.tensor([prompt + completion], device=model.device)
    output = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    hidden = output.last_hidden_state
    return hidden[0, len(prompt) - 1 : -1]
