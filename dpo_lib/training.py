"""The loop of every gradient method on tables (`minimise`), and DPO by minibatches.

One record (`History`) serves them all. Leading batch axes (worlds, seeds) train side by side.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dpo_lib._checks import check_beta, check_positive, check_same_shape
from dpo_lib.losses import dpo_loss
from dpo_lib.policies import TabularPolicy
from dpo_lib.preferences import Preferences, check_preferences


@dataclass
class History:
    """What a run recorded: name -> one detached tensor for each recorded step."""

    records: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def append(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.records[name].append(torch.as_tensor(value).detach().clone())

    def __getitem__(self, name: str) -> Tensor:
        """The recorded values of one name, stacked: shape (records, ...)."""
        if name not in self.records:
            raise KeyError(f"nothing was recorded as {name!r}, only {sorted(self.records)}")
        return torch.stack(self.records[name])


def minimise(
    loss: Callable[[], Tensor],
    parameters: Iterable[nn.Parameter],
    steps: int,
    lr: float,
    record: Callable[[History], None] = lambda history: None,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
) -> History:
    """The book's training loop: `steps` optimiser steps on `loss`, recording before each.

    Args:
        loss: called afresh at each step; any shape, summed so that worlds stay independent.
        parameters: what is trained.
        lr: the optimiser's learning rate.
        record: called with the history before each step and once at the end.

    Raises:
        FloatingPointError: if the loss stops being finite, with the step's number.
    """
    history, stepper = History(), optimizer(parameters, lr=lr)
    for step in range(steps):
        record(history)
        stepper.zero_grad()
        total = loss().sum()
        if not total.isfinite():
            raise FloatingPointError(f"loss is {total.item()} at step {step}")
        total.backward()
        stepper.step()
    record(history)
    return history


def train_dpo(
    preferences: Preferences,
    log_ref: Tensor,
    beta: float,
    steps: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
    loss: Callable[..., Tensor] = dpo_loss,
) -> tuple[TabularPolicy, History]:
    """DPO on labelled pairs, one minibatch for each step.

    Args:
        preferences: index tensors of shape (..., pairs).
        log_ref: log pi_ref(y | x), shape (..., prompts, responses), same leading axes.
        beta: > 0, reward units per nat.
        batch_size: pairs drawn with replacement for each step and world.
        generator: draws the minibatches.
        loss: a function with the arguments of `dpo_loss`.

    Returns:
        the policy and a history with `log_policy`, (records, ..., prompts, responses), before
        each step and at the end.
    """
    check_beta(beta)
    check_positive("batch_size", batch_size)
    check_positive("number of preferences", preferences.prompt.shape[-1])
    check_same_shape(preferences=preferences.prompt[..., 0], log_ref=log_ref[..., 0, 0])
    check_preferences(preferences, *log_ref.shape[-2:])
    policy = TabularPolicy(log_ref)
    responses = log_ref.shape[-1]
    chosen = preferences.prompt * responses + preferences.chosen
    rejected = preferences.prompt * responses + preferences.rejected
    ref = log_ref.flatten(-2)
    if ref.gather(-1, chosen).isneginf().any() or ref.gather(-1, rejected).isneginf().any():
        raise ValueError("preferences compare a response that log_ref gives probability 0")

    def batch_loss() -> Tensor:
        shape = (*chosen.shape[:-1], batch_size)
        rows = torch.randint(chosen.shape[-1], shape, generator=generator)
        w, l = chosen.gather(-1, rows), rejected.gather(-1, rows)  # noqa: E741
        logps = policy().flatten(-2)
        pairs = loss(
            logps.gather(-1, w), logps.gather(-1, l), ref.gather(-1, w), ref.gather(-1, l), beta
        )
        return pairs.mean(-1)

    history = minimise(
        batch_loss,
        policy.parameters(),
        steps,
        lr,
        record=lambda history: history.append(log_policy=policy()),
    )
    return policy, history
