"""Means over prompts with their standard errors, win rates, Best-of-N (section 6).

Rewards are arrays of shape (prompts, samples): samples of one prompt are not independent draws
of a prompt, so every standard error is that of the mean over prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dpo_lib._checks import check_same_shape


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its standard error and normal 95 % interval."""

    mean: float
    standard_error: float
    prompts: int

    @property
    def interval(self) -> tuple[float, float]:
        return (self.mean - 1.96 * self.standard_error, self.mean + 1.96 * self.standard_error)

    @property
    def record(self) -> dict:
        """What a report keeps of it, as JSON."""
        return asdict(self) | {"interval": list(self.interval)}

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {1.96 * self.standard_error:.3f}"


def estimate(values: Tensor) -> Estimate:
    """Mean of (prompts, samples) and the standard error of that mean, prompts being the draws."""
    means = values.double().mean(-1)
    if len(means) < 2:
        raise ValueError(f"a standard error needs at least 2 prompts, got {len(means)}")
    return Estimate(means.mean().item(), means.std().item() / math.sqrt(len(means)), len(means))


def difference(rewards: Tensor, other: Tensor) -> tuple[Estimate, float]:
    """Mean reward of one policy minus another's on the same prompts, and its z.

    Args:
        rewards, other: shapes (prompts, samples), each with its own number of samples. Pairing
            by prompt takes the prompts' own spread out of the standard error.
    """
    check_same_shape(rewards=rewards[:, 0], other=other[:, 0])
    paired = (rewards.double().mean(-1) - other.double().mean(-1)).unsqueeze(-1)
    found = estimate(paired)
    return found, 0.0 if found.mean == 0 else found.mean / max(found.standard_error, 1e-300)


def win_rate(rewards: Tensor, other: Tensor) -> Estimate:
    """How often a sample of one policy beats a sample of another on its prompt; a tie is 1/2.

    Args:
        rewards, other: shapes (prompts, samples). All pairs of samples are compared, so that a
            policy's samples against themselves give exactly 1/2.
    """
    check_same_shape(rewards=rewards[:, 0], other=other[:, 0])
    margin = rewards.unsqueeze(-1) - other.unsqueeze(-2)  # (prompts, samples, samples)
    return estimate(((margin.sign() + 1) / 2).flatten(1))


def best_of(rewards: Tensor, n: int, by: Tensor | None = None) -> Tensor:
    """Expected reward of the best of n draws for each prompt, from N >= n samples, unbiased.

    The sample of rank i (from the worst, 1) is the best of a random n-subset with probability
    C(i - 1, n - 1) / C(N, n).

    Args:
        rewards: shape (prompts, N).
        by: what the best is chosen by, same shape; the rewards themselves if None.

    Returns:
        shape (prompts, 1).
    """
    samples = rewards.shape[-1]
    if not 1 <= n <= samples:
        raise ValueError(f"n must lie in [1, {samples}], the number of samples, got {n}")
    by = rewards if by is None else by
    check_same_shape(rewards=rewards, by=by)
    ranked = rewards.double().gather(-1, by.argsort(-1))
    weights = [math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)]
    return (ranked * torch.tensor(weights, dtype=torch.float64)).sum(-1, keepdim=True)


def best_of_kl(n: int) -> float:
    """KL of Best-of-n from the policy it draws from, at most: log n - (n - 1) / n nats."""
    return math.log(n) - (n - 1) / n


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several tests are sure, however many were made: Holm's correction.

    The least p-value is held against level / n, the next against level / (n - 1), and so on; from
    the first that fails on, none is sure. One false verdict or more among all has at most the
    probability `level`.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    sure = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(order):
        if p_values[place] > level / (len(p_values) - rank):
            break
        sure[place] = True
    return sure
