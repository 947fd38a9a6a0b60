"""Runs with nothing wrong: what every bug of the zoo is a subclass of, and one that looks ill."""

import copy
from collections.abc import Iterable

from transformers import PreTrainedModel

from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.data.unpaired import TokenLabelled
from dpo_lib.language_model.models.policies import frozen_copy
from dpo_lib.language_model.settings import DPOSettings, KTOSettings
from dpo_lib.language_model.stages.dpo import DPO
from dpo_lib.language_model.stages.kto import KTO
from dpo_lib.language_model.training.learner import learning_rate
from dpo_lib.language_model.zoo.start import Start


class Healthy(DPO):
    """The library's own stage. Its further methods are what else a bug may change."""

    @classmethod
    def of(cls, start: Start, **changes) -> "Healthy":
        """This stage on copies of the start's models; changes are of `DPOSettings`."""
        chosen = dict(
            model="", data="", out="", beta=0.3, steps=50, batch_size=32, lr=3e-4,
            optimizer="adamw", warmup_steps=5,
        )  # fmt: skip
        settings = DPOSettings(**chosen | changes)
        policy = copy.deepcopy(start.sft)
        stage = cls(settings, policy, cls.reference_of(start), start.tokenizer, list(start.pairs))
        stage.held_out = start.held_out
        return stage

    @classmethod
    def reference_of(cls, start: Start) -> PreTrainedModel:
        """The reference: a frozen copy of the policy's start."""
        return frozen_copy(start.sft)

    def steps(self) -> Iterable[int]:
        """The optimiser steps, as they are taken."""
        return range(1, self.settings.steps + 1)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self.settings, step)

    def row(self, row: dict) -> dict:
        """The line of the log."""
        return row


class HealthyKTO(KTO):
    """KTO on the same pairs, each of them two answers."""

    @classmethod
    def of(cls, start: Start, **changes) -> "HealthyKTO":
        """This stage on copies of the start's models; changes are of `KTOSettings`."""
        chosen = dict(model="", data="", out="", beta=0.3, steps=50, batch_size=32, lr=3e-4)
        chosen |= dict(optimizer="adamw", warmup_steps=5)
        chosen |= dict(max_length=start.sft.config.n_positions)  # of others' answers too
        settings = KTOSettings(**chosen | changes)
        answers, held_out = (
            [TokenLabelled(p.prompt, *side) for p in pairs for side in _sides(p)]
            for pairs in (start.pairs, start.held_out)
        )
        policy = copy.deepcopy(start.sft)
        return cls(settings, policy, frozen_copy(start.sft), start.tokenizer, answers, held_out)


def _sides(pair: Pair) -> list[tuple[tuple[int, ...], bool]]:
    return [(pair.chosen, True), (pair.rejected, False)]


class RoundedReference(Healthy):
    """The reference's weights are stored in bfloat16: its rewards do not start at 0, and no bug."""

    @classmethod
    def reference_of(cls, start: Start) -> PreTrainedModel:
        """Rounded, then widened again, so that policy and reference compute alike."""
        return super().reference_of(start).bfloat16().float()


# Settings of twenty runs with nothing wrong: every loss that follows from the rewards, beta from
# 0.05 to 2, batches of 16 to 64, both optimisers. IPO asks for a margin of 1 / (2 beta).
HEALTHY: list[dict] = [
    dict(beta=0.05),
    dict(beta=0.1),
    dict(beta=0.1, batch_size=16),
    dict(beta=0.3),
    dict(beta=0.3, batch_size=64, steps=40),
    dict(beta=0.3, lr=1e-3),
    dict(beta=0.3, lr=1e-4, optimizer="rmsprop"),
    dict(beta=0.5),
    dict(beta=1.0),
    dict(beta=2.0, lr=2e-4),
    dict(beta=0.3, accumulate=4),
    dict(beta=0.3, loss="cdpo", label_smoothing=0.1),
    dict(beta=0.3, loss="robust", label_smoothing=0.1),
    dict(beta=0.3, loss="hinge"),
    dict(beta=1.0, loss="ipo"),
    dict(beta=0.3, loss="exo_pair", label_smoothing=0.01),
    dict(beta=0.3, loss="bco_pair"),
    dict(beta=0.3, loss="nca_pair"),
    dict(beta=0.3, loss="apo_zero"),
    dict(beta=0.3, loss="discopop"),
]
