"""Completions that a stage draws and keeps; what PPO's tokens earn.

Rows are completions, columns their tokens, right-padded with zeros to the longest completion
that may be drawn; masks come from the lengths, never from a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dpo_lib._checks import check_same_shape
from dpo_lib.losses import generalized_advantages
from dpo_lib.objective import implicit_reward


class Completions(nn.Module):
    """Drawn completions as buffers of fixed shape, so that a checkpoint holds them.

    A run killed between two steps on them resumes on the same numbers, to the bit.

    Args:
        rows, width: completions drawn together, and the most tokens that one may have.
        dtype: of the scores; float32 or better.
    """

    def __init__(self, rows: int, width: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.register_buffer("prompts", torch.zeros(rows, dtype=torch.int64))  # which prompt
        self.register_buffer("tokens", torch.zeros(rows, width, dtype=torch.int64))
        self.register_buffer("lengths", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("scores", torch.zeros(rows, dtype=dtype))  # of whole completions

    def take(self, prompts: list[int], completions: list[tuple[int, ...]]) -> None:
        """Replace the completions; `prompts` are their prompts' places in the data."""
        rows = [torch.tensor(completion, dtype=torch.int64) for completion in completions]
        self.prompts.copy_(torch.tensor(prompts))
        self.lengths.copy_(torch.tensor([len(row) for row in rows]))
        self.tokens.copy_(pad(rows, self.tokens.shape[1]))

    def record(self, **tensors: Tensor) -> None:
        """Replace numbers of the completions, each by one of its buffer's shape."""
        for name, tensor in tensors.items():
            buffer = getattr(self, name)
            check_same_shape(**{name: tensor, "buffer": buffer})
            buffer.copy_(tensor)

    def completions(self, rows: list[int]) -> list[tuple[int, ...]]:
        """The token ids of some rows, without the padding."""
        lengths = self.lengths.tolist()
        tokens = self.tokens.tolist()
        return [tuple(tokens[row][: lengths[row]]) for row in rows]

    def mask(self) -> Tensor:
        """Which slots hold generated tokens: bool, shape (rows, width)."""
        return token_mask(self.lengths, self.tokens.shape[1])

    def last_tokens(self) -> Tensor:
        """The last generated token of each completion, EOS unless it was cut; shape (rows,)."""
        return self.tokens.gather(1, (self.lengths - 1).unsqueeze(-1)).squeeze(-1)


class Rollouts(Completions):
    """One iteration's completions, with what PPO keeps of each token."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype = torch.float32):
        super().__init__(rows, width, dtype)
        for name in ("logps", "ref_logps", "values", "advantages", "returns"):  # of tokens
            self.register_buffer(name, torch.zeros(rows, width, dtype=dtype))

    def kl(self) -> Tensor:
        """The KL that the rewards charge: log pi / pi_ref summed over tokens, (rows,), nats.

        Its mean is an unbiased estimate of KL(pi || pi_ref); single rows may be negative, and
        clamping them at 0 would bias it.
        """
        return (self.logps - self.ref_logps).sum(-1)


def token_mask(lengths: Tensor, width: int) -> Tensor:
    """bool, shape (rows, width): True for the first `length` slots of each row."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(-1)


def pad(rows: list[Tensor], width: int) -> Tensor:
    """Ragged rows, each of shape (length,), as one tensor (rows, width) with zeros behind."""
    padded = pad_sequence(rows, batch_first=True)
    return F.pad(padded, (0, width - padded.shape[1]))


def token_rewards(
    scores: Tensor, logps: Tensor, ref_logps: Tensor, lengths: Tensor, beta: float
) -> Tensor:
    """Each token pays its own KL; the score arrives once, at the last generated token.

    Row sums are score - beta sum log(pi / pi_ref): the reward of section 3, whose mean under the
    policy is objective (3). Chapter 4, step 5, has the algebra.

    Args:
        scores: one for each completion, shape (rows,), reward units.
        logps, ref_logps: of the generated tokens, shape (rows, width), nats.
        lengths: tokens of each completion, at least 1, shape (rows,).
        beta: at least 0, reward units per nat.

    Returns:
        shape (rows, width), constants; 0 behind the last token, whatever stands there.
    """
    mask = token_mask(lengths, logps.shape[1])
    rewards = torch.zeros_like(logps)
    if beta != 0:
        rewards = -implicit_reward(logps.where(mask, 0.0), ref_logps.where(mask, 0.0), beta)
    last = (lengths - 1).unsqueeze(-1)
    return rewards.scatter_add(1, last, scores.to(rewards).unsqueeze(-1)).detach()


def token_advantages(
    rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """GAE over completions of different lengths: advantages and the value function's targets.

    Behind a completion rewards and values are 0, hence every later difference is 0 and the
    recursion starts at the last real token. A completion that was cut at the length limit
    counts as finished.
    """
    mask = token_mask(lengths, rewards.shape[1])
    rewards, values = rewards.where(mask, 0.0), values.where(mask, 0.0)
    advantages = generalized_advantages(rewards, values, gamma, lam)
    return advantages, advantages + values


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the slots of the mask; 0 in all others.

    The 1e-8 beneath the root is TRL's: equal values stay 0 instead of becoming amplified
    rounding. It matters below a spread of about 1e-3.
    """
    count = mask.sum()
    centred = (values - values.where(mask, 0.0).sum() / count).where(mask, 0.0)
    return centred * (centred.square().sum() / count + 1e-8).rsqrt()
