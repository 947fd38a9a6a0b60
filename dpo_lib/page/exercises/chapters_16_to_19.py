"""Part V, language models: chapters 16 to 19."""

from collections.abc import Callable

import torch

from dpo_lib.losses import reward_loss
from dpo_lib.objective import expected_reward, kl_divergence, optimal_log_policy
from dpo_lib.page.exercises.verdicts import Verdict, compare


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
