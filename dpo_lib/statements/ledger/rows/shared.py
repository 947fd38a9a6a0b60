"""What the properties of several statements compute or assert."""

import torch
from torch import Tensor
from torch.testing import assert_close

from dpo_lib import losses, objective, preferences
from dpo_lib.statements.ledger.case import Case


def possible(log_ref: Tensor, value: Tensor) -> Tensor:
    """The value where the reference is positive, 0 elsewhere."""
    return torch.where(log_ref.isneginf(), 0.0, value)


def shift(case: Case) -> Tensor:
    """f(x), another number for each prompt, not small and never 0."""
    prompts = torch.arange(case.world.prompts, dtype=torch.float64)
    return (7.0 - 3.0 * prompts).unsqueeze(-1)


def same_preferences(reward: Tensor, other: Tensor) -> None:
    """Both rewards give every pair of responses the same preference."""
    tables = map(preferences.preference_table, (reward, other))
    assert_close(*tables, atol=1e-12, rtol=0)


def comes_back(member: Tensor, case: Case) -> None:
    """A member of the true reward's class returns from the true optimum and its own Z."""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    log_z = objective.log_partition(member, log_ref, beta)
    back = objective.reward_from_policy(star, log_ref, beta, log_z)
    assert_close(possible(log_ref, back), possible(log_ref, member), atol=1e-9, rtol=1e-9)


def equals_implicit_reward(projected: Tensor, reward: Tensor, case: Case) -> None:
    """The projection is beta log(pi_r / pi_ref) for the optimum of `reward`."""
    log_ref, beta = case.world.log_ref, case.beta
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implicit = possible(log_ref, objective.implicit_reward(star, log_ref, beta))
    assert_close(implicit, possible(log_ref, projected), atol=1e-11, rtol=1e-11)


def soft_objective_is_minus_divergence(case: Case) -> None:
    """The mean of (10)'s bracket is -beta KL(pi || pi*) for pi* from (4)."""
    reward, log_ref, beta = case.arguments
    bracket = objective.soft_advantage(reward, case.log_policy, log_ref, beta)
    mean = (case.log_policy.exp() * possible(log_ref, bracket)).sum(-1)
    star = objective.optimal_log_policy(reward, log_ref, beta)
    assert_close(mean, -beta * objective.kl_divergence(case.log_policy, star))


def pair_slopes(case: Case) -> tuple[Tensor, ...]:
    """Derivatives of the loss (7) with respect to log pi(y_w) and log pi(y_l)."""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    w, l = w.clone().requires_grad_(), l.clone().requires_grad_()  # noqa: E741
    return torch.autograd.grad(losses.dpo_loss(w, l, ref_w, ref_l, case.beta).sum(), (w, l))
