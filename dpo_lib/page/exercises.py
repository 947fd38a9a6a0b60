"""Self-checks for the chapters' exercises: a property to satisfy and a hint, never the solution.

A check takes the reader's function, tries it on random worlds, and returns a `Verdict` that a
notebook shows. It never raises: an unfinished stub is not an error.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dpo_lib.evaluation import centre, optimal_baseline
from dpo_lib.losses import dpo_loss, reward_loss, table_loss
from dpo_lib.objective import (
    expected_reward,
    implicit_reward,
    kl_divergence,
    log_partition,
    objective,
    optimal_log_policy,
    project,
    reward_from_policy,
)
from dpo_lib.preferences import plackett_luce_logp, preference_table
from dpo_lib.world import random_world


@dataclass(frozen=True)
class Verdict:
    """The outcome of a self-check: true if the exercise is solved."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{'Solved' if self.passed else 'Not yet'}: {self.message}"


def compare(
    attempt: Callable,
    truth: Callable,
    inputs: Iterable[tuple],
    property_: str,
    hint: str,
    tolerance: float = 1e-9,
) -> Verdict:
    """Try `attempt` on each tuple of inputs against `truth`.

    Args:
        property_: what the right function does, in words, shown when it is found.
        hint: shown with the first input on which the two differ.
        tolerance: largest allowed difference, absolute and relative.
    """
    for trial, arguments in enumerate(inputs, start=1):
        wanted = torch.as_tensor(truth(*arguments), dtype=torch.float64)
        try:
            got = attempt(*arguments)
            if got is None:
                return Verdict(False, f"the function returns nothing so far. Hint: {hint}")
            got = torch.as_tensor(got, dtype=torch.float64)
        except Exception as error:  # whatever a reader's first draft raises
            return Verdict(False, f"it raised {type(error).__name__}: {error}. Hint: {hint}")
        if got.shape != wanted.shape:
            shapes = f"shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            return Verdict(False, f"input {trial} gives {shapes}. Hint: {hint}")
        if not torch.allclose(got, wanted, rtol=tolerance, atol=tolerance):
            return Verdict(False, f"input {trial} gives another value. Hint: {hint}")
    return Verdict(True, property_)


def _worlds(seed: int, betas: tuple[float, ...] = (0.1, 1.0, 10.0), **sizes):
    """(reward, log_ref, beta) of random worlds, one for each beta."""
    generator = torch.Generator().manual_seed(seed)
    for beta in betas:
        world = random_world(generator, prompts=2, **sizes)
        yield world.true_reward, world.log_ref, beta


def check_reward_from_preferences(attempt: Callable) -> Verdict:
    """Chapter 1: the centred reward behind a table of Bradley-Terry probabilities."""
    return compare(
        lambda reward: attempt(preference_table(reward)),
        centre,
        [(reward,) for reward, _, _ in _worlds(11)],
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

    def automatic(reward, wins):
        reward = reward.clone().requires_grad_()
        return torch.autograd.grad(wins.sum() * table_loss(reward, wins), reward)[0]

    return compare(
        attempt,
        automatic,
        inputs,
        "each response's gradient is its predicted wins minus its observed wins.",
        "response i met response j wins[i, j] + wins[j, i] times; how often does the model expect "
        "it to win, and how often did it?",
    )


def check_objective_gradient(attempt: Callable) -> Verdict:
    """Chapter 3: the gradient of objective (3) in the logits, equal to autograd's."""

    def truth(logits, reward, log_ref, beta):
        logits = logits.clone().requires_grad_()
        total = objective(logits.log_softmax(-1), reward, log_ref, beta).sum()
        return torch.autograd.grad(total, logits)[0]

    generator = torch.Generator().manual_seed(31)
    inputs = [
        (torch.randn(2, 6, generator=generator, dtype=torch.float64), *world)
        for world in _worlds(32)
    ]
    return compare(
        attempt,
        truth,
        inputs,
        "the gradient is right at three values of beta, away from the reference.",
        "weigh how far each shaped reward lies from its mean by the response's probability; the "
        "log-ratio belongs to the shaped reward.",
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
        [(*world, bonus) for world in _worlds(42) for bonus in (0.0, 0.3)],
        "an entropy bonus is a larger beta and a reward that is lower where the reference is high.",
        "collect the terms that contain log pi: how large is their common factor? What is left "
        "over belongs to the reward.",
    )


def check_stable_log_partition(attempt: Callable) -> Verdict:
    """Chapter 5: log Z(x) that survives rewards of a thousand at beta 0.01."""
    return compare(
        attempt,
        log_partition,
        [*_worlds(51), *_worlds(52, betas=(0.01,), reward_scale=1000.0)],
        "log Z(x) is right, also where exp(r / beta) would overflow.",
        "write Z(x) as one logarithm of a sum of exponentials, and let torch.logsumexp add "
        "them; exp(r / beta) alone overflows.",
    )


def check_tempered_policy(attempt: Callable) -> Verdict:
    """Chapter 5: the optimum for a reward multiplied by a, from the optimum's own formula."""
    inputs = [(*world, scale) for world in _worlds(53) for scale in (0.5, 2.0)]
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
            for reward, log_ref, beta in _worlds(61)
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
            for reward, log_ref, beta in _worlds(62, betas=(0.5, 1.0, 10.0))
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
            for reward, log_ref, beta in _worlds(72)
        ],
        "the labels fix the ratio to the reference; the reference may be exchanged.",
        "which quantity do the labels determine? Keep it, and normalise at the end.",
    )


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


def check_optimal_baseline(attempt: Callable) -> Verdict:
    """Chapter 11: the baseline with the smallest variance of the score-function gradient."""
    return compare(
        attempt,
        optimal_baseline,
        [(log_ref, reward / beta) for reward, log_ref, beta in _worlds(111)],
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


def check_member_with_partition(attempt: Callable) -> Verdict:
    """Chapter 9: the member of a reward's class with a given partition function Z(x)."""

    def truth(reward, log_ref, beta, z):
        return project(reward, log_ref, beta) + beta * z.log().unsqueeze(-1)

    return compare(
        attempt,
        truth,
        [(*world, torch.tensor([0.5, 20.0], dtype=torch.float64)) for world in _worlds(91)],
        "each class has one member for each value of Z(x).",
        "what does adding c(x) to the reward do to Z(x)? Start at the member with Z(x) = 1.",
    )


def check_blended_policy(attempt: Callable) -> Verdict:
    """Chapter 9: the optimum for the average of two rewards, from the two optima."""
    inputs = []
    for reward, log_ref, beta in _worlds(92):
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

    def automatic(rewards, ranking):
        rewards = rewards.clone().requires_grad_()
        return -torch.autograd.grad(plackett_luce_logp(rewards, ranking), rewards)[0]

    return compare(
        attempt,
        automatic,
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


def check_tilted_samples(attempt: Callable) -> Verdict:
    """Chapter 17: reward and KL of the tilted policy, from samples of the reference alone."""

    def truth(rewards, beta):
        log_ref = torch.full_like(rewards, 1 / len(rewards)).log()[None]
        tilted = optimal_log_policy(rewards[None], log_ref, beta)
        reward = expected_reward(tilted, rewards[None])
        return torch.cat([reward, kl_divergence(tilted, log_ref)])

    generator = torch.Generator().manual_seed(171)
    rewards = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (2, 5, 400)]
    return compare(
        attempt,
        truth,
        [(sample, beta) for sample in rewards for beta in (0.001, 0.3, 3.0)],
        "samples of the reference, reweighted, tell what the best policy would earn and pay.",
        "each sample counts exp(r / beta), divided so that the weights sum to 1; the reference "
        "gives each of the n samples the same 1 / n. Stay in log space: beta can be small.",
    )


def check_paired_z(attempt: Callable) -> Verdict:
    """Chapter 17: z of a mean difference where samples share their prompts."""

    def truth(rewards, other):
        gaps = rewards.mean(-1) - other.mean(-1)
        return gaps.mean() / (gaps.std() / len(gaps) ** 0.5)

    generator = torch.Generator().manual_seed(172)
    inputs = []
    for prompts, samples, others in ((2, 1, 1), (50, 4, 4), (50, 4, 16)):
        hard = 3 * torch.randn(prompts, 1, generator=generator, dtype=torch.float64)
        first = hard + torch.randn(prompts, samples, generator=generator, dtype=torch.float64)
        second = hard + torch.randn(prompts, others, generator=generator, dtype=torch.float64)
        inputs.append((first + 0.3, second))
    return compare(
        attempt,
        truth,
        inputs,
        "the prompts are the draws: what a prompt adds to both sides cancels.",
        "average over the samples of a prompt first, subtract, and take mean and standard error "
        "over the prompts.",
    )


def check_standard_error_over_prompts(attempt: Callable) -> Verdict:
    """Chapter 18: the standard error of a mean reward when completions share their prompts."""
    generator = torch.Generator().manual_seed(181)

    def inputs():
        for prompts, samples in ((2, 1), (5, 4), (40, 3)):
            shared = torch.randn(prompts, 1, generator=generator, dtype=torch.float64)
            own = torch.randn(prompts, samples, generator=generator, dtype=torch.float64)
            yield (shared + 0.5 * own,)

    return compare(
        attempt,
        lambda rewards: (rewards.mean(-1).var() / len(rewards)).sqrt(),
        inputs(),
        "it counts prompts: completions of one prompt are no independent draws of a prompt.",
        "which numbers here are independent of each other? There is one for each prompt.",
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


def check_completion_logps(attempt: Callable) -> Verdict:
    """Chapter 16: log-probabilities of completions, summed, from a right-padded batch's logits."""
    end, generator = 4, torch.Generator().manual_seed(161)

    def truth(logits, ids, prompt_lengths, lengths):
        sums = []
        for row, start, stop in zip(range(3), prompt_lengths, lengths, strict=True):
            logps = logits[row].log_softmax(-1)
            places = range(start, stop)
            sums.append(sum(logps[place - 1, ids[row, place]] for place in places))
        return torch.stack(sums)

    inputs = []
    for width, pad in ((7, end), (7, 0), (5, end)):
        logits = torch.randn(3, width, 5, generator=generator, dtype=torch.float64)
        ids = torch.randint(end, (3, width), generator=generator)
        prompts, lengths = torch.tensor([1, 2, 3]), torch.tensor([4, width, 4])
        ids[torch.arange(3), lengths - 1] = end
        ids[torch.arange(width) >= lengths[:, None]] = pad
        inputs.append((logits, ids, prompts, lengths))
    return compare(
        attempt,
        truth,
        inputs,
        "each completion is summed from its first token to its end, whatever token pads.",
        "the logits at one place predict the token at the next; which ids are counted depends on "
        "the lengths alone, never on what the ids are.",
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
    for reward, log_ref, beta in _worlds(152):
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


def check_preferred_ft(attempt: Callable) -> Verdict:
    """Chapter 12: where Preferred-FT ends with endless labels, in log-probabilities."""

    def truth(reward, log_ref):
        pairs = log_ref.exp().unsqueeze(-1) * log_ref.exp().unsqueeze(-2)
        return (pairs * preference_table(reward)).sum(-1).mul(2).log()

    return compare(
        attempt,
        truth,
        [(reward, log_ref) for reward, log_ref, _ in _worlds(121)],
        "it is the distribution of the winner of a pair.",
        "both answers are drawn from the reference; with which probability is y one of the two, "
        "and with which does it then win?",
    )


def check_loss_floor(attempt: Callable) -> Verdict:
    """Chapter 19: the lowest mean of the DPO loss that a mean margin allows."""
    generator = torch.Generator().manual_seed(191)
    some = 3 * torch.randn(5, generator=generator, dtype=torch.float64)
    some = torch.stack([some, -some])
    return compare(
        attempt,
        lambda margin: reward_loss(margin, torch.zeros_like(margin)),
        [(some,), (torch.zeros(1, dtype=torch.float64),), (1000.0 * some,)],
        "a mean of convex losses is at least the loss of the mean, at any size of the margin.",
        "when all pairs of a batch have the same margin the mean loss is lowest; what is it then? "
        "Does the exponential overflow?",
    )


def check_reference_score(attempt: Callable) -> Verdict:
    """Chapter 19: the reference's log-probability from the logged one and the logged reward."""
    generator = torch.Generator().manual_seed(192)
    draws = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64)
    return compare(
        attempt,
        lambda logps, rewards, beta: logps - rewards / beta,
        [(40 * a - 60, b, beta) for (a, b), beta in zip(draws, (0.1, 2.0), strict=True)],
        "reward and log-probability together contain the reference, which the log leaves out.",
        "solve the reward, beta times a log-ratio, for the reference's log-probability.",
    )
