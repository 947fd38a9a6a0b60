"""Objective (3) climbed in a world of tables: by exact policy gradients, and by PPO."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib._checks import check_beta, check_finite, check_log_policy, check_same_shape
from dpo_lib.losses import (
    adapted_coefficient,
    entropy,
    generalized_advantages,
    ppo_clip_loss,
    ppo_kl_loss,
    value_loss,
)
from dpo_lib.objective import kl_divergence, kl_shaped_reward, objective
from dpo_lib.policies import TabularPolicy, TabularValue
from dpo_lib.training import History, minimise
from dpo_lib.world import sample_responses


def policy_gradient_ascent(
    reward: Tensor, log_ref: Tensor, beta: float, steps: int, lr: float
) -> tuple[TabularPolicy, History]:
    """Plain gradient ascent on objective (3) itself, its expectation computed exactly.

    Returns:
        the policy and a history with `log_policy`.
    """
    policy = TabularPolicy(log_ref)
    history = minimise(
        lambda: -objective(policy(), reward, log_ref, beta),
        policy.parameters(),
        steps,
        lr,
        record=lambda history: history.append(log_policy=policy()),
        optimizer=torch.optim.SGD,
    )
    return policy, history


def natural_gradient_ascent(
    reward: Tensor, log_ref: Tensor, beta: float, steps: int, lr: float
) -> History:
    """Natural-gradient ascent on objective (3), exact: mirror descent on the simplex.

    For a tabular softmax the natural gradient is r - beta log(pi / pi_ref), up to a constant
    for each prompt (Kakade 2001), so each step shrinks the distance of the log-policy to
    equation (4) by the factor 1 - lr beta.

    Returns:
        a history with `log_policy`, (steps + 1, ..., prompts, responses).
    """
    check_beta(beta)
    if not 0 < lr * beta < 2:
        raise ValueError(f"lr must lie in (0, 2 / beta) to converge, got {lr}")
    check_log_policy("log_ref", log_ref)
    history, log_policy = History(), log_ref
    impossible = log_ref.isneginf()
    for _ in range(steps):
        history.append(log_policy=log_policy)
        drift = kl_shaped_reward(reward, log_policy, log_ref, beta).masked_fill(impossible, 0.0)
        log_policy = (log_policy + lr * drift).log_softmax(-1)
    history.append(log_policy=log_policy)
    return history


@dataclass
class ClippedSurrogate:
    """PPO (7): the ratio is clipped to [1 - clip_range, 1 + clip_range]."""

    clip_range: float = 0.2

    def loss(self, logps, old_logps, advantages, log_policy, old_log_policy) -> Tensor:
        return ppo_clip_loss(logps, old_logps, advantages, self.clip_range)

    def adapt(self, kl: Tensor) -> None:
        """Clipping has nothing to adapt."""


@dataclass
class PenalisedSurrogate:
    """PPO (8): a penalty on KL(pi_old || pi), its coefficient adapted towards `target`.

    Each world has its own coefficient, so that worlds trained side by side stay independent.
    """

    coefficient: float | Tensor = 1.0  # a tensor of shape (...) once it has been adapted
    target: float = 0.01  # nats for each iteration

    def loss(self, logps, old_logps, advantages, log_policy, old_log_policy) -> Tensor:
        kl = kl_divergence(old_log_policy, log_policy).unsqueeze(-1).expand_as(logps)
        coefficient = torch.as_tensor(self.coefficient, dtype=kl.dtype)[..., None, None]
        return ppo_kl_loss(logps, old_logps, advantages, kl, coefficient.expand_as(kl))

    def adapt(self, kl: Tensor) -> None:
        kl = kl.mean(-1)  # over prompts
        old = torch.as_tensor(self.coefficient, dtype=kl.dtype).expand_as(kl)
        pairs = zip(old.flatten().tolist(), kl.flatten().tolist(), strict=True)
        new = [adapted_coefficient(*pair, self.target) for pair in pairs]
        # The rule halves without end; below the clamp the penalty no longer acts.
        self.coefficient = torch.tensor(new, dtype=kl.dtype).view_as(kl).clamp_min(1e-12)


def train_ppo(
    reward: Tensor,
    log_ref: Tensor,
    beta: float,
    generator: torch.Generator,
    surrogate: ClippedSurrogate | PenalisedSurrogate | None = None,
    iterations: int = 600,
    draws: int = 512,
    epochs: int = 4,
    lr: float = 0.1,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.0,
) -> tuple[TabularPolicy, History]:
    """PPO on responses drawn from the policy, with the KL to the reference in the reward.

    Each iteration draws responses, scores them with r - beta (log pi - log pi_ref), estimates
    advantages against a value table, and takes `epochs` Adam steps on PPO (9): surrogate
    + value_coefficient value loss - entropy_coefficient entropy. The learning rate falls
    linearly to 0. An episode is a single step here: the response.

    Args:
        reward: r(x, y), shape (..., prompts, responses); leading axes train side by side.
        log_ref: log pi_ref(y | x), same shape.
        beta: weight of the KL to the *reference*, at least 0. With 0 nothing holds the policy
            near the reference, and the optimum is the best response.
        surrogate: `ClippedSurrogate()` if None, or `PenalisedSurrogate()`.
        draws: responses drawn for each prompt and iteration.

    Returns:
        the policy and a history with `log_policy`, `value`, `ratio` (largest |ratio - 1|),
        `kl_to_old`, and `coefficient` for the penalised form.
    """
    surrogate = surrogate or ClippedSurrogate()
    check_same_shape(reward=reward, log_ref=log_ref)
    check_finite("reward", reward)
    check_log_policy("log_ref", log_ref)
    policy, value = TabularPolicy(log_ref), TabularValue(log_ref)
    history = History()
    stepper = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=lr)
    decay = torch.optim.lr_scheduler.LinearLR(stepper, 1.0, 0.0, total_iters=iterations)
    for _ in range(iterations):
        history.append(log_policy=policy(), value=value())
        with torch.no_grad():
            old = policy()
            drawn = sample_responses(old, draws, generator)
            old_logps = old.gather(-1, drawn)
            scores = reward.gather(-1, drawn)
            if beta != 0:
                scores = kl_shaped_reward(scores, old_logps, log_ref.gather(-1, drawn), beta)
            baseline = value().unsqueeze(-1).expand_as(scores)
            # One step for each episode: the last axis of GAE has length 1.
            advantages = generalized_advantages(scores[..., None], baseline[..., None])[..., 0]
            returns = advantages + baseline
        for _ in range(epochs):
            log_policy = policy()
            logps = log_policy.gather(-1, drawn)
            policy_loss = surrogate.loss(logps, old_logps, advantages, log_policy, old).mean(-1)
            v_loss = value_loss(value().unsqueeze(-1).expand_as(returns), returns).mean(-1)
            total = policy_loss + value_coefficient * v_loss
            total = total - entropy_coefficient * entropy(log_policy)
            stepper.zero_grad()
            total.sum().backward()
            stepper.step()
        with torch.no_grad():
            new = policy()
            kl = kl_divergence(old, new)
            ratio = (new.gather(-1, drawn) - old_logps).exp()
        surrogate.adapt(kl)
        history.append(kl_to_old=kl, ratio=(ratio - 1).abs().amax(-1))
        if isinstance(surrogate, PenalisedSurrogate):
            history.append(coefficient=surrogate.coefficient)
        decay.step()
    history.append(log_policy=policy(), value=value())
    return policy, history
