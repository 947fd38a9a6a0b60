"""Part III, why this is allowed: chapters 8 to 11, and the neighbours."""

from collections.abc import Callable

import torch

from dpo_lib.evaluation import optimal_baseline
from dpo_lib.objective import optimal_log_policy, project
from dpo_lib.page.exercises.verdicts import Verdict, compare, gradient_of, world_inputs
from dpo_lib.preferences import plackett_luce_logp
from dpo_lib.world import random_world


def check_class_distance(attempt: Callable) -> Verdict:
    """Chapter 8: how far two classes are apart, min over f(x) of max |r - r' - f(x)|."""
    generator = torch.Generator().manual_seed(81)
    worlds = [random_world(generator, 2, responses).true_reward for responses in (2, 3, 7)]
    shift = torch.tensor([[5.0], [-40.0]], dtype=torch.float64)
    return compare(
        attempt,
        lambda reward, other: ((reward - other).amax(-1) - (reward - other).amin(-1)) / 2,
        [
            (reward, other + shift)
            for reward in worlds
            for other in (reward, 2 * reward, reward.square())
        ],
        "the distance is zero within a class and does not see any shift.",
        "the differences of one prompt fill an interval; which shift brings both of its ends "
        "nearest to zero?",
    )


def check_member_with_partition(attempt: Callable) -> Verdict:
    """Chapter 9: the member of a reward's class with a given partition function Z(x)."""

    def truth(reward, log_ref, beta, z):
        return project(reward, log_ref, beta) + beta * z.log().unsqueeze(-1)

    return compare(
        attempt,
        truth,
        [(*world, torch.tensor([0.5, 20.0], dtype=torch.float64)) for world in world_inputs(91)],
        "each class has one member for each value of Z(x).",
        "what does adding c(x) to the reward do to Z(x)? Start at the member with Z(x) = 1.",
    )


def check_blended_policy(attempt: Callable) -> Verdict:
    """Chapter 9: the optimum for the average of two rewards, from the two optima."""
    inputs = []
    for reward, log_ref, beta in world_inputs(92):
        pair = (reward, reward.flip(-1) - 3.0)
        policies = [optimal_log_policy(table, log_ref, beta) for table in pair]
        mean = optimal_log_policy((pair[0] + pair[1]) / 2, log_ref, beta)
        inputs.append((*policies, mean))
    return compare(
        lambda log_policy, other, _: attempt(log_policy, other),
        lambda log_policy, other, mean: mean,
        inputs,
        "averaging rewards is a geometric mean of policies.",
        "average the two implicit rewards and put the result into equation (4): what happens to "
        "the reference and to beta? Normalise at the end.",
    )


def _rankings(seed: int):
    """(rewards, ranking): all of 2, 3 or 5 responses, and 3 of 5."""
    generator = torch.Generator().manual_seed(seed)
    for responses, shown in ((2, 2), (3, 3), (5, 5), (5, 3)):
        rewards = 2 * torch.randn(responses, generator=generator, dtype=torch.float64)
        yield rewards, torch.randperm(responses, generator=generator)[:shown]


def check_ranking_gradient(attempt: Callable) -> Verdict:
    """Chapter 10: the gradient of (20) in the implicit rewards, equal to autograd's."""
    return compare(
        attempt,
        gradient_of(lambda rewards, ranking: -plackett_luce_logp(rewards, ranking)),
        _rankings(101),
        "each response is pushed by how often it was expected next, minus once for its place.",
        "go through the places: who is still there, with which probability does the model expect "
        "each of them next, and who came?",
    )


def check_worst_first(attempt: Callable) -> Verdict:
    """Chapter 10: the log-probability of a ranking that was made from the last place upwards."""
    return compare(
        attempt,
        lambda rewards, ranking: plackett_luce_logp(-rewards, ranking.flip(-1)),
        _rankings(102),
        "striking out the worst is Plackett-Luce for the opposite reward, read backwards.",
        "which place is filled first, and by which weights? Both the list and the reward change.",
    )


def check_optimal_baseline(attempt: Callable) -> Verdict:
    """Chapter 11: the baseline with the smallest variance of the score-function gradient."""
    return compare(
        attempt,
        optimal_baseline,
        [(log_ref, reward / beta) for reward, log_ref, beta in world_inputs(111)],
        "the variance is smallest there, whatever the policy and the scores.",
        "it is an average of the scores in which a response counts by its probability times the "
        "squared length of grad log pi; divide by the sum of these weights.",
    )


def check_leave_one_out(attempt: Callable) -> Verdict:
    """Chapter 11: for each draw the mean score of the other draws of its prompt."""
    generator = torch.Generator().manual_seed(112)

    def truth(scores):
        return torch.stack(
            [
                torch.cat([scores[:, :n], scores[:, n + 1 :]], -1).mean(-1)
                for n in range(scores.shape[-1])
            ],
            -1,
        )

    return compare(
        attempt,
        truth,
        [
            (torch.randn(2, draws, generator=generator, dtype=torch.float64),)
            for draws in (2, 4, 16)
        ],
        "no draw is part of its own baseline.",
        "take each draw's own score out of the sum, and count how many are left.",
    )


def check_regression_round(attempt: Callable) -> Verdict:
    """Chapter 11: of its neighbours, the policy that a round of REBEL ends with."""
    return compare(
        attempt,
        lambda log_policy, reward, eta: optimal_log_policy(reward, log_policy, 1 / eta),
        [(log_ref, reward, 1 / beta) for reward, log_ref, beta in world_inputs(113)],
        "a round is one step of (4), with the round's first policy as its reference.",
        "every gap of log-ratios can be eta times the reward gap at once; normalise at the end.",
    )
