"""How the tables are trained: reward model by Newton, DPO by L-BFGS or minibatch, and PPO.

One loop (`minimise`) and one record (`History`) serve every gradient method. Leading batch axes
(worlds, seeds) train side by side: parameters of different worlds never meet in a loss, so one
optimiser step for all is one step for each.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dpo_lib._checks import (
    check_beta,
    check_finite,
    check_log_policy,
    check_positive,
    check_same_shape,
)
from dpo_lib.losses import (
    adapted_coefficient,
    dpo_loss,
    entropy,
    generalized_advantages,
    plackett_luce_dpo_loss,
    ppo_clip_loss,
    ppo_kl_loss,
    table_loss,
    value_loss,
)
from dpo_lib.objective import implicit_reward, kl_divergence, kl_shaped_reward, objective
from dpo_lib.policies import TabularPolicy, TabularValue
from dpo_lib.preferences import (
    Preferences,
    check_connected,
    check_preferences,
    check_ranking,
    check_win_table,
)
from dpo_lib.world import sample_responses


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


def fit_reward(wins: Tensor, max_steps: int = 100) -> Tensor:
    """The maximum-likelihood reward of a win table: the minimiser of equation (2).

    The loss is convex, so Newton's method with step halving finds the one minimiser among
    rewards whose mean over responses is 0 for each prompt.

    Args:
        wins: counts or probabilities, shape (..., prompts, responses, responses).

    Returns:
        reward table, shape (..., prompts, responses), reward units.

    Raises:
        ValueError: if the wins do not determine a finite reward (see `check_connected`).
        FloatingPointError: if the counts are so uneven that rounding stops the method.
    """
    check_connected(wins)
    wins = wins / wins.sum((-2, -1), keepdim=True)
    games = wins + wins.transpose(-1, -2)
    reward = torch.zeros_like(wins[..., 0])

    def losses(reward: Tensor) -> Tensor:  # of each prompt, shape (..., prompts)
        return table_loss(reward.unsqueeze(-2), wins.unsqueeze(-3))

    loss = losses(reward)
    for _ in range(max_steps):
        prob = torch.sigmoid(reward.unsqueeze(-1) - reward.unsqueeze(-2))
        gradient = (games * prob - wins).sum(-1)
        # The Hessian is the Laplacian of the comparison graph; adding the all-ones matrix fixes
        # the direction along which the loss is flat, the shift of all rewards.
        curvature = games * prob * (1 - prob)
        hessian = torch.diag_embed(curvature.sum(-1)) - curvature + 1 / wins.shape[-1]
        step = torch.linalg.solve(hessian, gradient)
        decrement = (gradient * step).sum(-1)
        if (decrement < 1e-28).all():
            return reward
        size = torch.ones_like(loss)
        for _ in range(40):
            trial = losses(reward - size.unsqueeze(-1) * step)
            worse = trial > loss + 1e-15
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        reward = reward - size.unsqueeze(-1) * step
        loss = losses(reward)
    if (decrement > 1e-12).any():
        raise FloatingPointError(f"Newton's method has not converged after {max_steps} steps")
    return reward


def fit_dpo(wins: Tensor, log_ref: Tensor, beta: float, max_steps: int = 1000) -> TabularPolicy:
    """The tabular policy that minimises the DPO loss (7) on a win table, by L-BFGS.

    Args:
        wins: counts or probabilities, shape (..., prompts, responses, responses).
        log_ref: log pi_ref(y | x), shape (..., prompts, responses).
        beta: > 0, reward units per nat.

    Raises:
        ValueError: if a compared response has reference probability 0: its implicit reward does
            not exist.
    """
    check_beta(beta)
    check_win_table(wins)
    check_same_shape(wins=wins[..., 0], log_ref=log_ref)
    check_support(wins, log_ref)
    policy = TabularPolicy(log_ref)

    def loss() -> Tensor:
        return table_loss(implicit_reward(policy(), log_ref, beta), wins)

    _lbfgs(policy, loss, max_steps)
    return policy


def fit_ranking_dpo(
    rankings: Tensor,
    log_ref: Tensor,
    beta: float,
    weights: Tensor | None = None,
    max_steps: int = 1000,
) -> TabularPolicy:
    """The tabular policy that minimises the ranking loss (20), by L-BFGS.

    Args:
        rankings: each from best to worst, shape (..., prompts, rankings, K), K <= responses.
        log_ref: log pi_ref(y | x), shape (..., prompts, responses).
        beta: > 0, reward units per nat.
        weights: counts or probabilities of the rankings, shape (..., prompts, rankings); one
            each if None. With all K! orders and their probabilities (18) this is the population.

    Raises:
        ValueError: if a ranked response has reference probability 0.
    """
    check_beta(beta)
    check_same_shape(rankings=rankings[..., 0, 0], log_ref=log_ref[..., 0])
    weights = torch.ones_like(rankings[..., 0], dtype=log_ref.dtype) if weights is None else weights
    check_same_shape(rankings=rankings[..., 0], weights=weights)
    policy = TabularPolicy(log_ref)
    ref = log_ref.unsqueeze(-2).expand(*rankings.shape[:-1], log_ref.shape[-1])
    check_ranking(rankings, ref.shape[-1])
    if ref.gather(-1, rankings).isneginf().any():
        raise ValueError("rankings hold a response that log_ref gives probability 0")

    def loss() -> Tensor:
        logps = policy().unsqueeze(-2).expand_as(ref)
        losses = plackett_luce_dpo_loss(logps, ref, rankings, beta)
        return (weights * losses).sum((-2, -1)) / weights.sum((-2, -1))

    _lbfgs(policy, loss, max_steps)
    return policy


def _lbfgs(policy: nn.Module, loss: Callable[[], Tensor], max_steps: int) -> None:
    """Minimise a smooth loss over all parameters to the last digit that float64 gives."""
    optimizer = torch.optim.LBFGS(
        policy.parameters(),
        max_iter=max_steps,
        max_eval=2 * max_steps,
        tolerance_grad=1e-11,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss().sum()
        total.backward()
        return total

    optimizer.step(closure)


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


def check_support(wins: Tensor, log_ref: Tensor) -> None:
    """Raise ValueError if a compared response has reference probability 0."""
    compared = (wins + wins.transpose(-1, -2)).sum(-1) > 0
    bad = compared & log_ref.isneginf()
    if bad.any():
        *_, prompt, response = bad.nonzero()[0].tolist()
        raise ValueError(
            f"wins compare response {response} of prompt {prompt}, which log_ref gives probability "
            "0: its implicit reward does not exist"
        )
