"""What scores a completion: a reward model, or the true reward of the built-in world."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.models.policies import check_same_tokens, load_tokenizer
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.worlds import reviews

Score = Callable[[Sequences], Tensor]  # rewards of whole completions, shape (rows,)


def load_judge(folder: str, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """A frozen reward model that reads the policy's tokens."""
    check_same_tokens(f"reward {folder}", load_tokenizer(folder), tokenizer)
    return RewardModel.load(folder).requires_grad_(False).eval()


def load_score(
    reward: str, tokenizer: PreTrainedTokenizerBase, device: torch.device | str
) -> Score:
    """The score of the judge that a user names: "true", or the folder of a reward model."""
    if reward == "true":
        return world_score(tokenizer)
    return load_judge(reward, tokenizer).to(device).score


def world_score(tokenizer: PreTrainedTokenizerBase) -> Score:
    """The true reward of the built-in world, of the text without its EOS."""

    def text(ids: tuple[int, ...]) -> str:
        return tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids)

    def score(sequences: Sequences) -> Tensor:
        return torch.tensor([reviews.reward(*map(text, sequence)) for sequence in sequences])

    return score
