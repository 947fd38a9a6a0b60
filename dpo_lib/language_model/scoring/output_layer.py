"""From hidden states to the log-probabilities of the tokens that follow, through the vocabulary.

A chunk of positions at a time: an array of all positions times the vocabulary never exists,
neither forward nor backward.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib.language_model.models.devices import at_least_float32
from dpo_lib.language_model.scoring.sequences import scoring


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
    """Of one chunk the exponentials of the logits are kept; of more they are computed twice.

    d logp / d logits = onehot - softmax.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature):
        ctx.temperature, ctx.factor_dtype = temperature, _factor_dtype(hidden, weight)
        log_z = hidden.new_empty(len(targets), dtype=at_least_float32(ctx.factor_dtype))
        logps, total = torch.empty_like(log_z), torch.empty_like(log_z)
        for rows, logits in _logits(hidden, weight, bias, temperature, ctx.factor_dtype):
            logps[rows] = logits.gather(-1, targets[rows, None])[:, 0]
            largest = logits.amax(-1, keepdim=True)
            weights = logits.sub_(largest).exp_()  # proportional to softmax
            total[rows] = weights.sum(-1)
            log_z[rows] = total[rows].log() + largest[:, 0]
        kept = weights if len(weights) == len(targets) else None
        total = total if kept is not None else None
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, kept, total)
        return logps.sub_(log_z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logps):
        hidden, weight, bias, targets, log_z, kept, total = ctx.saved_tensors
        dtype, wide = ctx.factor_dtype, log_z.dtype
        factor = weight.to(dtype)
        grad_logps = grad_logps[:, None] / ctx.temperature  # (positions, 1)
        grad_hidden = torch.empty_like(hidden, dtype=wide)
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        if kept is not None:
            chunks = [(slice(None), kept.data, total[:, None])]  # .data: a change is taken back
        else:
            chunks = (
                (rows, logits.sub_(log_z[rows, None]).exp_(), 1)
                for rows, logits in _logits(hidden, weight, bias, ctx.temperature, dtype)
            )
        for rows, weights, total in chunks:  # softmax times total
            scale, target = -grad_logps[rows] / total, targets[rows, None]
            of_target = weights.gather(-1, target)
            # The difference is taken before 16 bits could round it: it may be nearly 0.
            slopes = weights.to(dtype).scatter_(-1, target, (of_target - total).to(dtype))
            grad_hidden[rows] = scale * _product(slopes, factor)
            if bias is not None:
                grad_bias += (scale * slopes).sum(0)
            if grad_weight is not None:
                _add_product(grad_weight, slopes.T, (scale * hidden[rows]).to(dtype))
            weights.scatter_(-1, target, of_target)
        grads = (grad_hidden, grad_weight, grad_bias)
        cast = [
            None if grad is None else grad.to(x.dtype)
            for grad, x in zip(grads, (hidden, weight, bias), strict=True)
        ]
        return *cast, None, None


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """The logits of one chunk of positions after the other, in one buffer that is used again.

    A product of 16 bits comes in a float32 array of its own, and a buffer would be a second one.
    """
    wide = dtype.itemsize > 2
    size = min(len(hidden), positions_per_chunk(weight))
    factor = weight.to(dtype).T
    # On a CPU a product is a third faster into rows that begin at multiples of 64 numbers.
    stride = -(-len(weight) // 64) * 64
    buffer = hidden.new_empty(size, stride, dtype=dtype)[:, : len(weight)] if wide else None
    for start in range(0, len(hidden), size):
        rows = slice(start, min(start + size, len(hidden)))
        out = buffer[: rows.stop - start] if wide else None
        logits = _product(hidden[rows].to(dtype), factor, out)
        if bias is not None:
            logits += bias
        if temperature != 1:
            logits /= temperature
        yield rows, logits


def positions_per_chunk(weight: Tensor) -> int:
    """So many that their logits take 128 MiB (GPU: 1 GiB), or twice what the output layer takes.

    Every chunk adds to a gradient as large as that layer, which fewer and larger chunks save.
    """
    vocabulary, width = weight.shape
    floats = 2**25 if weight.device.type == "cpu" else 2**28
    return max(2 * width, floats // vocabulary)


def _factor_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The type in which hidden states and weights are multiplied.

    A bfloat16 product is used on CUDA only, where it is summed and returned in float32. In
    float16 the backward pass would overflow.
    """
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if weight.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    return dtype if weight.is_cuda and dtype == torch.bfloat16 else at_least_float32(dtype)


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left @ right, float32 or better whatever the factors are."""
    with torch.autocast(left.device.type, enabled=False):
        if left.dtype.itemsize == 2:
            return torch.mm(left, right, out_dtype=torch.float32)
        return torch.mm(left, right, out=out)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    with torch.autocast(left.device.type, enabled=False):
        if left.dtype == total.dtype:
            total.addmm_(left, right)
        else:
            total += _product(left, right)


@dataclass(frozen=True)
class LinearHead:
    """logits = scale * (hidden @ weight.T + bias), where a model's logits are that and no more."""

    weight: Tensor
    bias: Tensor | None
    scale: float


_scales: WeakKeyDictionary[PreTrainedModel, float | None] = WeakKeyDictionary()


def linear_head(model: PreTrainedModel) -> LinearHead | None:
    """The model's output layer; None if its logits are more than a multiple of that layer.

    The model is asked, at the first call: its output layer is fed large numbers in a forward
    pass, so that a soft cap or another layer on either side shows itself. Cohere's and Granite's
    logits are multiples, Gemma 2's are capped.
    """
    head = model.get_output_embeddings()
    if model not in _scales:
        _scales[model] = _scale(model, head)
    if _scales[model] is None:
        return None
    return LinearHead(head.weight, getattr(head, "bias", None), _scales[model])


@torch.no_grad()
def _scale(model: PreTrainedModel, head: torch.nn.Module | None) -> float | None:
    """What the model multiplies its output layer by; None if it does anything else with it."""
    if not isinstance(getattr(head, "weight", None), Tensor):
        return None
    seen = {}

    def amplify_head(module, inputs):
        seen["hidden"], seen["amplified"] = inputs[0], inputs[0] * 100
        return (seen["amplified"],)

    ids = torch.arange(3, device=model.device)[None] % len(head.weight)
    given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    with scoring(model):
        body = model.base_model(**given).last_hidden_state
        hook = head.register_forward_pre_hook(amplify_head)
        try:
            logits = model(**given).logits
        finally:
            hook.remove()
        plain = F.linear(seen["amplified"], head.weight, getattr(head, "bias", None))
    if body.shape != seen["hidden"].shape or not torch.allclose(body, seen["hidden"]):
        return None
    if torch.allclose(logits, plain.to(logits.dtype), rtol=1e-3):
        return 1.0
    scale = (logits.double() * plain.double()).sum() / plain.double().square().sum()
    return scale.item() if torch.allclose(logits, (scale * plain).to(logits.dtype)) else None
