"""The bugs of LoRA: an adapter on in the reference, or off where it was part of the start."""

import copy
from dataclasses import replace

from dpo_lib.language_model.data.tokens import TokenExample
from dpo_lib.language_model.models.adapters.layers import add_adapter, start_of
from dpo_lib.language_model.scoring.logprobs import pair_logps
from dpo_lib.language_model.settings import SFTSettings
from dpo_lib.language_model.stages.sft import SFT
from dpo_lib.language_model.zoo.healthy import Healthy
from dpo_lib.language_model.zoo.recording import record
from dpo_lib.language_model.zoo.start import Start

RANK = 4


class AdapterLeftOn(Healthy):
    """The reference is the policy, and nobody switched the adapter off to ask it."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        policy = add_adapter(policy, replace(settings, lora=RANK))
        super().__init__(settings, policy, reference, tokenizer, pairs)

    def backward(self, indices, share):
        pairs = [self.pairs[index] for index in indices]
        self.ref_logps[indices] = pair_logps(self.policy, pairs).detach()
        return super().backward(indices, share)


class AdapterSwitchedOff(Healthy):
    """DPO goes on training the adapter of SFT, and for the reference it is switched off."""

    @classmethod
    def of(cls, start: Start, **changes) -> "AdapterSwitchedOff":
        """The start before SFT, with an adapter that SFT has trained on it."""
        adapted = sft_adapter(start)
        return super().of(replace(start, untrained=start_of(adapted), sft=adapted), **changes)

    @classmethod
    def reference_of(cls, start):
        return start.untrained


def sft_adapter(start: Start):
    """The untrained model with an adapter, fine-tuned on the chosen answers."""
    settings = SFTSettings(
        model="", data="", out="", lora=RANK, lr=3e-2, optimizer="adamw", warmup_steps=10,
        steps=100, batch_size=min(32, len(start.pairs)),
    )  # fmt: skip
    model = add_adapter(copy.deepcopy(start.untrained), settings)
    examples = [TokenExample(pair.prompt, pair.chosen) for pair in start.pairs]
    record(SFT(settings, model, start.tokenizer, examples))
    return model
