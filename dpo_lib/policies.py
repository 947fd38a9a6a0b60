"""Trainable tables: one number for each prompt and response, as small torch modules."""

import torch
from torch import Tensor, nn

from dpo_lib._checks import check_finite, check_log_policy


class TabularPolicy(nn.Module):
    """A policy with one logit for each prompt and response, initialised at the reference.

    A tabular softmax can be any distribution on the reference's support, as section 4 assumes.
    Responses that the reference never gives stay at probability 0 and receive no gradient.

    Args:
        log_ref: log pi_ref(y | x), shape (..., prompts, responses); rows are distributions.
    """

    def __init__(self, log_ref: Tensor):
        super().__init__()
        check_log_policy("log_ref", log_ref)
        self.register_buffer("impossible", log_ref.isneginf())
        self.logits = nn.Parameter(log_ref.masked_fill(self.impossible, 0.0))

    def forward(self) -> Tensor:
        """log pi(y | x), shape (..., prompts, responses), nats; rows log-sum to 0."""
        return self.logits.masked_fill(self.impossible, -torch.inf).log_softmax(-1)


class TabularReward(nn.Module):
    """A reward with one number for each prompt and response, initialised at `reward`."""

    def __init__(self, reward: Tensor):
        super().__init__()
        check_finite("reward", reward)
        self.table = nn.Parameter(reward.clone())

    def forward(self) -> Tensor:
        """r(x, y), shape (..., prompts, responses), reward units."""
        return self.table


class TabularValue(nn.Module):
    """A value function with one number for each prompt, initialised at 0."""

    def __init__(self, log_ref: Tensor):
        super().__init__()
        self.table = nn.Parameter(torch.zeros_like(log_ref[..., 0]))

    def forward(self) -> Tensor:
        """V(x), shape (..., prompts), reward units."""
        return self.table
