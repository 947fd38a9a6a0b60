"""Part I, what RLHF optimises: chapters 1 to 4."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from dpo_lib.evaluation import centre
from dpo_lib.losses import ppo_clip_loss, table_loss
from dpo_lib.objective import implicit_reward, objective
from dpo_lib.page.exercises.verdicts import Verdict, compare, gradient_of, world_inputs
from dpo_lib.preferences import preference_table
from dpo_lib.world import random_world


def check_reward_from_preferences(attempt: Callable) -> Verdict:
    """Chapter 1: the centred reward behind a table of Bradley-Terry probabilities."""
    return compare(
        lambda reward: attempt(preference_table(reward)),
        centre,
        [(reward,) for reward, _, _ in world_inputs(11)],
        "the rewards come back, each prompt's averaging to zero.",
        "turn every probability into the gap r_i - r_j first; then think what the gaps of one "
        "response average to.",
    )


def check_reward_gradient(attempt: Callable) -> Verdict:
    """Chapter 2: the gradient of (2), summed over the labels of a win table."""
    generator = torch.Generator().manual_seed(21)
    inputs = []
    for responses in (2, 3, 6):
        world = random_world(generator, prompts=2, responses=responses)
        wins = torch.randint(9, (2, responses, responses), generator=generator).double()
        wins.diagonal(dim1=-2, dim2=-1).zero_()
        inputs.append((world.true_reward, wins))
    return compare(
        attempt,
        gradient_of(lambda reward, wins: wins.sum() * table_loss(reward, wins)),
        inputs,
        "each response's gradient is its predicted wins minus its observed wins.",
        "response i met response j wins[i, j] + wins[j, i] times; how often does the model expect "
        "it to win, and how often did it?",
    )


def check_objective_gradient(attempt: Callable) -> Verdict:
    """Chapter 3: the gradient of objective (3) in the logits, equal to autograd's."""
    generator = torch.Generator().manual_seed(31)
    inputs = [
        (torch.randn(2, 6, generator=generator, dtype=torch.float64), *world)
        for world in world_inputs(32)
    ]
    return compare(
        attempt,
        gradient_of(lambda logits, *world: objective(logits.log_softmax(-1), *world).sum()),
        inputs,
        "the gradient is right at three values of beta, away from the reference.",
        "weigh how far each shaped reward lies from its mean by the response's probability; the "
        "log-ratio belongs to the shaped reward.",
    )


def check_clip_slope(attempt: Callable) -> Verdict:
    """Chapter 4: the derivative of the clipped surrogate in the log-probability, by cases."""
    generator = torch.Generator().manual_seed(43)
    inputs = [
        (*torch.randn(3, 8, 5, generator=generator, dtype=torch.float64), clip_range)
        for clip_range in (0.1, 0.2, 0.5)
    ]
    return compare(
        attempt,
        gradient_of(lambda *terms: -ppo_clip_loss(*terms).sum()),
        inputs,
        "silent after a good move that went far enough, and nowhere else.",
        "the ratio is its own derivative in the log-probability; which two of the four cases "
        "outside the interval are silent?",
    )


def check_token_rewards(attempt: Callable) -> Verdict:
    """Chapter 4: InstructGPT's reward of each token, the KL at each and the score at the last."""

    def truth(scores, policy_tokens, ref_tokens, beta):
        penalty = -implicit_reward(policy_tokens, ref_tokens, beta)
        return penalty + F.pad(scores.unsqueeze(-1), (policy_tokens.shape[-1] - 1, 0))

    generator = torch.Generator().manual_seed(41)
    inputs = []
    for beta, steps in ((0.1, 1), (1.0, 3), (5.0, 4)):
        score, policy, ref = torch.rand(3, 6, steps, generator=generator, dtype=torch.float64).log()
        inputs.append((score[:, 0], policy, ref, beta))
    return compare(
        attempt,
        truth,
        inputs,
        "the penalty is paid at each token and the score arrives once.",
        "each token pays beta times its own log-ratio; the sum over tokens must be the shaped "
        "reward of the whole response.",
    )


def check_bonus_optimum(attempt: Callable) -> Verdict:
    """Chapter 4: the optimum of objective (3) plus an entropy bonus, as one call of (4)."""
    return compare(
        attempt,
        lambda reward, log_ref, beta, bonus: (
            (reward + beta * log_ref) / (beta + bonus)
        ).log_softmax(-1),
        [(*world, bonus) for world in world_inputs(42) for bonus in (0.0, 0.3)],
        "an entropy bonus is a larger beta and a reward that is lower where the reference is high.",
        "collect the terms that contain log pi: how large is their common factor? What is left "
        "over belongs to the reward.",
    )
