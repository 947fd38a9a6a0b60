"""How the tokens of a batch are laid out for the model: one stream without padding, or rows.

A *stream* is one row that holds every token of the batch once. Sequences that follow each other
and have the same prompt share it: [prompt | chosen | rejected]. Every completion attends to its
prompt and to itself only, and its positions continue the prompt's, so each token sees exactly
what it would see alone. The stream runs any transformers model whose attention goes through the
public `AttentionInterface`; other models get *padded rows*, right-padded, with masks from lengths.
Which of the two a model can do is measured once, on a few tokens, and never assumed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from dpo_lib.language_model._hub import quiet
from dpo_lib.language_model._transformers import attention_of
from dpo_lib.language_model.models import check_rope

STREAM = "dpo_lib_stream"  # our name among transformers' attention functions
# What an attention function may be asked for beyond a causal softmax; the stream does none of it.
BEYOND_CAUSAL = ("sliding_window", "softcap", "s_aux", "position_bias")
WINDOWS = ("sliding_window", "attention_chunk_size")  # set through masks, which the stream skips

Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]  # (prompt ids, completion ids)


@dataclass(frozen=True)
class Stream:
    """One row that holds every token of a batch once."""

    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens), from 0 in every sequence
    sources: Tensor  # (completion tokens,): where in the stream each of them is predicted
    groups: list[tuple[int, list[int]]]  # length of a prompt, lengths of its completions
    masks: list[list[Tensor]]  # for each completion but a group's first: (its length, keys)

    @property
    def pieces(self) -> list[int]:
        """Lengths of the prompts and completions as they follow each other."""
        return [piece for prompt, completions in self.groups for piece in (prompt, *completions)]


def make_stream(sequences: Sequences, device: torch.device | str) -> Stream:
    """Lay the sequences out one after the other, a repeated prompt only once."""
    ids, positions, sources, groups = [], [], [], []
    previous, start = None, 0
    for prompt, completion in sequences:
        if prompt != previous:
            previous, start = prompt, len(ids)
            ids += prompt
            positions += range(len(prompt))
            groups.append((len(prompt), []))
        first = len(ids)
        ids += completion
        positions += range(len(prompt), len(prompt) + len(completion))
        # The prompt's last token predicts the completion's first one, wherever that stands.
        sources += [start + len(prompt) - 1, *range(first, first + len(completion) - 1)]
        groups[-1][1].append(len(completion))
    masks = [
        [_causal_after(prompt, length, device) for length in completions[1:]]
        for prompt, completions in groups
    ]
    ids, positions, sources = (torch.tensor(x).to(device) for x in (ids, positions, sources))
    return Stream(ids[None], positions[None], sources, groups, masks)


def _causal_after(prompt: int, length: int, device: torch.device | str) -> Tensor:
    """Which keys of [prompt | completion] each token of the completion sees."""
    return torch.ones(length, prompt + length, dtype=torch.bool, device=device).tril(prompt)


def stream_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    stream: Stream | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **asked,
) -> tuple[Tensor, None]:
    """Attention inside each sequence of the stream; query (1, heads, tokens, width).

    Source: transformers' AttentionInterface; the result is (1, tokens, heads, width).
    """
    beyond = [name for name in BEYOND_CAUSAL if asked.get(name) is not None]
    if stream is None or beyond:
        raise TypeError(f"the stream has no {beyond or 'layout in this model'}")
    if dropout:
        raise ValueError(f"attention dropout must be 0 while scoring, got {dropout}")
    if (repeats := query.shape[1] // key.shape[1]) > 1:  # grouped-query attention
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    # On CUDA one call of torch.nn.attention.varlen would replace this loop.
    parts = []
    pieces = zip(*(iter(x.split(stream.pieces, dim=2)) for x in (query, key, value)), strict=True)
    for (_, completions), masks in zip(stream.groups, stream.masks, strict=True):
        group = list(islice(pieces, 1 + len(completions)))
        parts += _group_attention(*group, masks=masks, scaling=scaling)
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _group_attention(
    prompt: tuple[Tensor, Tensor, Tensor],
    first: tuple[Tensor, Tensor, Tensor],
    *others: tuple[Tensor, Tensor, Tensor],
    masks: list[Tensor],
    scaling: float | None,
) -> Iterator[Tensor]:
    """[prompt | first completion] is causal; each later one attends to [prompt | itself].

    Each argument is the query, key and value of its tokens.
    """
    whole = [torch.cat(x, dim=2) for x in zip(prompt, first, strict=True)]
    yield F.scaled_dot_product_attention(*whole, is_causal=True, scale=scaling)
    for (query, *own), mask in zip(others, masks, strict=True):
        key, value = (torch.cat(x, dim=2) for x in zip(prompt[1:], own, strict=True))
        yield F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


AttentionInterface.register(STREAM, stream_attention)


@contextmanager
def _attending(model: PreTrainedModel, name: str):
    """The model with another attention function; its own comes back whatever happens."""
    own = attention_of(model)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def stream_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """`completion_hidden` by one stream without padding."""
    stream = make_stream(sequences, model.device)
    with _attending(model, STREAM):
        output = model.base_model(
            input_ids=stream.ids,
            position_ids=stream.positions,
            attention_mask=torch.ones_like(stream.ids),  # nothing here is padding
            use_cache=False,
            stream=stream,
        )
    return output.last_hidden_state[0, stream.sources]


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
    some = [tuple((start + 7 * i) % _vocabulary(model) for i in range(3)) for start in range(4)]
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


def _vocabulary(model: PreTrainedModel) -> int:
    return model.get_input_embeddings().weight.shape[0]


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
    vocabulary = _vocabulary(model)
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
