"""Supervised fine-tuning: the first stage of section 3, and Preferred-FT on preference data.

The loss is the cross-entropy of the completions, minus the mean of log pi(y_t | x, y_<t) over all
completion tokens of a batch: each token weighs the same, whatever the length of its completion
and however the batch is split. Given preference rows it learns the chosen completions, which is
the paper's Preferred-FT baseline.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.reading import Report, read_examples
from dpo_lib.language_model.data.tokens import TokenExample, tokenize_examples
from dpo_lib.language_model.models.devices import precision
from dpo_lib.language_model.models.judges import Score
from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.scoring.logprobs import token_logps
from dpo_lib.language_model.scoring.sequences import check_data
from dpo_lib.language_model.settings import SFTSettings
from dpo_lib.language_model.stages.shared.first_models import (
    fingerprint,
    held_out_hash,
    layout,
    load_first,
    load_own_judge,
)
from dpo_lib.language_model.stages.shared.fresh_samples import FreshSamples
from dpo_lib.language_model.stages.shared.loading import batches, load_held_out_examples
from dpo_lib.language_model.training.stage import Measurement, Stage


class SFT(Stage):
    """The stage for `training.train`.

    Args:
        settings: what to do.
        model: changed in place; its dropout must be off.
        tokenizer: saved beside the model.
        examples: prompts and completions as token ids.
        held_out: others, to be measured on.
        judge: scores the completions of their prompts, if `settings.samples` asks for some.
    """

    may_shard = True

    def __init__(
        self,
        settings: SFTSettings,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: list[TokenExample],
        held_out: Sequence[TokenExample] = (),
        judge: Score | None = None,
    ):
        self.settings = settings.for_items(len(examples))
        self.model, self.tokenizer = model, tokenizer
        self.sequences = [(example.prompt, example.completion) for example in examples]
        self.held_out = [(example.prompt, example.completion) for example in held_out]
        check_data(model, self.sequences)
        if self.held_out:
            check_data(model, self.held_out)
        prompts = [prompt for prompt, _ in self.held_out]
        self.samples = FreshSamples(settings, tokenizer, prompts, model, judge=judge)
        self.modules = {"policy": model}
        self.items = len(examples)
        self.tokens = sum(len(prompt) + len(completion) for prompt, completion in self.sequences)
        self.fingerprint = fingerprint(examples, tokenizer, model=model) | held_out_hash(held_out)

    @classmethod
    def from_settings(cls, settings: SFTSettings) -> tuple["SFT", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        tokenizer = load_tokenizer(settings.model, settings.data)
        rows, report = read_examples(settings.data, tokenizer)
        examples = tokenize_examples(rows, tokenizer, settings.max_length, report)
        held_out = load_held_out_examples(settings, tokenizer, examples)
        model = load_first(settings, tokenizer)
        judge = load_own_judge(settings, tokenizer, model)
        return cls(settings, model, tokenizer, examples, held_out, judge), report

    def layout(self) -> dict[str, str]:
        """As the log-probabilities are computed."""
        return layout(self.model)

    @torch.no_grad()
    def evaluate(self) -> Measurement:
        """The mean loss of a held-out completion token, and fresh completions."""
        with precision(self.settings, self.model.device):
            parts = [
                torch.cat(token_logps(self.model, part))
                for part in batches(self.held_out, self.settings)
            ]
        loss = Measurement({"eval_loss": -torch.cat(parts).mean().item()} if parts else {})
        return loss | self.samples.draw(self.model)

    def weight(self, indices: list[int]) -> float:
        """Completion tokens: the mean is over tokens, not over completions."""
        return sum(len(self.sequences[index][1]) for index in indices)

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """Add the gradient of the loss's part; returns sums over the tokens of these items."""
        sequences = [self.sequences[index] for index in indices]
        with precision(self.settings, self.model.device):
            logps = torch.cat(token_logps(self.model, sequences))  # (completion tokens,)
        loss = -logps.sum()
        (loss * share).backward()
        tokens = sum(len(prompt) + len(completion) for prompt, completion in sequences)
        return {"loss": loss.detach(), "num_tokens": tokens}

    def save(self, directory: Path) -> None:
        """The model and its tokenizer in the hub's format."""
        save_policy(self.model, self.tokenizer, directory)
