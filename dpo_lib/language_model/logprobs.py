"""Log-probabilities of completions, log pi(y | x): sums over tokens, exact, fast, differentiable.

`plain_logps` is the definition, one sequence at a time. The other functions give the same numbers
and gradients from one forward pass in which only the positions that predict a completion token
reach the vocabulary, a chunk of them at a time: an array of positions times vocabulary never
exists, neither forward nor backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib._checks import check_positive
from dpo_lib.language_model.layouts import (
    Sequences,
    check_sequences,
    completion_hidden,
    scoring,
)

if TYPE_CHECKING:
    from dpo_lib.language_model.data import Pair


def plain_logps(
    model: PreTrainedModel, sequences: Sequences, temperature: float = 1.0
) -> list[Tensor]:
    """log pi(y_t | x, y_<t) of every completion token, the slow obvious way.

    Args:
        model: any causal language model of transformers.
        sequences: (prompt ids, completion ids), neither of them empty.
        temperature: > 0, divides the logits.

    Returns:
        one tensor for each sequence, shape (its completion's length,), nats, float32 or better.
    """
    check_positive("temperature", temperature)
    logps = []
    for prompt, completion in check_sequences(model, sequences):
        ids = torch.tensor([prompt + completion], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        logits = logits.to(_wide(logits.dtype)) / temperature
        targets = ids[0, len(prompt) :, None]
        logps.append(logits.log_softmax(-1).gather(-1, targets)[:, 0])
    return logps


def token_logps(
    model: PreTrainedModel, sequences: Sequences, temperature: float = 1.0
) -> list[Tensor]:
    """`plain_logps`, fast. Neighbours with the same prompt share it; see `layouts`.

    Raises:
        ValueError: in one line, for an empty prompt or completion, a sequence longer than the
            model's positions, an id outside the vocabulary, and a model whose logits are more
            than a linear map of its last hidden state (soft-capping, scaling).
    """
    check_positive("temperature", temperature)
    sequences = check_sequences(model, sequences)
    head = linear_head(model)
    hidden = completion_hidden(model, sequences)  # (completion tokens, width)
    targets = [token for _, completion in sequences for token in completion]
    targets = torch.tensor(targets).to(hidden.device)
    logps = target_logps(hidden, head.weight, getattr(head, "bias", None), targets, temperature)
    return list(logps.split([len(completion) for _, completion in sequences]))


def completion_logps(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """log pi(y | x) of every completion, *summed* over its tokens, shape (sequences,), nats."""
    return torch.stack([logps.sum() for logps in token_logps(model, sequences)])


def pair_logps(model: PreTrainedModel, pairs: list[Pair]) -> Tensor:
    """log pi(y_w | x) and log pi(y_l | x) of every pair, shape (pairs, 2), nats.

    Sequences 2i and 2i + 1 are the chosen and the rejected side of pair i: neighbours with one
    prompt, which the stream stores once.
    """
    sides = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    return completion_logps(model, sides).view(len(pairs), 2)


def target_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float = 1.0
) -> Tensor:
    """log softmax((hidden @ weight.T + bias) / temperature) at the targets, chunk by chunk.

    Args:
        hidden: shape (positions, width).
        weight, bias: of the output layer, shapes (vocabulary, width) and (vocabulary,).
        targets: token ids, shape (positions,).

    Returns:
        shape (positions,), nats, float32 or better; differentiable in the first three arguments.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
        shapes = f"hidden {tuple(hidden.shape)}, targets {tuple(targets.shape)}"
        raise ValueError(f"shapes must be (positions, width) and (positions,), got {shapes}")
    return _TargetLogps.apply(hidden, weight, bias, targets, temperature)


class _TargetLogps(torch.autograd.Function):
    """Keeps hidden states and log-normalisers, (positions,) numbers, and computes logits twice."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature):
        ctx.temperature, ctx.factor_dtype = temperature, _factor_dtype(hidden, weight)
        log_z = hidden.new_empty(len(targets), dtype=_wide(ctx.factor_dtype))
        logps = torch.empty_like(log_z)
        for rows, logits in _logits(hidden, weight, bias, temperature, ctx.factor_dtype):
            logps[rows] = logits.gather(-1, targets[rows, None])[:, 0]
            largest = logits.amax(-1, keepdim=True)
            log_z[rows] = logits.sub_(largest).exp_().sum(-1).log() + largest[:, 0]
        ctx.save_for_backward(hidden, weight, bias, targets, log_z)
        return logps.sub_(log_z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logps):
        hidden, weight, bias, targets, log_z = ctx.saved_tensors
        dtype, wide = ctx.factor_dtype, log_z.dtype
        wants_weight = ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden, dtype=wide)
        grad_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        scale = -grad_logps[:, None] / ctx.temperature  # (positions, 1)
        factor = weight.to(dtype)
        for rows, logits in _logits(hidden, weight, bias, ctx.temperature, dtype):
            # d logp / d logits = onehot - softmax, here with the sign turned and left unscaled.
            error = logits.sub_(log_z[rows, None]).exp_()
            error[torch.arange(len(error), device=error.device), targets[rows]] -= 1
            if bias is not None:
                grad_bias += (scale[rows] * error).sum(0)
            error = error.to(dtype)
            grad_hidden[rows] = scale[rows] * _product(error, factor)
            if wants_weight:
                scaled = (scale[rows] * hidden[rows]).to(dtype)
                _add_product(grad_weight, error.T, scaled)
        grads = (grad_hidden, grad_weight, grad_bias)
        cast = [
            None if grad is None else grad.to(x.dtype)
            for grad, x in zip(grads, (hidden, weight, bias), strict=True)
        ]
        return *cast, None, None


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """The logits of one chunk of positions after the other, in one buffer that is used again."""
    size = min(len(hidden), positions_per_chunk(weight))
    factor = weight.to(dtype).T
    buffer = hidden.new_empty(size, len(weight), dtype=_wide(dtype))
    for start in range(0, len(hidden), size):
        rows = slice(start, min(start + size, len(hidden)))
        logits = _product(hidden[rows].to(dtype), factor, out=buffer[: rows.stop - start])
        if bias is not None:
            logits += bias
        if temperature != 1:
            logits /= temperature
        yield rows, logits


def positions_per_chunk(weight: Tensor) -> int:
    """So many that the logits outweigh neither the output layer itself nor 8 MiB (GPU: 1 GiB)."""
    vocabulary, width = weight.shape
    floats = 2**21 if weight.device.type == "cpu" else 2**28
    return max(width, floats // vocabulary)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _factor_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The type in which hidden states and weights are multiplied.

    A 16-bit product is used on CUDA only, where it is summed and returned in float32.
    """
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if not weight.is_cuda:
        return _wide(dtype)
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else dtype


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left @ right, float32 or better whatever the factors are."""
    with torch.autocast(left.device.type, enabled=False):
        if left.dtype.itemsize == 2:
            product = torch.mm(left, right, out_dtype=torch.float32)
            return product if out is None else out.copy_(product)
        return torch.mm(left, right, out=out)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    with torch.autocast(left.device.type, enabled=False):
        if left.dtype == total.dtype:
            total.addmm_(left, right)
        else:
            total += _product(left, right)


_linear: WeakSet[PreTrainedModel] = WeakSet()


def linear_head(model: PreTrainedModel) -> torch.nn.Module:
    """The model's output layer, once it is known that logits are that layer and nothing more.

    The model is asked, at the first call: its output layer is fed large numbers in a forward
    pass, so that a soft cap, a scale or another layer on either side shows itself.
    """
    head = model.get_output_embeddings()
    if model not in _linear:
        if not _is_linear(model, head):
            raise ValueError(
                f"{type(model).__name__}: logits are not a linear map of the last hidden state "
                "(soft-capping or scaling?); only plain_logps can score it"
            )
        _linear.add(model)
    return head


@torch.no_grad()
def _is_linear(model: PreTrainedModel, head: torch.nn.Module | None) -> bool:
    if not isinstance(getattr(head, "weight", None), Tensor):
        return False
    seen = {}

    def keep_body(module, inputs, output):
        seen["body"] = getattr(output, "last_hidden_state", None)

    def amplify_head(module, inputs):
        seen["hidden"], seen["amplified"] = inputs[0], inputs[0] * 100
        return (seen["amplified"],)

    hooks = [model.base_model.register_forward_hook(keep_body)]
    hooks += [head.register_forward_pre_hook(amplify_head)]
    try:
        with scoring(model):
            ids = torch.arange(3, device=model.device)[None] % len(head.weight)
            logits = model(input_ids=ids, use_cache=False).logits
            expected = F.linear(seen["amplified"], head.weight, getattr(head, "bias", None))
    finally:
        for hook in hooks:
            hook.remove()
    body = seen.get("body")
    body_is_input = body is not None and torch.equal(body, seen["hidden"])
    return body_is_input and torch.allclose(logits, expected.to(logits.dtype), rtol=1e-3)
