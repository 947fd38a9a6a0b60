"""How far a policy or a reward is from another, and the best that any policy can do."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dpo_lib._checks import check_finite, check_log_policy, check_same_shape
from dpo_lib.objective import expected_reward, kl_divergence, optimal_log_policy


def total_variation(log_policy: Tensor, other: Tensor) -> Tensor:
    """Half the sum of |p - q| for each prompt: the largest difference on any event, in [0, 1]."""
    check_same_shape(log_policy=log_policy, other=other)
    check_log_policy("log_policy", log_policy)
    check_log_policy("other", other)
    return 0.5 * (log_policy.exp() - other.exp()).abs().sum(-1)


def centre(reward: Tensor) -> Tensor:
    """The reward minus its mean over responses: one member of each class r + f(x)."""
    return reward - reward.mean(-1, keepdim=True)


def reward_error(reward: Tensor, true_reward: Tensor) -> Tensor:
    """Root-mean-square difference of two rewards after centring each prompt, reward units.

    Preferences cannot see a shift that depends on the prompt alone, so it does not count.

    Returns:
        shape (..., prompts).
    """
    check_same_shape(reward=reward, true_reward=true_reward)
    check_finite("reward", reward)
    check_finite("true_reward", true_reward)
    return (centre(reward) - centre(true_reward)).square().mean(-1).sqrt()


def frontier(
    reward: Tensor, log_ref: Tensor, betas: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The exact reward-KL frontier: equation (4) along a grid of beta.

    Returns:
        log-policies (betas, ..., prompts, responses), expected rewards and KL divergences, both
        (betas, ..., prompts). No policy has more reward at the same KL.
    """
    policies = torch.stack([optimal_log_policy(reward, log_ref, beta) for beta in betas])
    rewards = torch.stack([expected_reward(policy, reward) for policy in policies])
    divergences = torch.stack([kl_divergence(policy, log_ref) for policy in policies])
    return policies, rewards, divergences


def best_of_n(log_ref: Tensor, reward: Tensor, n: int) -> Tensor:
    """Log-probabilities of Best-of-N: the best of n draws from the reference, exactly.

    The best of n draws is at most y if all n are, so with F(y) the reference's probability of a
    reward at most r(y), and F-(y) of a smaller one, Best-of-N gives F(y)^n - F-(y)^n to y. Ties
    share it in proportion to the reference: the first of the best draws is taken.

    Args:
        log_ref: log pi_ref(y | x), shape (..., prompts, responses), nats.
        reward: what the best is chosen by, same shape, reward units. For each prompt memory
            grows with the square of the number of responses.
        n: number of draws, at least 1; 1 is the reference.

    Returns:
        log pi(y | x), same shape; -inf exactly where log_ref is.

    Raises:
        ValueError: for n < 1, a reward that is not finite, or a row of log_ref that is no
            distribution.

    Source: Beirami et al. 2024 (arXiv 2401.01879); the paper's Best-of-N baseline, section 6.
    """
    if not n >= 1:
        raise ValueError(f"n must be at least 1, got {n}")
    check_same_shape(log_ref=log_ref, reward=reward)
    check_log_policy("log_ref", log_ref)
    check_finite("reward", reward)

    def log_mass(members: Tensor) -> Tensor:
        return log_ref.unsqueeze(-2).where(members, -torch.inf).logsumexp(-1)

    mine, others = reward.unsqueeze(-1), reward.unsqueeze(-2)  # (..., responses, responses)
    log_ties, log_f = log_mass(others == mine), log_mass(others <= mine)
    # F^n - F-^n = F^n (1 - (1 - ties / F)^n), without the difference of two nearby numbers.
    log_share = (log_ties - log_f).clamp(max=0.0)
    log_some = (-torch.expm1(n * torch.log1p(-log_share.exp()))).log()  # of n draws one ties
    rare = math.log(n) + log_share < math.log(torch.finfo(log_ref.dtype).eps)
    log_some = torch.where(rare, math.log(n) + log_share, log_some)  # exp may underflow there
    log_policy = log_ref + n * log_f + log_some - log_ties
    return log_policy.masked_fill(log_ref.isneginf(), -torch.inf)


def z_score(successes: Tensor, trials: Tensor | int, probability: Tensor) -> Tensor:
    """How many standard errors a count lies from its binomial expectation.

    The book calls a frequency compatible with a probability if |z| < 4 (one false alarm in
    16,000). Where the outcome is certain the score is 0, or infinite if it did not come.
    """
    surplus = successes - trials * probability
    spread = (trials * probability * (1 - probability)).sqrt()
    return torch.where(surplus == 0, 0.0, surplus / spread)


def chi_square_p(statistic: Tensor, degrees: int) -> Tensor:
    """Probability that a chi-square variable with `degrees` degrees of freedom is larger."""
    return torch.special.gammaincc(
        torch.tensor(degrees / 2, dtype=torch.float64), statistic.double() / 2
    )


def score_gradient_variance(log_policy: Tensor, reward: Tensor, baseline: Tensor) -> Tensor:
    """Variance of the score-function gradient from one drawn response, exactly.

    The estimator is (r(y) - baseline) grad log pi(y) with y ~ pi, its gradient in the logits of
    a tabular softmax. A baseline that depends on the prompt alone leaves its mean unchanged.

    Args:
        log_policy: shape (..., prompts, responses).
        reward: what the draw is weighted with, same shape, reward units; for objective (3) that
            is `kl_shaped_reward`. Responses of probability 0 play no part.
        baseline: shape (..., prompts), reward units.

    Returns:
        trace of the covariance, shape (..., prompts), squared reward units.
    """
    check_same_shape(log_policy=log_policy, reward=reward)
    check_same_shape(baseline=baseline, prompts=log_policy[..., 0])
    probability, size, reward = _scores(log_policy, reward)
    weight = reward - baseline.unsqueeze(-1)
    mean = probability * (weight - (probability * weight).sum(-1, keepdim=True))
    return (probability * weight.square() * size).sum(-1) - mean.square().sum(-1)


def optimal_baseline(log_policy: Tensor, reward: Tensor) -> Tensor:
    """The baseline with the smallest `score_gradient_variance`: E[r s] / E[s], s = |grad log pi|^2.

    Returns:
        shape (..., prompts), reward units; 0 for a policy that is sure of its response, where
        no baseline matters.
    """
    check_same_shape(log_policy=log_policy, reward=reward)
    probability, size, reward = _scores(log_policy, reward)
    total = (probability * size).sum(-1)
    return torch.where(total > 0, (probability * reward * size).sum(-1) / total, 0.0)


def _scores(log_policy: Tensor, reward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """pi, the squared length of grad log pi(y), and the reward with 0 where pi is 0."""
    check_log_policy("log_policy", log_policy)
    reward = reward.masked_fill(log_policy.isneginf(), 0.0)
    check_finite("reward", reward)
    probability = log_policy.exp()
    # In the logits, grad log pi(y) is the unit vector of y minus pi.
    size = 1 - 2 * probability + probability.square().sum(-1, keepdim=True)
    return probability, size, reward
