"""Part II, from reward to policy: chapters 5 to 7."""

from collections.abc import Callable

import torch

from dpo_lib.losses import dpo_loss
from dpo_lib.objective import implicit_reward, log_partition, optimal_log_policy, reward_from_policy
from dpo_lib.page.exercises.verdicts import Verdict, compare, world_inputs


def check_stable_log_partition(attempt: Callable) -> Verdict:
    """Chapter 5: log Z(x) that survives rewards of a thousand at beta 0.01."""
    return compare(
        attempt,
        log_partition,
        [*world_inputs(51), *world_inputs(52, betas=(0.01,), reward_scale=1000.0)],
        "log Z(x) is right, also where exp(r / beta) would overflow.",
        "write Z(x) as one logarithm of a sum of exponentials, and let torch.logsumexp add "
        "them; exp(r / beta) alone overflows.",
    )


def check_tempered_policy(attempt: Callable) -> Verdict:
    """Chapter 5: the optimum for a reward multiplied by a, from the optimum's own formula."""
    inputs = [(*world, scale) for world in world_inputs(53) for scale in (0.5, 2.0)]
    return compare(
        attempt,
        lambda reward, log_ref, beta, scale: optimal_log_policy(scale * reward, log_ref, beta),
        inputs,
        "multiplying the reward by a is the same as dividing beta by a.",
        "reward and beta enter equation (4) through r / beta alone.",
    )


def check_calibrated_reward(attempt: Callable) -> Verdict:
    """Chapter 6: all rewards from an optimal policy and the true reward of response 0."""

    def truth(log_policy, log_ref, beta, known):
        log_z = known / beta - (log_policy - log_ref)[..., 0]  # equation (5) at response 0
        return reward_from_policy(log_policy, log_ref, beta, log_z)

    return compare(
        attempt,
        truth,
        [
            (optimal_log_policy(reward, log_ref, beta), log_ref, beta, reward[..., 0])
            for reward, log_ref, beta in world_inputs(61)
        ],
        "one known reward per prompt brings all the others back.",
        "implicit rewards are right up to one number per prompt; choose it so that response 0 "
        "gets its known reward.",
    )


def check_proposal_variance(attempt: Callable) -> Verdict:
    """Chapter 6: relative variance of one draw of pi_ref / q exp(r / beta), y ~ q."""

    def truth(reward, log_ref, log_proposal, beta):
        draw = (log_ref + reward / beta - log_proposal).exp()
        mean = log_partition(reward, log_ref, beta).exp().unsqueeze(-1)
        return (log_proposal.exp() * (draw / mean - 1).square()).sum(-1)

    return compare(
        attempt,
        truth,
        [
            (reward, log_ref, proposal, beta)
            for reward, log_ref, beta in world_inputs(62, betas=(0.5, 1.0, 10.0))
            for proposal in (
                log_ref,
                reward.log_softmax(-1),
                optimal_log_policy(reward, log_ref, beta),
            )
        ],
        "the variance is the chi-square divergence of the optimum from the proposal.",
        "divided by Z, one draw is pi* / q; its mean under q is 1, so its variance is its mean "
        "square minus 1.",
    )


def check_dpo_loss(attempt: Callable) -> Verdict:
    """Chapter 7: equation (7) from four log-probabilities, also at margins of thousands."""
    generator = torch.Generator().manual_seed(71)
    logps = -20 * torch.rand(4, 8, generator=generator, dtype=torch.float64)
    return compare(
        attempt,
        dpo_loss,
        [(*(scale * logps), beta) for scale in (1.0, 1000.0) for beta in (0.1, 1.0)],
        "equation (7) is right, also where the sigmoid rounds to 0.",
        "the margin is beta times the difference of two log-ratios, each policy minus reference; "
        "take the logarithm of the sigmoid in one stable function.",
    )


def check_changed_reference(attempt: Callable) -> Verdict:
    """Chapter 7: the DPO optimum for another reference, from the old optimum and both."""
    return compare(
        attempt,
        lambda log_policy, log_ref, other_ref: optimal_log_policy(
            implicit_reward(log_policy, log_ref, 1.0), other_ref, 1.0
        ),
        [
            (optimal_log_policy(reward, log_ref, beta), log_ref, log_ref.flip(-1))
            for reward, log_ref, beta in world_inputs(72)
        ],
        "the labels fix the ratio to the reference; the reference may be exchanged.",
        "which quantity do the labels determine? Keep it, and normalise at the end.",
    )
