"""The losses of the paper: reward model (2), DPO (7), rankings (20), PPO's; advantages in groups.

Losses take log-probabilities or rewards, never models, and return one value for each pair or
step; averaging belongs to the training loop. The language-model half of the library uses these
same functions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lib._checks import (
    check_finite,
    check_not_nan,
    check_positive,
    check_same_shape,
    check_share,
    checked,
)
from dpo_lib.objective import implicit_reward, policy_ranking_logp


def reward_loss(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Negative log-likelihood of each preference, equation (2).

    -log sigmoid(r(x, y_w) - r(x, y_l)), the logarithm of equation (1) with the sign turned.

    Args:
        chosen_rewards, rejected_rewards: same shape, reward units. An infinite reward is
            allowed where it has a limit; two infinities of one sign are not.

    Returns:
        the same shape, in nats, at least 0; +inf if an impossible response was chosen.
    """
    return -F.logsigmoid(_margin(chosen_rewards, rejected_rewards))


def dpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """The DPO loss of each pair, equation (7): equation (2) at the implicit rewards of (5).

    Args:
        policy_chosen_logps, policy_rejected_logps: log pi_theta of the whole response, summed
            over its tokens, shape (batch,), nats.
        ref_chosen_logps, ref_rejected_logps: the same under the reference policy.
        beta: > 0, reward units per nat.

    Returns:
        shape (batch,), nats; log 2 where policy and reference agree.
    """
    return reward_loss(
        implicit_reward(policy_chosen_logps, ref_chosen_logps, beta),
        implicit_reward(policy_rejected_logps, ref_rejected_logps, beta),
    )


def dpo_weight(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """How strongly a pair pulls in the gradient of (7): sigma(r_hat_l - r_hat_w) (section 4).

    The gradient is -beta times this weight times (grad log pi(y_w) - grad log pi(y_l)). The
    weight is near 1 where the implicit reward ranks the pair wrongly, near 0 where it is sure.
    """
    chosen = implicit_reward(policy_chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(policy_rejected_logps, ref_rejected_logps, beta)
    return torch.sigmoid(-_margin(chosen, rejected))


def plackett_luce_dpo_loss(
    policy_logps: Tensor, ref_logps: Tensor, ranking: Tensor, beta: float
) -> Tensor:
    """The DPO loss of each ranking, equation (20): minus the logarithm of (19).

    Args:
        policy_logps, ref_logps: log-probabilities of whole responses, shape (..., responses).
        ranking: K different responses from best to worst, shape (..., K); with K = 2 this is
            `dpo_loss`.
        beta: > 0, reward units per nat.

    Returns:
        shape (...), nats; log K! where policy and reference agree.
    """
    return -policy_ranking_logp(policy_logps, ref_logps, ranking, beta)


def table_loss(table: Tensor, wins: Tensor) -> Tensor:
    """Equation (2) averaged over a win table, with a table of rewards.

    With r the loss is the reward model's; with the implicit reward it is DPO's (7).

    Args:
        table: rewards or implicit rewards, shape (..., prompts, responses).
        wins: counts or probabilities, shape (..., prompts, responses, responses).

    Returns:
        shape (...), nats for each label. Pairs of weight 0 play no part.

    Raises:
        ValueError: if two infinite rewards of one sign, or NaN, were compared.
    """
    check_same_shape(table=table, winners=wins[..., 0], losers=wins[..., 0, :])
    seen = wins > 0
    winners, losers = (table.unsqueeze(axis).where(seen, 0.0) for axis in (-1, -2))
    loss = reward_loss(winners, losers)  # (..., prompts, responses, responses)
    return (wins * loss).sum((-3, -2, -1)) / wins.sum((-3, -2, -1))


@checked("logps old_logps advantages", clip_range=check_positive)
def ppo_clip_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, clip_range: float = 0.2
) -> Tensor:
    """PPO's clipped surrogate with the sign turned, PPO (7): -min(rho A, clip(rho) A).

    Args:
        logps: log pi_theta of the actions taken, any shape.
        old_logps: the same under the policy that took them (constants).
        advantages: how much better than expected each action was, same shape.
        clip_range: epsilon > 0; the ratio rho = pi_theta / pi_old is held in [1-eps, 1+eps].
    """
    ratio = _ratio(logps, old_logps)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages)


@checked("logps old_logps advantages kl_to_old")
def ppo_kl_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    kl_to_old: Tensor,
    coefficient: float | Tensor,
) -> Tensor:
    """PPO's KL-penalty form with the sign turned, PPO (8): -(rho A - coefficient KL).

    Args:
        kl_to_old: KL(pi_old || pi_theta), the divergence to the *previous* policy. It limits
            the step and has nothing to do with the reference policy of objective (3).
        coefficient: PPO's own beta, at least 0, a number or one for each action; see
            `adapted_coefficient`.
    """
    return -(_ratio(logps, old_logps) * advantages - coefficient * kl_to_old)


@checked(coefficient=check_positive, target=check_positive)
def adapted_coefficient(coefficient: float, kl: float, target: float) -> float:
    """PPO's rule for the coefficient of (8): halve below target/1.5, double above 1.5 target."""
    if kl < target / 1.5:
        return coefficient / 2
    if kl > target * 1.5:
        return coefficient * 2
    return coefficient


@checked("values returns")
def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """PPO's loss for the value function: (V(s_t) - V_t^target)^2, PPO (9)."""
    return (values - returns).square()


@checked(log_policy=check_not_nan)
def entropy(log_policy: Tensor) -> Tensor:
    """Entropy of each row in nats; PPO (9) *adds* it to what is maximised."""
    surprise = -log_policy.masked_fill(log_policy.isneginf(), 0.0)  # 0 log 0 = 0
    return (log_policy.exp() * surprise).sum(-1)


@checked("rewards values", gamma=check_share, lam=check_share)
def generalized_advantages(
    rewards: Tensor, values: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Tensor:
    """Generalised advantage estimation over finished episodes, PPO (11)-(12).

    A_t = sum_l (gamma lam)^l delta_{t+l},  delta_t = r_t + gamma V(s_{t+1}) - V(s_t),
    and V = 0 after the last step.

    Args:
        rewards, values: shape (..., steps).
        gamma: discount in [0, 1]; RLHF uses 1.
        lam: in [0, 1]; 0 trusts the value function, 1 the returns.

    Returns:
        advantages, shape (..., steps); the value function's targets are advantages + values.
    """
    deltas = rewards + gamma * F.pad(values[..., 1:], (0, 1)) - values
    advantages, running = [], torch.zeros_like(deltas[..., 0])
    for delta in deltas.flip(-1).unbind(-1):
        running = delta + gamma * lam * running
        advantages.append(running)
    return torch.stack(advantages[::-1], dim=-1)


def _check_group(name: str, scores: Tensor) -> None:
    check_finite(name, scores)
    if scores.dim() == 0 or scores.shape[-1] < 2:
        raise ValueError(f"{name} needs two draws or more, got shape {tuple(scores.shape)}")


@checked(scores=_check_group)
def leave_one_out_advantages(scores: Tensor) -> Tensor:
    """RLOO: each draw's score minus the mean score of the other draws of its prompt.

    Scores have shape (..., draws); for objective (3) they are `kl_shaped_reward`.
    Source: Ahmadian et al. 2024 (arXiv 2402.14740); TRL's `RLOOTrainer`.
    """
    draws = scores.shape[-1]
    return (scores - scores.mean(-1, keepdim=True)) * draws / (draws - 1)


@checked(scores=_check_group)
def group_advantages(scores: Tensor) -> Tensor:
    """GRPO: each draw's score minus the mean of its group, divided by their standard deviation.

    The deviation is the group's own, with 1/n: two unequal scores get 1 and -1. TRL's
    `GRPOTrainer` divides by the sample's, with 1/(n - 1), plus 1e-4: a shorter step.
    Scores have shape (..., draws); equal ones push nothing.
    Source: DeepSeekMath, Shao et al. 2024 (arXiv 2402.03300).
    """
    centred = scores - scores.mean(-1, keepdim=True)
    equal = (scores == scores[..., :1]).all(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    return torch.where(equal, 0.0, centred / torch.where(equal, 1.0, spread))


def unlikelihood_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, alpha: float
) -> Tensor:
    """The paper's unlikelihood baseline (appendix C.3): -(log pi(y_w) - alpha log pi(y_l))."""
    check_same_shape(chosen=policy_chosen_logps, rejected=policy_rejected_logps)
    return -(policy_chosen_logps - alpha * policy_rejected_logps)


@checked("chosen_rewards rejected_rewards")
def _margin(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    margin = chosen_rewards - rejected_rewards
    if margin.device.type == "cpu" and margin.detach().isnan().any():
        raise ValueError("chosen_rewards - rejected_rewards is NaN: no preference between them")
    return margin


def _ratio(logps: Tensor, old_logps: Tensor) -> Tensor:
    """pi_theta / pi_old, finite: past the largest float a clipped ratio's gradient is 0 * inf."""
    largest = math.log(torch.finfo(logps.dtype).max) - 1
    return (logps - old_logps).clamp(max=largest).exp()
