"""The reward model of RLHF: equation (2) on a data set of preferences.

Starts from the SFT model with a new head (`models.RewardModel`) and ends with rewards whose mean
on the data set is 0: "to ensure a reward function with lower variance, prior works normalize the
rewards" (section 3). The paper asks it of every prompt; a data set shows only two completions of
each, so one constant is taken for all, which no preference can see.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpo_lib.language_model._transformers import attention_of
from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.models.devices import precision
from dpo_lib.language_model.models.policies import load_tokenizer
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.settings import RewardSettings
from dpo_lib.language_model.stages.shared.first_models import fingerprint, held_out_hash, load_first
from dpo_lib.language_model.stages.shared.loading import batches, load_held_out, load_pairs
from dpo_lib.language_model.training.stage import Measurement, Stage
from dpo_lib.losses import reward_loss


class Reward(Stage):
    """The stage for `training.train`.

    Args:
        settings: what to do.
        model: changed in place; its dropout must be off.
        tokenizer: saved beside the model.
        pairs: what people preferred, as token ids.
        held_out: other pairs, to be measured on.
    """

    def __init__(
        self,
        settings: RewardSettings,
        model: RewardModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: list[Pair],
        held_out: Sequence[Pair] = (),
    ):
        self.settings = settings.for_items(len(pairs))
        self.model, self.tokenizer, self.pairs = model, tokenizer, pairs
        self.held_out = list(held_out)
        model.check(_sequences([*pairs, *held_out]))
        self.modules = {"reward": model}
        self.items, self.tokens = len(pairs), sum(pair.tokens for pair in pairs)
        self.fingerprint = fingerprint(pairs, tokenizer, model=model) | held_out_hash(held_out)

    @classmethod
    def from_settings(cls, settings: RewardSettings) -> tuple["Reward", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        tokenizer = load_tokenizer(settings.model, settings.data)
        pairs, report = load_pairs(settings, tokenizer)
        held_out = load_held_out(settings, tokenizer, pairs)
        policy = load_first(settings, tokenizer)
        return cls(settings, RewardModel(policy), tokenizer, pairs, held_out), report

    def layout(self) -> dict[str, str]:
        """A reward is read at the last token of a row."""
        rows = "padded rows (one number a sequence)"
        return {"attention": attention_of(self.model.body), "layout": rows}

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """Add the gradient of equation (2) for these pairs; returns sums, by TRL's names."""
        pairs = [self.pairs[index] for index in indices]
        with precision(self.settings, self.model.shift.device):
            chosen, rejected = pair_rewards(self.model, pairs).unbind(1)
        losses = reward_loss(chosen, rejected)
        (losses.sum() * share).backward()
        chosen, rejected = chosen.detach(), rejected.detach()
        return {
            "loss": losses.detach().sum(),
            "accuracy": correct(chosen, rejected).sum(),
            "margin": (chosen - rejected).sum(),
            "mean_reward": (chosen + rejected).sum() / 2,
            "num_tokens": sum(pair.tokens for pair in pairs),
        }

    @torch.no_grad()
    def evaluate(self) -> Measurement:
        """Loss, accuracy and margin on the held-out pairs."""
        with precision(self.settings, self.model.shift.device):
            rewards = [
                pair_rewards(self.model, part) for part in batches(self.held_out, self.settings)
            ]
        if not rewards:
            return Measurement()
        chosen, rejected = torch.cat(rewards).unbind(1)
        found = {
            "loss": reward_loss(chosen, rejected),
            "accuracy": correct(chosen, rejected),
            "margin": chosen - rejected,
        }
        return Measurement({f"eval_{name}": values.mean().item() for name, values in found.items()})

    def save(self, directory: Path) -> None:
        """Normalise the rewards to mean 0 on the data set, then write the reward model."""
        self.model.normalise(rewards_of(self.model, self.pairs).double().mean())
        self.model.save(self.tokenizer, directory)


def pair_rewards(model: RewardModel, pairs: list[Pair]) -> Tensor:
    """r(x, y_w) and r(x, y_l) of each pair, shape (pairs, 2), reward units."""
    return model.score(_sequences(pairs)).view(2, len(pairs)).T


@torch.no_grad()
def rewards_of(model: RewardModel, pairs: list[Pair], batch_size: int = 256) -> Tensor:
    """`pair_rewards` of a whole data set, without gradients and a batch at a time."""
    batches = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    return torch.cat([pair_rewards(model, batch) for batch in batches])


def correct(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where the chosen reward is larger, 0 where it is smaller, 1/2 where they are equal."""
    return torch.heaviside(chosen - rejected, torch.full_like(chosen, 0.5))


def _sequences(pairs: list[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All chosen sides, then all rejected ones."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    return chosen + [(pair.prompt, pair.rejected) for pair in pairs]
