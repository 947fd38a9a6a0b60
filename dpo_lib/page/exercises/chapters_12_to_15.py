"""Part IV, when it works and when it does not: chapters 12 to 15."""

from collections.abc import Callable

import torch

from dpo_lib.objective import optimal_log_policy
from dpo_lib.page.exercises.verdicts import Verdict, compare, world_inputs
from dpo_lib.preferences import preference_table
from dpo_lib.world import random_world


def check_preferred_ft(attempt: Callable) -> Verdict:
    """Chapter 12: where Preferred-FT ends with endless labels, in log-probabilities."""

    def truth(reward, log_ref):
        pairs = log_ref.exp().unsqueeze(-1) * log_ref.exp().unsqueeze(-2)
        return (pairs * preference_table(reward)).sum(-1).mul(2).log()

    return compare(
        attempt,
        truth,
        [(reward, log_ref) for reward, log_ref, _ in world_inputs(121)],
        "it is the distribution of the winner of a pair.",
        "both answers are drawn from the reference; with which probability is y one of the two, "
        "and with which does it then win?",
    )


def check_ipo_optimum(attempt: Callable) -> Verdict:
    """Chapter 13: the policy at which IPO stops if all pairs are compared equally often."""

    def truth(preferences, log_ref, tau):
        # The normal equations of the least-squares problem, one row for each pair (i, j).
        responses = log_ref.shape[-1]
        first, second = torch.triu_indices(responses, responses, offset=1)
        rows = torch.eye(responses, dtype=torch.float64)
        rows = rows[first] - rows[second]
        surplus = preferences[..., first, second] - preferences[..., second, first]
        ratio = surplus / (2 * tau) @ torch.linalg.pinv(rows).mT
        return (log_ref + ratio).log_softmax(-1)

    generator = torch.Generator().manual_seed(131)
    worlds = [random_world(generator, 2, responses) for responses in (2, 3, 6)]
    return compare(
        attempt,
        truth,
        [
            (preference_table(world.true_reward), world.log_ref, tau)
            for world in worlds
            for tau in (0.1, 1.0, 10.0)
        ],
        "no pair has its margin 1 / (2 tau), and the sum of the squared misses is smallest.",
        "where is the mean loss of one pair least? Then set the slope in each log-ratio to zero; "
        "if the log-ratios are centred, the sum over the opponents becomes K times one of them.",
    )


def check_answer_slopes(attempt: Callable) -> Verdict:
    """Chapter 14: how fast each log-probability moves if answer 0 is preferred to answer 1."""

    def automatic(features, log_policy):
        direction = features[..., 0, :] - features[..., 1, :]

        def moved(t):
            shift = (features * (t * direction).unsqueeze(-2)).sum(-1)
            return (log_policy + shift).log_softmax(-1)

        zero = torch.zeros((), dtype=features.dtype)
        return torch.autograd.functional.jvp(moved, zero, torch.ones_like(zero))[1]

    generator = torch.Generator().manual_seed(141)
    inputs = []
    for responses, d in ((2, 1), (3, 2), (6, 4)):
        features = torch.randn(5, responses, d, generator=generator, dtype=torch.float64)
        log_policy = random_world(generator, 5, responses).log_ref
        inputs.append((features, log_policy))
    return compare(
        attempt,
        automatic,
        inputs,
        "the slopes are right, and weighted by the policy they sum to zero.",
        "take the product of each answer's features with the direction first; what must be "
        "subtracted from these numbers is their mean, but under which weights?",
    )


def check_unbiased_loss(attempt: Callable) -> Verdict:
    """Chapter 15: a loss whose mean over flipped labels is the loss at the true label."""
    generator = torch.Generator().manual_seed(151)

    def truth(loss, opposite, flip_rate):
        flips = torch.tensor([[1 - flip_rate, flip_rate], [flip_rate, 1 - flip_rate]])
        return torch.linalg.solve(flips.double(), torch.stack([loss, opposite]))[0]

    return compare(
        attempt,
        truth,
        [
            (*torch.rand(2, 6, generator=generator, dtype=torch.float64), rate)
            for rate in (0.0, 0.2, 0.45)
        ],
        "its mean over flips is the loss at the true label, whatever the loss.",
        "try a loss + b opposite; write its mean over a flip and ask that the opposite drops out.",
        tolerance=1e-6,
    )


def check_ipo_policy(attempt: Callable) -> Verdict:
    """Chapter 15: where IPO ends on endless labels of all pairs, from the preference table."""
    inputs = []
    for reward, log_ref, beta in world_inputs(152):
        noise = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(153)).double()
        cyclic = torch.sigmoid(noise - noise.mT)  # preferences that no reward explains
        inputs += [(preference_table(reward), log_ref, beta), (cyclic, log_ref, beta)]
    return compare(
        attempt,
        lambda preferences, log_ref, beta: optimal_log_policy(preferences.mean(-1), log_ref, beta),
        inputs,
        "IPO's policy is equation (4) for the win rate.",
        "which number of each answer takes the place of the reward, and how does it enter "
        "equation (4)?",
    )
