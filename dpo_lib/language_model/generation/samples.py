"""Many completions at once, with what is said of each: reward, length, KL, repetition."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.language_model.generation.sampling import Tokens, check, generate
from dpo_lib.language_model.models.judges import Score
from dpo_lib.language_model.scoring.logprobs import token_logps


@dataclass(frozen=True)
class Samples:
    """Completions of one policy, some in a row for each prompt, and what they score."""

    sequences: list[tuple[Tokens, Tokens]]  # prompts * samples of (prompt ids, completion ids)
    rewards: Tensor | None  # (prompts, samples), reward units; None if nothing scores them
    lengths: Tensor  # (prompts, samples), tokens with the EOS
    ended: Tensor  # (prompts, samples), 1 if the completion ended with an EOS


@torch.no_grad()
def sample(
    model,
    prompts: Sequence[Tokens],
    score: Score | None,
    eos: int,
    *,
    samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Samples:
    """Draw `samples` completions for each prompt and score them."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    check(model, prompts, max_new_tokens, temperature, eos)  # names a prompt by its own number
    repeated = [tuple(prompt) for prompt in prompts for _ in range(samples)]
    generator = torch.Generator().manual_seed(seed)
    completions = generate(model, repeated, max_new_tokens, temperature, generator, eos, batch_size)
    sequences = list(zip(repeated, completions, strict=True))
    shape, rewards = (len(prompts), samples), None
    if score is not None:
        scores = [score(batch).double().cpu() for batch in _batches(sequences, batch_size)]
        rewards = torch.cat(scores).view(shape)
    lengths = torch.tensor([len(c) for _, c in sequences], dtype=torch.float64)
    ended = torch.tensor([c[-1:] == (eos,) for _, c in sequences], dtype=torch.float64)
    return Samples(sequences, rewards, lengths.view(shape), ended.view(shape))


@torch.no_grad()
def sequence_kl(
    policy,
    reference,
    drawn: Samples,
    temperature: float = 1.0,
    batch_size: int = 64,
    ref_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Two unbiased estimates of KL(policy || reference) in nats for each sample.

    k1 is log pi(y) - log pi_ref(y), summed over the tokens that the policy drew; k3 sums
    pi_ref / pi - 1 - log(pi_ref / pi) over the tokens, which is never negative: a check on k1
    near the reference, but far from it a few rare samples carry its mean. The KL is that of what
    was run: drawing at this temperature, at most max_new_tokens tokens; the reference has its own.

    Returns:
        k1 and k3, both (prompts, samples), float64.
    """
    k1, k3 = [], []
    for batch in _batches(drawn.sequences, batch_size):
        ours = token_logps(policy, batch, temperature)
        theirs = token_logps(reference, batch, ref_temperature)
        for log_policy, log_ref in zip(ours, theirs, strict=True):
            log_ratio = log_policy.double().cpu() - log_ref.double().cpu()
            k1.append(log_ratio.sum())
            k3.append((torch.expm1(-log_ratio) + log_ratio).sum())
    return torch.stack(k1).view_as(drawn.lengths), torch.stack(k3).view_as(drawn.lengths)


def repeated_share(completion: Tokens, n: int = 4) -> float:
    """The share of a completion's n-grams that stood in it before; 0 if it has none.

    Source: rep-n of Welleck et al. 2019 (arXiv 1908.04319), there with n = 4.
    """
    grams = [completion[start : start + n] for start in range(len(completion) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _batches(items: Sequence, size: int):
    return (items[i : i + size] for i in range(0, len(items), size))
