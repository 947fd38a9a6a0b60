"""What every public function refuses, each in one line that names the argument and the value.

Values are looked at on CPU tensors only: reading one from an accelerator would make each
training step wait for the device. Shapes are checked everywhere. Without torch, for the command
line; what is checked brings it along.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def checked(same_shape: str = "", **rules: Callable) -> Callable:
    """Decorate a function so that its arguments are looked at, and its body is its equation.

    Args:
        same_shape: names of the tensors that must have one shape.
        rules: argument -> one of the checks below, which is called with its name and value, or
            with its value alone if that is all it takes.
    """

    def decorate(function: Callable) -> Callable:
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]

        @wraps(function)
        def call(*args, **kwargs):
            given = dict(zip(names, args, strict=False)) | kwargs
            if same_shape:
                check_same_shape(**{n: given[n] for n in same_shape.split() if n in given})
            for name, rule in rules.items():
                if name in given:
                    rule(given[name]) if rule is check_beta else rule(name, given[name])
            return function(*args, **kwargs)

        return call

    return decorate


def check_beta(beta: float) -> float:
    """Return beta if it is a positive, finite number; raise ValueError otherwise."""
    if not (isinstance(beta, int | float) and math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be a positive, finite number, got {beta}")
    return beta


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless the number is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless the number lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all shapes are equal: nothing here broadcasts in silence."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must be equal, got {listed}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError at the first NaN or infinity."""
    _refuse(name, tensor, ~tensor.detach().isfinite(), "must be finite")


def check_not_nan(name: str, tensor: Tensor) -> None:
    """Raise ValueError at the first NaN or +inf: what no log-probability can be."""
    values = tensor.detach()
    _refuse(name, tensor, values.isnan() | values.isposinf(), "must not be NaN or +inf")


def check_log_policy(name: str, log_policy: Tensor, tolerance: float = 1e-6) -> None:
    """Raise ValueError unless every row is a log-distribution (log-sum 0, -inf allowed)."""
    check_not_nan(name, log_policy)
    if log_policy.device.type != "cpu":
        return
    sums = log_policy.detach().logsumexp(-1)
    bad = ~(sums.abs() <= tolerance)
    if bad.any():
        row = tuple(bad.nonzero()[0].tolist())
        total = sums[row].exp().item()
        raise ValueError(f"{name} row {row} must sum to probability 1, got {total:g}")


def check_indices(name: str, indices: Tensor, size: int) -> None:
    """Raise ValueError unless all entries are integers in [0, size)."""
    if str(indices.dtype) not in ("torch.int64", "torch.int32"):
        raise ValueError(f"{name} must hold integers, got {indices.dtype}")
    _refuse(name, indices, (indices < 0) | (indices >= size), f"must lie in [0, {size})")


def check_lengths(name: str, lengths: Tensor) -> None:
    """Raise ValueError unless every answer has at least one token."""
    _refuse(name, lengths, ~(lengths >= 1), "must be at least 1")


def _refuse(name: str, tensor: Tensor, bad: Tensor, rule: str) -> None:
    if tensor.device.type == "cpu" and bad.any():
        position = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name} {rule}, got {tensor[position].item()} at {position}")
