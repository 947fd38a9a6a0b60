"""What the present policy writes for held-out prompts, while a stage trains."""

from collections.abc import Sequence
from itertools import cycle, islice

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.order import derive_seed
from dpo_lib.language_model.generation.samples import (
    Samples,
    repeated_share,
    sample,
    sequence_kl,
)
from dpo_lib.language_model.generation.sampling import check
from dpo_lib.language_model.models.devices import precision
from dpo_lib.language_model.models.judges import Score
from dpo_lib.language_model.settings import SampledSettings, TrainingError
from dpo_lib.language_model.training.stage import Measurement

SHOWN = 8  # completions that are kept as text


class FreshSamples:
    """Completions of the same prompts by the same random numbers, whenever they are drawn.

    So two measurements differ by the policy alone, and training's own draws are untouched.

    Args:
        settings: `samples` of them, of at most `max_new_tokens` tokens; 0 draws none.
        tokenizer: its EOS ends a completion.
        prompts: token ids of held-out rows. Used are the different ones that leave room for a
            completion in `max_length`, in their order, over again where there are too few.
        policy: to check that the prompts fit.
        reference: for the KL; it stays in memory. None has no KL.
        judge: for the reward; None has no reward.

    Raises:
        TrainingError: no prompt leaves room for a completion.
        ValueError: prompt and completion are more than the policy's positions.
    """

    def __init__(
        self,
        settings: SampledSettings,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[tuple[int, ...]],
        policy: PreTrainedModel,
        reference: PreTrainedModel | None = None,
        judge: Score | None = None,
    ):
        self.settings, self.tokenizer = settings, tokenizer
        self.temperature = getattr(settings, "temperature", 1.0)
        longest = settings.max_length - settings.max_new_tokens
        fitting = [prompt for prompt in dict.fromkeys(prompts) if len(prompt) <= longest]
        self.prompts = list(islice(cycle(fitting), settings.samples))
        if not self.prompts:
            if settings.samples:
                raise TrainingError(
                    f"max_new_tokens {settings.max_new_tokens}: no held-out prompt leaves room for "
                    f"it in max_length {settings.max_length}; lower the one or raise the other"
                )
            return
        self.reference, self.judge = reference, judge
        eos = tokenizer.eos_token_id
        check(policy, self.prompts, settings.max_new_tokens, self.temperature, eos)

    def draw(self, policy: PreTrainedModel) -> Measurement:
        """Draw a completion for each prompt: means over them, and the first few as text.

        `eval_objective/kl` is in nats of a whole completion, against the reference at the
        policy's own temperature, and `eval_objective/scores` the judge's reward.
        """
        if not self.prompts:
            return Measurement()
        settings, eos = self.settings, self.tokenizer.eos_token_id
        with torch.no_grad(), precision(settings, policy.device):
            drawn = sample(
                policy,
                self.prompts,
                self.judge,
                eos,
                max_new_tokens=settings.max_new_tokens,
                temperature=self.temperature,
                seed=derive_seed(settings.seed, 0, 0, 0),  # which no epoch and no step has
                batch_size=settings.batch_size,
            )
            of_each = self._of_each(policy, drawn)
        means = {f"eval_{name}": sum(values) / len(values) for name, values in of_each.items()}
        return Measurement(means, self._texts(drawn, of_each))

    def _of_each(self, policy: PreTrainedModel, drawn: Samples) -> dict[str, list[float]]:
        found = {}
        if drawn.rewards is not None:
            found["objective/scores"] = drawn.rewards[:, 0].tolist()
        if self.reference is not None:
            both = dict(temperature=self.temperature, ref_temperature=self.temperature)
            kl, _ = sequence_kl(
                policy, self.reference, drawn, batch_size=self.settings.batch_size, **both
            )
            found["objective/kl"] = kl[:, 0].tolist()
        return found | {
            "completions/mean_length": drawn.lengths[:, 0].tolist(),
            "completions/ended": drawn.ended[:, 0].tolist(),
            "completions/repetition": [repeated_share(text) for _, text in drawn.sequences],
        }

    def _texts(self, drawn: Samples, of_each: dict[str, list[float]]) -> list[dict]:
        """What is read of the first completions; "reward" and "kl" where they are known."""
        texts = []
        for row, (prompt, completion) in enumerate(drawn.sequences[:SHOWN]):
            said = {"reward": "objective/scores", "kl": "objective/kl"}
            numbers = {key: of_each[name][row] for key, name in said.items() if name in of_each}
            texts.append(
                {
                    "prompt": self.tokenizer.decode(prompt),
                    "completion": self.tokenizer.decode(completion, skip_special_tokens=True),
                    "ended": bool(of_each["completions/ended"][row]),
                    **numbers,
                }
            )
        return texts
