"""Objective (3), its optimum (4), the reward that a policy implies (5), (6), and section 5.

Everything stays in log space. Policies are tables of log-probabilities, shape
(..., prompts, responses); a response that the reference never gives has log-probability -inf.
"""

import torch
from torch import Tensor

from dpo_lib._checks import (
    check_beta,
    check_finite,
    check_log_policy,
    check_not_nan,
    check_same_shape,
    checked,
)
from dpo_lib.preferences import bradley_terry, plackett_luce_logp


@checked("log_policy reward", log_policy=check_log_policy, reward=check_finite)
def expected_reward(log_policy: Tensor, reward: Tensor) -> Tensor:
    """E_{y ~ pi}[r(x, y)] for each prompt, shape (..., prompts), reward units."""
    return (log_policy.exp() * reward).sum(-1)


@checked("log_policy log_ref", log_policy=check_log_policy, log_ref=check_log_policy)
def kl_divergence(log_policy: Tensor, log_ref: Tensor) -> Tensor:
    """KL(pi || pi_ref) for each prompt, in nats.

    A response with pi = 0 adds nothing (0 log 0 = 0); one with pi > 0 and pi_ref = 0 makes the
    divergence +inf.

    Returns:
        shape (..., prompts), at least 0.
    """
    ratio = _log_ratio(log_policy, log_ref)
    # Outside the support the product is infinite, also where exp(log_policy) rounds to 0.
    return (log_policy.exp() * ratio).masked_fill(ratio.isposinf(), torch.inf).sum(-1)


@checked(beta=check_beta)
def objective(log_policy: Tensor, reward: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """Objective (3) for each prompt: E_pi[r(x, y)] - beta KL(pi || pi_ref).

    Args:
        log_policy, reward, log_ref: shape (..., prompts, responses).
        beta: KL strength, > 0, in reward units per nat.

    Returns:
        shape (..., prompts), reward units; -inf for a policy outside the reference's support.
    """
    return expected_reward(log_policy, reward) - beta * kl_divergence(log_policy, log_ref)


@checked("reward log_policy log_ref", reward=check_finite)
def kl_shaped_reward(reward: Tensor, log_policy: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """The reward that PPO is run on, r - beta (log pi - log pi_ref) (section 3, unnumbered).

    Its mean under pi is objective (3). Works on tables and on log-probabilities of sampled
    responses alike; all three tensors have one shape. It is +inf where pi is 0, as the
    logarithm says; such a response is never drawn and must not enter a mean over a table.
    """
    return reward - implicit_reward(log_policy, log_ref, beta)


def log_partition(reward: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """log Z(x) = log sum_y pi_ref(y | x) exp(r(x, y) / beta) (section 4, unnumbered).

    Returns:
        shape (..., prompts), in nats. beta log Z lies between the reference's mean reward and
        the largest reward that the reference can reach.

    Raises:
        ValueError: for beta <= 0, a reward that is not finite, or a row of log_ref that is no
            distribution.
    """
    weights, top = _log_weights(reward, log_ref, beta)
    return weights.logsumexp(-1) + top.squeeze(-1) / beta


def optimal_log_policy(reward: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """Log-probabilities of the policy that maximises objective (3), equation (4).

    log pi(y | x) = log pi_ref(y | x) + r(x, y) / beta - log Z(x)

    Args:
        reward: r(x, y), shape (..., prompts, responses), reward units.
        log_ref: log pi_ref(y | x), same shape, nats.
        beta: KL strength, > 0, in reward units per nat.

    Returns:
        log pi(y | x), same shape; -inf exactly where log_ref is.

    Raises:
        ValueError: as `log_partition`.
    """
    weights, _ = _log_weights(reward, log_ref, beta)
    return weights - weights.logsumexp(-1, keepdim=True)


@checked(
    "policy_logps ref_logps",
    beta=check_beta,
    policy_logps=check_not_nan,
    ref_logps=check_not_nan,
)
def implicit_reward(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """The part of equation (5) that depends on the response: beta log(pi / pi_ref).

    Args:
        policy_logps, ref_logps: log-probabilities of one shape, in nats.
        beta: KL strength, > 0, in reward units per nat.

    Returns:
        the same shape, reward units; -inf where the policy is 0, also where both are 0 (a
        response that never occurs has no reward, and -inf keeps it from occurring).
    """
    impossible = policy_logps.isneginf()
    return beta * (policy_logps - ref_logps.masked_fill(impossible, 0.0))


def reward_from_policy(
    log_policy: Tensor, log_ref: Tensor, beta: float, log_partition: Tensor
) -> Tensor:
    """Equation (5) whole: r(x, y) = beta log(pi_r / pi_ref) + beta log Z(x).

    Args:
        log_policy, log_ref: shape (..., prompts, responses).
        log_partition: log Z(x), shape (..., prompts). It cannot be read off the policy: each
            choice gives another reward with the same optimal policy.

    Returns:
        r(x, y), shape (..., prompts, responses); -inf outside the policy's support.
    """
    check_same_shape(log_partition=log_partition, prompts=log_policy[..., 0])
    check_finite("log_partition", log_partition)
    return implicit_reward(log_policy, log_ref, beta) + beta * log_partition.unsqueeze(-1)


def policy_preference(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """The preference that a policy implies, equation (6): equation (1) at implicit rewards.

    log Z(x) is the same for both responses and cancels, so it is not needed.

    Returns:
        p(y1 > y2 | x), the shape of the four arguments.
    """
    return bradley_terry(
        implicit_reward(policy_chosen_logps, ref_chosen_logps, beta),
        implicit_reward(policy_rejected_logps, ref_rejected_logps, beta),
    )


def policy_ranking_logp(
    policy_logps: Tensor, ref_logps: Tensor, ranking: Tensor, beta: float
) -> Tensor:
    """The ranking that a policy implies, the logarithm of equation (19).

    Equation (18) at implicit rewards; log Z(x) is the same for all responses and cancels.

    Args:
        policy_logps, ref_logps: shape (..., responses), in nats.
        ranking: K different responses from best to worst, shape (..., K).

    Returns:
        log-probabilities of the rankings, shape (...), in nats.
    """
    return plackett_luce_logp(implicit_reward(policy_logps, ref_logps, beta), ranking)


@checked("reward other", reward=check_finite, other=check_finite)
def are_equivalent(reward: Tensor, other: Tensor, tolerance: float = 1e-9) -> Tensor:
    """Whether two rewards differ by a function of the prompt alone, Definition 1.

    Args:
        reward, other: shape (..., prompts, responses), reward units.
        tolerance: largest spread of the differences of one prompt that counts as rounding.

    Returns:
        bool, shape (..., prompts). Rewards are equivalent if all prompts say so.
    """
    difference = reward - other
    return difference.amax(-1) - difference.amin(-1) <= tolerance


def project(reward: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """The member of a reward's class with Z(x) = 1: the paper's f(r; pi_ref, beta), equation (8).

    f(r) = r - beta log Z(x). It is the one member of the class that is an implicit reward,
    beta log(pi_r / pi_ref): Theorem 1, equations (9) and (23)-(25), and Proposition 1.

    Args:
        reward, log_ref: shape (..., prompts, responses).
        beta: > 0, reward units per nat.

    Returns:
        the same shape, reward units.
    """
    return reward - beta * log_partition(reward, log_ref, beta).unsqueeze(-1)


def soft_advantage(reward: Tensor, log_policy: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """What equation (10) averages: f(r) - beta log(pi / pi_ref) = beta log(pi* / pi).

    It is PPO's reward with the reference's soft value, beta log Z(x), as the baseline. Its mean
    under pi is -beta KL(pi || pi*), and at the optimum it is 0 for every response.

    Args:
        reward, log_policy, log_ref: shape (..., prompts, responses).
        beta: > 0, reward units per nat.

    Returns:
        the same shape, reward units; +inf where pi is 0, as in `kl_shaped_reward`.
    """
    return kl_shaped_reward(project(reward, log_ref, beta), log_policy, log_ref, beta)


@checked("reward log_ref", beta=check_beta, log_ref=check_log_policy)
def _log_weights(reward: Tensor, log_ref: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """log pi_ref + (r - top) / beta and top, the largest reward on the support.

    Subtracting the maximum *before* dividing matters: at beta = 1e-12 the quotient r / beta
    would swallow log pi_ref in rounding.
    """
    impossible = log_ref.isneginf()
    check_finite("reward", reward.masked_fill(impossible, 0.0))  # (5) gives -inf there
    top = reward.masked_fill(impossible, -torch.inf).amax(-1, keepdim=True)
    tilt = ((reward - top) / beta).masked_fill(impossible, 0.0)
    return log_ref + tilt, top


def _log_ratio(log_policy: Tensor, log_ref: Tensor) -> Tensor:
    """log pi - log pi_ref, with 0 where pi = 0, so that 0 log 0 = 0 in value and gradient."""
    impossible = log_policy.isneginf()
    return log_policy.masked_fill(impossible, 0.0) - log_ref.masked_fill(impossible, 0.0)
