"""Completions drawn from a language model, one at a time or many, with the same result.

Each prompt has a row of uniform numbers of its own, one for each token that may come. A token is
where the cumulative distribution passes its number, so a completion depends on the prompt, its
row and the model, and not on the prompts beside it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib._checks import check_positive
from dpo_lib.language_model._transformers import cache_of
from dpo_lib.language_model.scoring.sequences import scoring

Tokens = tuple[int, ...]


@torch.no_grad()
def generate(
    model,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    eos: int | None = None,
    batch_size: int = 64,
) -> list[Tokens]:
    """Draw one completion for each prompt, in the order of the prompts.

    The numbers that decide are drawn before the first token, (prompts, max_new_tokens) of them,
    so batch_size changes the speed only. One limit: logits of another batch differ in their last
    bits, and a draw on the very edge between two tokens can fall to the other, in float32 with a
    probability of about 3e-5 for each token (1,024 tokens to choose from), in float64 of 1e-13.

    Args:
        model: a causal language model of transformers whose cache works for padded rows, which
            is measured at the first call. Dropout is off while it draws; its mode is restored.
        prompts: token ids. An empty prompt starts from `eos`, which GPT-2 was trained to read
            as the border before a new text; score such a completion with the prompt (eos,).
        max_new_tokens: at least 1.
        temperature: divides the logits; 0 takes the most likely token (the first, of equals) and
            leaves the generator alone. For log-probabilities of what was drawn, give the same
            temperature to `scoring.token_logps`.
        generator: where the uniform numbers come from; on the CPU they are the same everywhere.
        eos: a completion ends with it, included. None: all have max_new_tokens tokens.

    Returns:
        token ids; a completion without `eos` at its end was cut at max_new_tokens.

    Raises:
        ValueError: for a prompt that does not fit the model's positions or is empty without an
            eos (prompts count from 1), for settings out of range, for a model without such a
            cache, and when the model's logits are not finite.
    """
    check(model, prompts, max_new_tokens, temperature, eos)
    check_positive("batch_size", batch_size)
    starts = [tuple(prompt) or (eos,) for prompt in prompts]
    uniforms = torch.zeros(len(starts), max_new_tokens, dtype=torch.float64)
    if temperature > 0:
        device = generator.device
        uniforms.copy_(
            torch.rand(uniforms.shape, generator=generator, dtype=torch.float64, device=device)
        )
    # Prompts of similar length share a batch: less padding, and the results go back in order.
    order = sorted(range(len(starts)), key=lambda place: len(starts[place]))
    completions: list[Tokens] = [()] * len(starts)
    was_training = model.training
    model.eval()
    try:
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            batch = [starts[place] for place in places]
            pick = partial(_pick, uniforms[places], temperature)
            drawn = _generate_batch(model, batch, max_new_tokens, pick, eos, _masked(model))
            for place, completion in zip(places, drawn, strict=True):
                completions[place] = completion
    finally:
        model.train(was_training)
    return completions


def choose(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """The token of each row where softmax(logits / temperature) accumulates past its uniform.

    Args:
        logits: shape (rows, vocabulary); -inf is never drawn.
        uniforms: shape (rows,), in [0, 1), float64.
        temperature: at least 0; 0 is the largest logit.

    Returns:
        token ids, shape (rows,).
    """
    top = logits.amax(-1, keepdim=True)
    if not torch.isfinite(top).all():
        row = int((~torch.isfinite(top)).nonzero()[0, 0])
        raise ValueError(f"the model's logits must be finite, got {top[row].item()} in row {row}")
    if temperature == 0:
        return logits.argmax(-1)
    if logits.device.type == "mps":  # has no float64
        return choose(logits.cpu(), uniforms, temperature).to(logits.device)
    weights = ((logits.double() - top.double()) / temperature).exp()  # softmax times a constant
    cumulative = weights.cumsum(-1)
    target = uniforms.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    # right=True: the first place *beyond* the target, so that a token of weight 0 is passed over.
    chosen = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return chosen.clamp(max=logits.shape[-1] - 1)  # the target can round up to the whole sum


def _pick(uniforms: Tensor, temperature: float, logits: Tensor, rows: Tensor, step: int) -> Tensor:
    return choose(logits, uniforms[rows, step], temperature)


def _generate_batch(
    model: PreTrainedModel,
    prompts: list[Tokens],
    max_new_tokens: int,
    pick: Callable[[Tensor, Tensor, int], Tensor],
    eos: int | None,
    masked: bool,
) -> list[Tokens]:
    """Completions of prompts that fit in one batch; a row leaves the batch once it has ended.

    Args:
        pick: from logits (rows, vocabulary), the rows' numbers and the step to tokens (rows,).
        masked: whether the mask is given beside a cache too.
    """
    ids, mask = (part.to(model.device) for part in _left_padded(prompts))
    # Learned positions (GPT-2) count real tokens: the padding on the left must not move them.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    rows = torch.arange(len(prompts))  # the prompts that are still being written
    completions: list[list[int]] = [[] for _ in prompts]
    cache = {}
    for step in range(max_new_tokens):
        output = model(
            input_ids=ids,
            attention_mask=mask if masked or not cache else None,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **cache,
        )
        ((name, past),) = cache_of(output).items()
        cache = {name: past}
        tokens = pick(output.logits[:, -1], rows, step)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            completions[row].append(token)
        ids, positions = tokens.unsqueeze(-1), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        if eos is None or not (ended := tokens == eos).any():
            continue
        alive = (~ended).nonzero().squeeze(-1)
        if len(alive) == 0:
            break
        past.reorder_cache(alive)  # batch_select_indices leaves recurrent states as they are
        ids, positions, mask = (part[alive] for part in (ids, positions, mask))
        rows = rows[alive.cpu()]
    return [tuple(completion) for completion in completions]


_masks: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _masked(model: PreTrainedModel) -> bool:
    """Whether the model wants the mask beside its cache, measured at the first call.

    Attention needs it, to pass over the padding. A recurrent state has passed over it already:
    Mamba would multiply its one new token by the mask of all tokens, without an error.
    """
    if model not in _masks:
        fitting = [masked for masked in (True, False) if _agrees(model, masked)]
        if not fitting:
            raise ValueError(
                f"{type(model).__name__} cannot be sampled from: with its cache a prompt beside a "
                "longer one does not go on as it would alone"
            )
        _masks[model] = fitting[0]
    return _masks[model]


def _agrees(model: PreTrainedModel, masked: bool) -> bool:
    """Whether a prompt beside a longer one, which ends first, goes on as it would alone."""
    one, two = 1, min(2, model.get_input_embeddings().weight.shape[0] - 1)
    continuations, seen = [(one, 0), (two, one, two)], []

    def pick(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        seen.append(logits[-1])  # of the short one, which stays
        return torch.tensor([continuations[row][step] for row in rows], device=logits.device)

    with scoring(model):
        try:
            _generate_batch(model, [(two, one, two), (one,)], 3, pick, 0, masked)
        except Exception:  # of many kinds: whatever a model or its cache cannot do
            return False
        ids = torch.tensor([(one, two, one)], device=model.device)
        mask = torch.ones_like(ids)
        alone = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
    if not alone.isfinite().all():  # `choose` refuses it, and says where
        return True
    tolerance = max(torch.finfo(dtype).eps for dtype in (alone.dtype, torch.float32)) ** 0.5
    return bool((torch.stack(seen) - alone).abs().max() <= tolerance * alone.abs().max())


def _left_padded(prompts: list[Tokens]) -> tuple[Tensor, Tensor]:
    """Ids with zeros on the left and the mask of the real ones, both (rows, longest prompt)."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def check(model, prompts, max_new_tokens: int, temperature: float, eos: int | None) -> None:
    """Raise the ValueErrors of `generate` that need no drawing."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
    room = getattr(model.config, "max_position_embeddings", None)
    for number, prompt in enumerate(prompts, start=1):
        if not len(prompt) and eos is None:
            raise ValueError(f"prompt {number} is empty and eos is None: nothing to start from")
        if room is not None and max(len(prompt), 1) + max_new_tokens - 1 > room:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens: with max_new_tokens={max_new_tokens} "
                f"they exceed the model's {room} positions"
            )
