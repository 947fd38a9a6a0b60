"""PPO's terms on a language model: value, entropy, clipping, and the KL's controller."""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dpo_lib._checks import check_positive
from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.models.adapters.layers import add_adapter, start_of
from dpo_lib.language_model.models.devices import at_least_float32
from dpo_lib.language_model.models.reward_model import ValueHead, hidden_size
from dpo_lib.language_model.scoring.layouts import completion_hidden
from dpo_lib.language_model.scoring.logprobs import plain_log_policies
from dpo_lib.language_model.scoring.output_layer import linear_head
from dpo_lib.language_model.settings import Settings
from dpo_lib.losses import entropy, value_loss


class ValueModel(nn.Module):
    """V(s_t): the reward still to come, in reward units, seen before each generated token.

    Args:
        model: gives a copy of its body; the head on it starts at zero.
        settings: with `lora`, the body is no copy but the same tensors, with an adapter of its own.
    """

    def __init__(self, model: PreTrainedModel, settings: Settings | None = None):
        super().__init__()
        if settings is None or settings.lora is None:
            self.body = copy.deepcopy(model.base_model).requires_grad_(True)
        else:
            self.body = add_adapter(start_of(model.base_model), settings)
        dtype = at_least_float32(model.dtype)
        self.head = ValueHead(hidden_size(model), dtype=dtype).to(model.device)

    def forward(self, sequences: Sequences) -> list[Tensor]:
        """One tensor for each sequence, shape (its completion's length,)."""
        values = self.head(completion_hidden(self.body, sequences))  # (tokens of all,)
        return list(values.split([len(completion) for _, completion in sequences]))


def logps_and_entropies(
    model: PreTrainedModel, sequences: Sequences, temperature: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probability of each generated token and entropy of its whole distribution, in nats.

    The logits of all tokens are in memory at once. Where no entropy is needed
    `scoring.token_logps` is the thrifty way to the same log-probabilities.

    Returns:
        two lists of tensors, one for each sequence, shape (its completion's length,).
    """
    lengths = [len(completion) for _, completion in sequences]
    tokens = [token for _, completion in sequences for token in completion]
    log_policy = _log_policy(model, sequences, temperature)
    targets = torch.tensor(tokens, device=log_policy.device).unsqueeze(-1)
    logps = log_policy.gather(-1, targets).squeeze(-1)
    return list(logps.split(lengths)), list(entropy(log_policy).split(lengths))


def _log_policy(model: PreTrainedModel, sequences: Sequences, temperature: float) -> Tensor:
    """log pi(. | x, y_<t) at the tokens of all completions, shape (tokens, vocabulary)."""
    head = linear_head(model)
    if head is None:
        return torch.cat(list(plain_log_policies(model, sequences, temperature)))
    hidden = completion_hidden(model, sequences)
    wide = at_least_float32(hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):  # it would round logits to 16 bits
        logits = hidden.to(wide) @ head.weight.to(wide).T
    if head.bias is not None:
        logits = logits + head.bias
    return (logits * head.scale / temperature).log_softmax(-1)


def controlled_beta(beta: float, kl: float, target: float, gain: float = 0.1) -> float:
    """The proportional controller of Ziegler et al. 2019, section 2.2, for the KL in the reward.

    beta (1 + gain clip(kl / target - 1, -0.2, 0.2)): up when the policy is too far from the
    reference. It chooses *which* optimum is climbed to; PPO's own rule, for the KL to the
    previous policy, is `losses.adapted_coefficient`.

    Args:
        kl: measured, nats for each completion; may be negative, being an estimate.
        target: > 0, nats.
    """
    check_positive("target_kl", target)
    return beta * (1 + gain * min(max(kl / target - 1, -0.2), 0.2))


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None
) -> Tensor:
    """PPO (9)'s value loss; with a range, the larger of it and that of the value held in it.

    A detail of PPO's first implementation, not of its paper: a value that has moved out of the
    range around the old one, towards its target, has no gradient left.
    """
    losses = value_loss(values, returns)
    if clip_range is None:
        return losses
    held = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(losses, value_loss(held, returns))


def clip_fraction(change: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """1 where PPO (7) has no gradient, the ratio being outside on the improving side, else 0.

    Args:
        change: log pi_theta - log pi_old, any shape.
        advantages: the same shape.
    """
    ratio = change.exp()
    above, below = ratio > 1 + clip_range, ratio < 1 - clip_range
    return (((advantages > 0) & above) | ((advantages < 0) & below)).to(change.dtype)
