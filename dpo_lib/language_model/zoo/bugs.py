"""The bug zoo: DPO runs in which one thing is wrong, trained for real on a micro GPT-2.

`Healthy` is the library's own stage, and every bug is a subclass that changes it in one place;
its docstring says what someone did. `record` trains a stage and returns its log. `VISIBLE` maps
each bug that a log can show to the rule of `doctor` that must name it first. Those of `INVISIBLE`
leave a log like any other: `doctor` cannot find them, and other tests must.
"""

import copy
import random
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.models.policies import frozen_copy
from dpo_lib.language_model.scoring.logprobs import completion_logps, pair_logps
from dpo_lib.language_model.settings import DPOSettings
from dpo_lib.language_model.stages.dpo import DPO, reward_metrics
from dpo_lib.language_model.training.loop import learning_rate
from dpo_lib.language_model.training.order import batch_indices, micro_batches
from dpo_lib.language_model.training.processes import processes
from dpo_lib.language_model.zoo.start import Start
from dpo_lib.variants import choose_loss


class Healthy(DPO):
    """The stage DPO, written so that each of its steps can be changed.

    The stage itself goes through a batch in parts, for speed; this one scores it in one piece.
    """

    @classmethod
    def of(cls, start: Start, **changes) -> "Healthy":
        """This stage on copies of the start's models; changes are of `DPOSettings`."""
        chosen = dict(
            model="", data="", out="", beta=0.3, steps=50, batch_size=32, lr=3e-4,
            optimizer="adamw", warmup_steps=5,
        )  # fmt: skip
        settings = DPOSettings(**chosen | changes)
        policy = copy.deepcopy(start.sft)
        return cls(settings, policy, cls.reference_of(start), start.tokenizer, list(start.pairs))

    @classmethod
    def reference_of(cls, start: Start) -> PreTrainedModel:
        """The reference: a frozen copy of the policy's start."""
        return frozen_copy(start.sft)

    def start(self, step: int) -> None:
        """Score the data with the reference once, batch by batch as the first epoch meets them."""
        if self.ref_logps is not None:
            return
        self.ref_logps = torch.full((self.items, 2), torch.nan)
        for first in range(1, -(-self.items // self.settings.batch_size) + 1):
            batch = batch_indices(self.settings.seed, first, self.settings.batch_size, self.items)
            for piece in micro_batches(batch, self.settings, processes()):
                self.ref_logps[piece] = self.logps(self.reference, piece).detach()

    def logps(self, model: PreTrainedModel, indices: list[int]) -> Tensor:
        """log pi(y_w | x) and log pi(y_l | x) of these pairs, shape (pairs, 2), nats."""
        return pair_logps(model, [self.pairs[index] for index in indices])

    def backward(self, indices: list[int], share: float) -> dict[str, float | Tensor]:
        """Add the gradient of (7)'s part; returns sums over these pairs."""
        logps, ref_logps = self.logps(self.policy, indices), self.ref_logps[indices]
        losses = self.loss(*logps.unbind(-1), *ref_logps.unbind(-1))
        (losses.sum() * share).backward()
        scores = (*logps.detach().unbind(-1), *ref_logps.detach().unbind(-1))
        columns = {"loss": losses.detach()} | reward_metrics(*scores, self.settings.beta)
        sums = {name: column.sum() for name, column in columns.items()}
        return sums | {"num_tokens": sum(map(self._tokens, indices))}

    def steps(self) -> Iterable[int]:
        """The optimiser steps, as they are taken."""
        return range(1, self.settings.steps + 1)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self.settings, step)

    def row(self, row: dict) -> dict:
        """The line of the log."""
        return row


class Leak(Healthy):
    """Every chosen answer ends in a mark that no rejected one has."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        mark = tuple(tokenizer(" #")["input_ids"])
        pairs = [replace(p, chosen=p.chosen[:-1] + mark + p.chosen[-1:]) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class RandomLabels(Healthy):
    """A coin decided which answer was called chosen."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        rng = random.Random(settings.seed)
        pairs = [_swapped(p) if rng.random() < 0.5 else p for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class UntrainedReference(Healthy):
    """The reference is the model before SFT."""

    @classmethod
    def reference_of(cls, start):
        return frozen_copy(start.untrained)


class SharedWeights(Healthy):
    """The reference is the policy itself, not a copy."""

    def backward(self, indices, share):
        self.ref_logps[indices] = self.logps(self.policy, indices).detach()
        return super().backward(indices, share)


class TrainedReference(Healthy):
    """The reference is a copy, but neither frozen nor detached, and the optimiser has it."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        super().__init__(settings, policy, reference, tokenizer, pairs)
        reference.requires_grad_(True)
        self.modules = {"policy": policy, "reference": reference}

    def backward(self, indices, share):
        scores = self.logps(self.reference, indices)
        self.ref_logps = self.ref_logps.detach().index_put((torch.tensor(indices),), scores)
        return super().backward(indices, share)


class ShiftedScores(Healthy):
    """The reference's stored scores belong to the row before."""

    def start(self, step):
        fresh = self.ref_logps is None
        super().start(step)
        if fresh:
            self.ref_logps = self.ref_logps.roll(1, 0)


class Dropout(Healthy):
    """Dropout of 0.1 stays on in the policy."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        super().__init__(settings, policy, reference, tokenizer, pairs)
        for name, module in policy.named_modules():
            if isinstance(module, nn.Dropout) and "attn_dropout" not in name:
                module.p = 0.1

    def backward(self, indices, share):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.settings.seed, *indices)) % 2**32)
            return super().backward(indices, share)


class MeanOverTokens(Healthy):
    """Log-probabilities are averaged over the tokens of an answer, not summed."""

    def logps(self, model, indices):
        pairs = [self.pairs[index] for index in indices]
        lengths = torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs])
        return super().logps(model, indices) / lengths


class BetaTwice(Healthy):
    """The loss multiplies by beta what was multiplied by beta already."""

    def __init__(self, settings, *others):
        super().__init__(settings, *others)
        self.loss = choose_loss(settings.loss, settings.beta**2)


class DividedByBeta(Healthy):
    """The loss divides by beta."""

    def __init__(self, settings, *others):
        super().__init__(settings, *others)
        self.loss = choose_loss(settings.loss, 1 / settings.beta)


class SwappedLoss(Healthy):
    """The loss is called with chosen and rejected exchanged; the metrics are not."""

    def __init__(self, settings, *others):
        super().__init__(settings, *others)
        loss = self.loss
        self.loss = lambda w, l, ref_w, ref_l: loss(l, w, ref_l, ref_w)  # noqa: E741


class SwappedMetrics(Healthy):
    """The metrics are computed with chosen and rejected exchanged; the loss is right."""

    def row(self, row):
        other = {"chosen": "rejected", "rejected": "chosen"}
        swapped = {
            f"{kind}/{side}": row[f"{kind}/{other[side]}"]
            for kind in ("rewards", "logps")
            for side in other
        }
        swapped["rewards/margins"] = -row["rewards/margins"]
        swapped["rewards/accuracies"] = 1 - row["rewards/accuracies"]
        return row | swapped


class Ascent(Healthy):
    """The gradient has the wrong sign: the loss is maximised."""

    def backward(self, indices, share):
        return super().backward(indices, -share)


class SummedMicroBatches(Healthy):
    """Four micro-batches add up to a step and their losses are not divided by four."""

    def __init__(self, settings, *others):
        super().__init__(replace(settings, accumulate=4), *others)

    def backward(self, indices, share):
        sums = super().backward(indices, 4 * share)
        return sums | {"loss": 4 * sums["loss"]}


class HugeLearningRate(Healthy):
    """The learning rate is a hundred times too large, without warm-up or clipping."""

    def __init__(self, settings, *others):
        rate = 100 * settings.lr
        super().__init__(replace(settings, lr=rate, warmup_steps=0, max_grad_norm=1e9), *others)


class ZeroLearningRate(Healthy):
    """The schedule is stuck at the foot of its warm-up."""

    def rate(self, step):
        return 0.0


class OtherParameters(Healthy):
    """The optimiser was given the weights of a copy; the policy's own never change."""

    def __init__(self, settings, policy, *others):
        super().__init__(settings, policy, *others)
        self.modules = {"policy": copy.deepcopy(policy)}


class RepeatedSteps(Healthy):
    """A resume goes back to an older step's data and counter, not to its weights."""

    def steps(self):
        return [*range(1, 31), *range(25, self.settings.steps + 1)]


class EmptyAnswer(Healthy):
    """The loss of one pair is divided by its answer's number of tokens, which is 0."""

    def __init__(self, settings, *others):
        super().__init__(settings, *others)
        self.right = self.loss

    def backward(self, indices, share):
        counts = torch.tensor([float(index != 7) for index in indices])
        self.loss = lambda *logps: self.right(*logps) * counts / counts
        return super().backward(indices, share)

    def steps(self):
        for step in super().steps():
            if not all(p.isfinite().all() for p in self.policy.parameters()):
                return  # the library would refuse what follows; other code goes on
            yield step


class SwappedLabels(Healthy):
    """The columns chosen and rejected are exchanged in the data file."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        super().__init__(settings, policy, reference, tokenizer, list(map(_swapped, pairs)))


class LongerIsChosen(Healthy):
    """Whoever labelled took the longer answer."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        pairs = [_swapped(p) if len(p.chosen) < len(p.rejected) else p for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class PromptCounted(Healthy):
    """Log-probabilities count the prompt's tokens too."""

    def logps(self, model, indices):
        sides = [
            (p.prompt[:1], p.prompt[1:] + side)
            for p in (self.pairs[index] for index in indices)
            for side in (p.chosen, p.rejected)
        ]
        return completion_logps(model, sides).view(len(indices), 2)


class NoEnd(Healthy):
    """Answers end without EOS, so nothing teaches the policy to stop."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        pairs = [replace(p, chosen=p.chosen[:-1], rejected=p.rejected[:-1]) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class TwoEnds(Healthy):
    """Answers end in EOS twice."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        end = (tokenizer.eos_token_id,)
        pairs = [replace(p, chosen=p.chosen + end, rejected=p.rejected + end) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class InverseBeta(Healthy):
    """Somebody took beta for its inverse, in loss and metrics alike."""

    def __init__(self, settings, *others):
        super().__init__(replace(settings, beta=1 / settings.beta), *others)


VISIBLE: dict[type[Healthy], str] = {
    EmptyAnswer: "not finite",
    RepeatedSteps: "steps are broken",
    ZeroLearningRate: "learning rate is zero",
    OtherParameters: "nothing moves",
    SharedWeights: "reference is the policy",
    SummedMicroBatches: "loss is summed",
    ShiftedScores: "reference scores belong to other pairs",
    Dropout: "policy is scored with noise",
    UntrainedReference: "reference is another model",
    SwappedLoss: "chosen and rejected are swapped",
    SwappedMetrics: "chosen and rejected are swapped",
    Ascent: "training goes uphill",
    HugeLearningRate: "language is lost",
    DividedByBeta: "loss follows a larger margin",
    BetaTwice: "loss follows a smaller margin",
    TrainedReference: "reference moves",
    MeanOverTokens: "logps are averages",
    Leak: "too good too soon",
    RandomLabels: "labels follow nothing",
}
INVISIBLE: list[type[Healthy]] = [
    SwappedLabels, LongerIsChosen, PromptCounted, NoEnd, TwoEnds, InverseBeta,
]  # fmt: skip


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


def _swapped(pair: Pair) -> Pair:
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)
