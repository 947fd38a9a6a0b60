"""How people choose between responses: Bradley-Terry for pairs, Plackett-Luce for rankings.

Labelled pairs of a finite world are kept as a *win table* `wins[..., x, i, j]`: how often
response i was preferred to response j after prompt x. Counts make a sample, and probabilities
p*(i > j) make the population, so each loss of the book is written once for both.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lib._checks import check_finite, check_indices, check_same_shape


def bradley_terry_logp(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Log-probability that the first response is preferred, the logarithm of equation (1).

    log p(y1 > y2 | x) = log sigmoid(r(x, y1) - r(x, y2)): only the difference counts.

    Args:
        chosen_rewards, rejected_rewards: finite rewards of the same shape, reward units.

    Returns:
        log-probabilities of that shape, in nats.
    """
    check_same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    check_finite("chosen_rewards", chosen_rewards)
    check_finite("rejected_rewards", rejected_rewards)
    return F.logsigmoid(chosen_rewards - rejected_rewards)


def bradley_terry(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Probability that the first response is preferred, equation (1)."""
    return bradley_terry_logp(chosen_rewards, rejected_rewards).exp()


def preference_table(reward: Tensor) -> Tensor:
    """Equation (1) for all pairs: p(i > j | x), shape (..., prompts, responses, responses)."""
    rows, columns = torch.broadcast_tensors(reward.unsqueeze(-1), reward.unsqueeze(-2))
    return bradley_terry(rows, columns)


def plackett_luce_logp(rewards: Tensor, ranking: Tensor) -> Tensor:
    """Log-probability of a ranking of K responses, the logarithm of equation (18).

    The best is drawn by a softmax over all K, the second by a softmax over the rest, and so on.

    Args:
        rewards: shape (..., responses), reward units.
        ranking: K different responses from best to worst, shape (..., K), integers; those that
            were not shown to the labeller are left out.

    Returns:
        log-probabilities, shape (...), in nats.
    """
    check_same_shape(rewards=rewards[..., 0], ranking=ranking[..., 0])
    check_ranking(ranking, rewards.shape[-1])
    ordered = rewards.gather(-1, ranking)
    check_finite("rewards", ordered)
    remaining = ordered.flip(-1).logcumsumexp(-1).flip(-1)  # log of the sum over k..K
    return (ordered - remaining).sum(-1)


def check_ranking(ranking: Tensor, responses: int) -> None:
    """Raise ValueError unless each ranking lists different responses that exist."""
    check_indices("ranking", ranking, responses)
    if (ranking.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError("ranking must list a response at most once")


@dataclass(frozen=True)
class Preferences:
    """Labelled pairs (x, y_w, y_l): three index tensors of one shape (..., pairs), int64."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor

    def __post_init__(self):
        check_same_shape(prompt=self.prompt, chosen=self.chosen, rejected=self.rejected)
        if (self.chosen == self.rejected).any():
            raise ValueError("chosen and rejected must differ in every pair")


def sample_preferences(reward: Tensor, pairs: int, generator: torch.Generator) -> Preferences:
    """Draw prompts and distinct responses uniformly and label each pair by equation (1).

    Args:
        reward: the labeller's reward, shape (..., prompts, responses).
        pairs: number of labelled pairs in each world.
    """
    check_finite("reward", reward)
    *batch, prompts, responses = reward.shape
    if responses < 2:
        raise ValueError(f"a pair needs two responses, got reward of shape {tuple(reward.shape)}")
    shape = (*batch, pairs)
    prompt = torch.randint(prompts, shape, generator=generator)
    first = torch.randint(responses, shape, generator=generator)
    second = torch.randint(responses - 1, shape, generator=generator)
    second = second + (second >= first)  # uniform over the responses that are not `first`
    flat = reward.flatten(-2)
    gap = flat.gather(-1, prompt * responses + first) - flat.gather(-1, prompt * responses + second)
    uniform = torch.rand(shape, generator=generator, dtype=reward.dtype)
    first_wins = uniform < torch.sigmoid(gap)
    return Preferences(
        prompt=prompt,
        chosen=torch.where(first_wins, first, second),
        rejected=torch.where(first_wins, second, first),
    )


def sample_rankings(
    rewards: Tensor, draws: int, generator: torch.Generator, shown: int | None = None
) -> Tensor:
    """Draw rankings from equation (18).

    Sorting rewards plus independent Gumbel noise is a Plackett-Luce draw (Yellott 1977).

    Args:
        rewards: shape (..., responses), reward units.
        draws: rankings drawn for each prompt.
        shown: how many responses each ranking orders, a fresh uniform choice; all if None.

    Returns:
        rankings from best to worst, shape (..., draws, shown), int64.

    Raises:
        ValueError: unless 2 <= shown <= responses.
    """
    check_finite("rewards", rewards)
    responses = rewards.shape[-1]
    shown = responses if shown is None else shown
    if not 2 <= shown <= responses:
        raise ValueError(f"shown must lie in [2, {responses}], got {shown}")
    shape = (*rewards.shape[:-1], draws, responses)
    exponential = -torch.log1p(-torch.rand(shape, generator=generator, dtype=torch.float64))
    noisy = rewards.unsqueeze(-2) - exponential.log()
    if shown < responses:
        hidden = torch.rand(shape, generator=generator).argsort(-1) >= shown
        noisy = noisy.masked_fill(hidden, -torch.inf)
    return noisy.argsort(-1, descending=True)[..., :shown]


def check_preferences(preferences: Preferences, prompts: int, responses: int) -> None:
    """Raise ValueError unless every label names a prompt and two responses that exist."""
    check_indices("prompt", preferences.prompt, prompts)
    check_indices("chosen", preferences.chosen, responses)
    check_indices("rejected", preferences.rejected, responses)


def count_wins(preferences: Preferences, prompts: int, responses: int) -> Tensor:
    """Turn labelled pairs into a win table, shape (..., prompts, responses, responses)."""
    check_preferences(preferences, prompts, responses)
    cell = (preferences.prompt * responses + preferences.chosen) * responses + preferences.rejected
    size = prompts * responses * responses
    wins = torch.zeros(*cell.shape[:-1], size, dtype=torch.float64)
    wins.scatter_add_(-1, cell, torch.ones_like(cell, dtype=torch.float64))
    return wins.unflatten(-1, (prompts, responses, responses))


def population_wins(reward: Tensor) -> Tensor:
    """The win table of infinitely many labels: p*(i > j) for each pair, total weight 1.

    Minimising a loss on this table is minimising its expectation under equation (1), with
    prompts and pairs drawn uniformly.
    """
    wins = preference_table(reward)
    wins = wins - torch.diag_embed(torch.diagonal(wins, dim1=-2, dim2=-1))
    check_win_table(wins)
    return wins / wins.sum((-3, -2, -1), keepdim=True)


def label_entropy(wins: Tensor) -> Tensor:
    """Mean entropy of one label, in nats: no model of the labels has a smaller expected loss.

    Args:
        wins: win table, shape (..., prompts, responses, responses).

    Returns:
        shape (...): the average over pairs of -p log p - (1-p) log(1-p), weighted by the table.
    """
    check_win_table(wins)
    both = wins + wins.transpose(-1, -2)
    share = torch.where(both > 0, wins / both, 0.0)
    return -torch.special.xlogy(wins, share).sum((-3, -2, -1)) / wins.sum((-3, -2, -1))


def check_win_table(wins: Tensor) -> None:
    """Raise ValueError unless wins is a finite, non-negative, square table, not all zero."""
    if wins.dim() < 3 or wins.shape[-1] != wins.shape[-2]:
        shape = tuple(wins.shape)
        raise ValueError(f"wins needs axes (prompts, responses, responses), got shape {shape}")
    check_finite("wins", wins)
    if (wins < 0).any():
        raise ValueError(f"wins must not be negative, got {wins.min().item()}")
    if (wins.sum((-3, -2, -1)) == 0).any():
        raise ValueError("wins must hold at least one comparison in each world, got none")


def is_connected(wins: Tensor) -> Tensor:
    """Whether each prompt's wins determine a finite reward, bool of shape (..., prompts).

    Ford (1957): the maximum-likelihood reward exists and is unique up to a shift exactly if the
    directed graph of wins is strongly connected, that is, if the responses cannot be split into
    two groups such that the second never won against the first.
    """
    return _reachable(wins).all(-1).all(-1)


def check_connected(wins: Tensor) -> None:
    """Raise ValueError, naming prompt and responses, unless all of `is_connected`."""
    reachable = _reachable(wins)
    if not reachable.all():
        *_, prompt, winner, loser = (~reachable).nonzero()[0].tolist()
        raise ValueError(
            f"wins of prompt {prompt} do not determine a reward: no chain of wins leads from "
            f"response {winner} to response {loser}, so the comparison graph is not "
            "strongly connected and some reward differences are unbounded or undetermined"
        )


def _reachable(wins: Tensor) -> Tensor:
    """Whether a chain of wins leads from response i to response j, shape as wins."""
    check_win_table(wins)
    responses = wins.shape[-1]
    reach = (wins > 0) | torch.eye(responses, dtype=torch.bool)
    for _ in range(max(responses - 1, 1).bit_length()):  # paths of twice the length each time
        reach = (reach.double() @ reach.double()) > 0
    return reach
