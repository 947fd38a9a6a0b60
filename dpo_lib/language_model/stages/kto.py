"""KTO on a language model: answers that are called good or bad one at a time, without pairs.

The loss is `dpo_lib.unpaired.kto_loss`. Its reference point z_0 is one number of a whole batch,
measured before each step on answers beside prompts that are not theirs. So an update does not
depend on how its batch is cut into micro-batches or spread over processes.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.data.tokens import TokenExample
from dpo_lib.language_model.data.unpaired import Answers, TokenLabelled
from dpo_lib.language_model.models.devices import at_least_float32, precision
from dpo_lib.language_model.models.judges import Score
from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.scoring.logprobs import completion_logps, completion_logps_in_parts
from dpo_lib.language_model.scoring.sequences import to_device
from dpo_lib.language_model.settings import KTOSettings
from dpo_lib.language_model.stages.shared.first_models import (
    check_comparable,
    check_start,
    fingerprint,
    held_out_hash,
    layout,
    load_first,
    load_own_judge,
    load_reference,
)
from dpo_lib.language_model.stages.shared.fresh_samples import FreshSamples
from dpo_lib.language_model.stages.shared.loading import (
    batches,
    load_held_out_labelled,
    load_labelled,
)
from dpo_lib.language_model.stages.shared.reference_scores import ReferenceScores, ask_reference
from dpo_lib.language_model.training.parallel.processes import micro_batches, processes
from dpo_lib.language_model.training.stage import Measurement, Stage
from dpo_lib.objective import implicit_reward
from dpo_lib.unpaired import kto_loss, reference_point


class KTO(Stage):
    """The stage for `training.train`.

    Args:
        settings: what to do.
        policy: changed in place; its dropout must be off.
        reference: frozen, with storage of its own; let go when it has scored the data.
        answers: labelled answers as token ids, of both labels.
        held_out: others, to be measured on.
        tokenizer, judge: as in `DPO`.
    """

    may_shard = True

    def __init__(
        self,
        settings: KTOSettings,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        answers: list[TokenLabelled],
        held_out: Sequence[TokenLabelled] = (),
        judge: Score | None = None,
    ):
        self.settings = settings.for_items(len(answers))
        self.policy, self.reference, self.tokenizer = policy, reference, tokenizer
        self.data, self.held_out = (
            Answers(part, settings.max_length) for part in (answers, held_out)
        )
        check_comparable(policy, reference, self.data.all + self.held_out.all)
        prompts = [answer.prompt for answer in held_out]
        self.samples = FreshSamples(settings, tokenizer, prompts, policy, reference, judge)
        self.modules = {"policy": policy}
        self.items = len(answers)
        self.tokens = self.data.tokens(range(self.items))
        beside = [TokenExample(*other) for other in self.data.others]  # scored by the reference too
        models = dict(model=policy, reference=reference)
        self.fingerprint = fingerprint([*answers, *beside], tokenizer, **models)
        self.fingerprint |= held_out_hash(held_out)
        wide = at_least_float32(policy.dtype)
        self.scores = ReferenceScores(self.settings, self.items, self.fingerprint, wide)

    @classmethod
    def from_settings(cls, settings: KTOSettings) -> tuple["KTO", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        tokenizer = load_tokenizer(settings.model, settings.data)
        answers, report = load_labelled(settings, tokenizer)
        held_out = load_held_out_labelled(settings, tokenizer, answers)
        policy = load_first(settings, tokenizer)
        reference = load_reference(settings, tokenizer, policy)
        judge = load_own_judge(settings, tokenizer, policy)
        return cls(settings, policy, reference, tokenizer, answers, held_out, judge), report

    def layout(self) -> dict[str, str]:
        """As the log-probabilities are computed."""
        return layout(self.policy)

    def start(self, step: int) -> None:
        """Measure the step's reference point, and have the reference score what the run meets."""
        ask_reference(self, step)
        batch = batch_indices(self.settings.seed, step, self.settings.batch_size, self.items)
        self.desirable = self.data.labels[batch].double().mean().item()
        group = processes()
        mine = micro_batches(batch, self.settings.accumulate, group)
        logps = [self.mismatched_logps(self.policy, piece).tolist() for piece in mine]
        for _ in range(self.settings.accumulate - len(mine) if group.sharded else 0):
            self.mismatched_logps(self.policy, batch[:1])  # the others wait for this one's pass
        everyone = chain.from_iterable(group.gather(list(chain.from_iterable(logps))))
        others = self.ref_logps[batch, 1].cpu().double()
        present = others.new_tensor(list(everyone))
        if step == 1 and not self.scores.kept:
            check_start(self.settings, present - others)
        self.kl = reference_point(present, others)

    def evaluate(self) -> Measurement:
        """Loss, rewards and log-probabilities of the held-out answers, and fresh completions.

        All of them are one batch: the reference point is measured on them together.
        """
        ask_reference(self, 1)  # before the first step it has not been asked yet
        found = self._held_out_figures() if self.held_out.own else {}
        return Measurement(found) | self.samples.draw(self.policy)

    def _held_out_figures(self) -> dict[str, float]:
        logps, others = self.score_held_out(self.policy).unbind(-1)
        ref_logps, ref_others = self.held_out_ref_logps.unbind(-1)
        kl = reference_point(others, ref_others)
        labels = to_device(self.held_out.labels, logps.device)
        desirable = self.held_out.labels.double().mean().item()
        found = {"loss": self.loss(logps, ref_logps, labels, kl), "kl": kl}
        found |= label_metrics(logps, ref_logps, labels, self.settings.beta, desirable)
        return {f"eval_{name}": values.mean().item() for name, values in found.items()}

    @torch.no_grad()
    def score_held_out(self, model: PreTrainedModel) -> Tensor:
        """log pi of each held-out answer beside its own prompt and another's, (n, 2), nats."""
        with precision(self.settings, self.policy.device):
            found = [
                [completion_logps(model, part) for part in batches(sequences, self.settings)]
                for sequences in (self.held_out.own, self.held_out.others)
            ]
        if not self.held_out.own:
            return self.ref_logps[:0]
        return torch.stack([torch.cat(parts) for parts in found], -1)

    def loss(self, logps: Tensor, ref_logps: Tensor, labels: Tensor, kl: Tensor) -> Tensor:
        """Equation (7) of each answer, with the settings filled in."""
        given = self.settings
        weights = given.desirable_weight, given.undesirable_weight
        return kto_loss(logps, ref_logps, labels, kl, given.beta, *weights)

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """Add the gradient of (7)'s part; returns sums over these answers."""
        columns = []
        for part, logps in self.own_logps(self.policy, indices):
            rows = to_device(torch.tensor(part), self.ref_logps.device)
            ref_logps = self.ref_logps[rows, 0]
            labels = to_device(self.data.labels[part], logps.device)
            losses = self.loss(logps, ref_logps, labels, self.kl)
            (losses.sum() * share).backward()
            metrics = label_metrics(
                logps.detach(), ref_logps, labels, self.settings.beta, self.desirable
            )
            columns.append({"loss": losses.detach()} | metrics)
        sums = {name: sum(column[name].sum() for column in columns) for name in columns[0]}
        sums["kl"] = self.kl * len(indices)  # the same for all of the batch
        return sums | {"num_tokens": self.data.tokens(indices)}

    def logps(
        self, model: PreTrainedModel, indices: list[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """log pi(y | x) and log pi(y' | x) of these items, as a step computes them, (n, 2)."""
        own = torch.cat([logps for _, logps in self.own_logps(model, indices)])
        yield indices, torch.stack([own, self.mismatched_logps(model, indices)], -1)

    def own_logps(
        self, model: PreTrainedModel, indices: list[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """A few items at a time: which, and their log pi(y | x), (n,).

        Call `backward` on what is made of a part before the next one is asked for.
        """
        sequences = [self.data.own[index] for index in indices]
        context = partial(precision, self.settings, model.device)
        for part, logps in completion_logps_in_parts(model, sequences, context):
            yield indices[part], logps

    @torch.no_grad()
    def mismatched_logps(self, model: PreTrainedModel, indices: list[int]) -> Tensor:
        """log pi(y' | x) of each item's prompt and another's answer, (n,), nats."""
        with precision(self.settings, model.device):
            return completion_logps(model, [self.data.others[index] for index in indices])

    def save(self, directory: Path) -> None:
        """The policy and its tokenizer in the hub's format."""
        save_policy(self.policy, self.tokenizer, directory)


def label_metrics(
    policy_logps: Tensor, ref_logps: Tensor, labels: Tensor, beta: float, desirable: float
) -> dict[str, Tensor]:
    """What the log says of a batch, under TRL's names: means over the answers of one label.

    The trainer takes means over a whole batch. An answer of the other label counts 0 here, one of
    this label as many times as makes the batch's mean the mean over this label's answers. What
    a batch has no answer for is left out, as in TRL, and not NaN.

    Args:
        policy_logps, ref_logps, labels: of some of a batch, shape (n,).
        desirable: the share of the whole batch that is labelled so.

    Returns:
        tensors of shape (n,).
    """
    rewards = implicit_reward(policy_logps, ref_logps, beta)
    found = {}
    for side, of_side, share in (
        ("chosen", labels, desirable),
        ("rejected", ~labels, 1 - desirable),
    ):
        if share > 0:
            found[f"rewards/{side}"] = rewards * of_side / share
            found[f"logps/{side}"] = policy_logps * of_side / share
    if 0 < desirable < 1:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found
