"""A *stream*: one row that holds every token of a batch once, without padding.

Sequences that follow each other and have the same prompt share it: [prompt | chosen | rejected].
Every completion attends to its prompt and to itself only, and its positions continue the
prompt's, so each token sees exactly what it would see alone. The stream runs any transformers
model whose attention goes through the public `AttentionInterface`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from dpo_lib.language_model._transformers import attention_of
from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.scoring.flex import block_mask, flex, is_one_call
from dpo_lib.language_model.scoring.sequences import to_device

STREAM = "dpo_lib_stream"  # our name among transformers' attention functions
# What an attention function may be asked for beyond a causal softmax; the stream does none of it.
BEYOND_CAUSAL = ("sliding_window", "softcap", "s_aux", "position_bias")


class NoStream(Exception):
    """Why a model cannot be given a stream."""


@dataclass(frozen=True)
class Stream:
    """One row that holds every token of a batch once."""

    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens), from 0 in every sequence
    sources: Tensor  # (completion tokens,): where in the stream each of them is predicted
    groups: list[tuple[int, list[int]]]  # length of a prompt, lengths of its completions

    @property
    def pieces(self) -> list[int]:
        """Lengths of the prompts and completions as they follow each other."""
        return [piece for prompt, completions in self.groups for piece in (prompt, *completions)]

    # Each of the two is made once for all layers, and only where it is used.
    @cached_property
    def masks(self) -> list[list[Tensor]]:
        """Keys that each completion but a group's first one sees, (its length, keys)."""
        return [
            [_causal_after(prompt, length, self.ids.device) for length in completions[1:]]
            for prompt, completions in self.groups
        ]

    @cached_property
    def block_mask(self):
        """Which of the stream's tokens each token sees, for all layers and groups."""
        return block_mask(self.groups, self.ids.device)


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
    ids, positions, sources = (
        to_device(torch.tensor(x), device) for x in (ids, positions, sources)
    )
    return Stream(ids[None], positions[None], sources, groups)


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
        raise NoStream(f"its attention asks for {beyond[0]}" if beyond else "it passes nothing on")
    if dropout:
        raise ValueError(f"attention dropout must be 0 while scoring, got {dropout}")
    if is_one_call(query, key, value):
        return flex(query, key, value, stream.block_mask, scaling).transpose(1, 2), None
    if (repeats := query.shape[1] // key.shape[1]) > 1:  # grouped-query attention
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
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
