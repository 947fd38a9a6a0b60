"""Bugs that a log can show; `VISIBLE` maps each to the doctor's rule that must name it first."""

import copy
import random
from dataclasses import replace

import torch
from torch import nn

from dpo_lib.language_model.models.policies import frozen_copy
from dpo_lib.language_model.scoring.logprobs import pair_logps
from dpo_lib.language_model.zoo.adapters import AdapterLeftOn, AdapterSwitchedOff
from dpo_lib.language_model.zoo.healthy import Healthy
from dpo_lib.variants import choose_loss


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
        pairs = [p.swapped() if rng.random() < 0.5 else p for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class CutChosen(Healthy):
    """Chosen answers are cut after 16 tokens, rejected ones are not."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        pairs = [replace(p, chosen=p.chosen[:16]) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class UntrainedReference(Healthy):
    """The reference is the model before SFT."""

    @classmethod
    def reference_of(cls, start):
        return frozen_copy(start.untrained)


class SharedWeights(Healthy):
    """The reference is the policy itself, not a copy."""

    def backward(self, indices, share):
        pairs = [self.pairs[index] for index in indices]
        self.ref_logps[indices] = pair_logps(self.policy, pairs).detach()
        return super().backward(indices, share)


class TrainedReference(Healthy):
    """The reference is a copy, but neither frozen nor detached, and the optimiser has it."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        super().__init__(settings, policy, reference, tokenizer, pairs)
        reference.requires_grad_(True)
        self.modules = {"policy": policy, "reference": reference}

    def backward(self, indices, share):
        pairs = [self.pairs[index] for index in indices]
        scores = pair_logps(self.modules["reference"], pairs)
        self.ref_logps = self.ref_logps.detach().index_put((torch.tensor(indices),), scores)
        return super().backward(indices, share)


class ShiftedScores(Healthy):
    """The reference's stored scores belong to the row before."""

    def start(self, step):
        fresh = self.scores.scored == 0
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
        for part, logps in super().logps(model, indices):
            pairs = [self.pairs[index] for index in part]
            yield part, logps / torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs])


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
        swap = [1, 0, 3, 2, 5, 4]  # log-probabilities of policy and reference, lengths
        self.loss = lambda *pairs: loss(*(pairs[side] for side in swap))


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


class ManyEpochs(Healthy):
    """Ten epochs over 480 pairs, at three times the learning rate."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        steps = 10 * 480 // settings.batch_size
        settings = replace(settings, steps=steps, lr=3 * settings.lr, eval_data="", eval_every=10)
        super().__init__(settings, policy, reference, tokenizer, pairs[:480])


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


VISIBLE: dict[type[Healthy], str] = {
    EmptyAnswer: "not finite",
    RepeatedSteps: "steps are broken",
    ZeroLearningRate: "learning rate is zero",
    OtherParameters: "nothing moves",
    SharedWeights: "reference is the policy",
    AdapterLeftOn: "reference is the policy",
    SummedMicroBatches: "loss is summed",
    ShiftedScores: "reference scores belong to other pairs",
    Dropout: "policy is scored with noise",
    UntrainedReference: "reference is another model",
    AdapterSwitchedOff: "reference is another model",
    SwappedLoss: "chosen and rejected are swapped",
    SwappedMetrics: "chosen and rejected are swapped",
    Ascent: "training goes uphill",
    HugeLearningRate: "language is lost",
    CutChosen: "one side is shorter",
    DividedByBeta: "loss follows a larger margin",
    BetaTwice: "loss follows a smaller margin",
    TrainedReference: "reference moves",
    MeanOverTokens: "logps are averages",
    ManyEpochs: "held out loss rises",
    Leak: "too good too soon",
    RandomLabels: "labels follow nothing",
}
