"""The losses of tables minimised exactly: the reward model by Newton, DPO by L-BFGS.

Leading batch axes (worlds, seeds) are fitted side by side: parameters of different worlds never
meet in a loss, so one step for all is one step for each.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpo_lib._checks import check_beta, check_same_shape
from dpo_lib.losses import plackett_luce_dpo_loss, table_loss
from dpo_lib.objective import implicit_reward
from dpo_lib.policies import TabularPolicy
from dpo_lib.preferences import check_connected, check_ranking, check_win_table


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
