"""Direct Preference Optimization on a language model: gradient steps on equation (7).

The loss is the book's own, `dpo_lib.losses.dpo_loss`, or another of `dpo_lib.variants`, at the
log-probabilities of whole completions under the policy and under a frozen reference. Some losses
are also told lengths, and some have no use for the reference; rewards (5) are logged against it
all the same, so that runs can be compared whatever their loss.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.models.devices import at_least_float32, precision
from dpo_lib.language_model.models.judges import Score
from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.scoring.logprobs import pair_logps, pair_logps_in_parts, pair_sides
from dpo_lib.language_model.scoring.sequences import to_device
from dpo_lib.language_model.settings import DPOSettings, PairLossSettings
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
from dpo_lib.language_model.stages.shared.loading import batches, load_held_out, load_pairs
from dpo_lib.language_model.stages.shared.reference_scores import ReferenceScores, ask_reference
from dpo_lib.language_model.training.stage import Measurement, Stage
from dpo_lib.objective import implicit_reward
from dpo_lib.per_token import nll_loss
from dpo_lib.variants import choose_loss


class DPO(Stage):
    """The stage for `training.train`.

    Args:
        settings: what to do.
        policy: changed in place; its dropout must be off.
        reference: frozen; let go when it has scored the data.
        tokenizer: saved beside the policy.
        pairs: labelled pairs as token ids.
        held_out: others, to be measured on.
        judge: scores the completions of their prompts, if `settings.samples` asks for some.
    """

    may_shard = True

    def __init__(
        self,
        settings: DPOSettings,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: list[Pair],
        held_out: Sequence[Pair] = (),
        judge: Score | None = None,
    ):
        check_comparable(policy, reference, pair_sides([*pairs, *held_out]))
        self.settings = settings.for_items(len(pairs))
        self.policy, self.reference = policy, reference
        self.tokenizer, self.pairs, self.held_out = tokenizer, pairs, list(held_out)
        prompts = [pair.prompt for pair in held_out]
        self.samples = FreshSamples(settings, tokenizer, prompts, policy, reference, judge)
        self.loss = loss_of(settings)
        self.modules = {"policy": policy}
        self.items, self.tokens = len(pairs), sum(pair.tokens for pair in pairs)
        self.fingerprint = fingerprint(pairs, tokenizer, model=policy, reference=reference)
        self.fingerprint |= held_out_hash(held_out)
        wide = at_least_float32(policy.dtype)
        self.scores = ReferenceScores(self.settings, self.items, self.fingerprint, wide)
        self.step = 0  # that is under way

    @classmethod
    def from_settings(cls, settings: DPOSettings) -> tuple["DPO", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        tokenizer = load_tokenizer(settings.model, settings.data)
        pairs, report = load_pairs(settings, tokenizer)
        held_out = load_held_out(settings, tokenizer, pairs)
        policy = load_first(settings, tokenizer)
        reference = load_reference(settings, tokenizer, policy)
        judge = load_own_judge(settings, tokenizer, policy)
        return cls(settings, policy, reference, tokenizer, pairs, held_out, judge), report

    def layout(self) -> dict[str, str]:
        """As the log-probabilities are computed."""
        return layout(self.policy)

    def start(self, step: int) -> None:
        """Have the reference score what the run meets: it never changes, so once is enough."""
        self.step = step
        ask_reference(self, step)

    def evaluate(self) -> Measurement:
        """Loss, rewards and log-probabilities of the held-out pairs, and fresh completions."""
        first = self.step == 0
        self.start(1)  # before the first step the reference has not been asked yet
        scores = (*self.score_held_out(self.policy).unbind(-1), *self.held_out_ref_logps.unbind(-1))
        found = self.losses(self.held_out, *scores) | reward_metrics(*scores, self.settings.beta)
        if first:
            check_start(self.settings, found["rewards/chosen"], found["rewards/rejected"])
        of_pairs = {f"eval_{name}": values.mean().item() for name, values in found.items()}
        return Measurement(of_pairs) | self.samples.draw(self.policy)

    @torch.no_grad()
    def score_held_out(self, model: PreTrainedModel) -> Tensor:
        """log pi(y_w | x) and log pi(y_l | x) of the held-out pairs, (n, 2), nats."""
        parts = batches(self.held_out, self.settings)
        with precision(self.settings, self.policy.device):
            found = [pair_logps(model, part) for part in parts]
        return torch.cat(found) if found else self.ref_logps[:0]

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """Add the gradient of (7)'s part; returns sums over these pairs."""
        columns = []
        for part, logps in self.logps(self.policy, indices):
            chosen, rejected = logps.unbind(-1)
            rows = to_device(torch.tensor(part), self.ref_logps.device)
            ref_chosen, ref_rejected = self.ref_logps[rows].unbind(-1)
            pairs = [self.pairs[index] for index in part]
            losses = self.losses(pairs, chosen, rejected, ref_chosen, ref_rejected)
            (losses["loss"].sum() * share).backward()
            metrics = reward_metrics(
                chosen.detach(), rejected.detach(), ref_chosen, ref_rejected, self.settings.beta
            )
            if self.at_start:
                check_start(self.settings, metrics["rewards/chosen"], metrics["rewards/rejected"])
            columns.append({name: value.detach() for name, value in losses.items()} | metrics)
        sums = {name: sum(column[name].sum() for column in columns) for name in columns[0]}
        return sums | {"num_tokens": sum(self.pairs[index].tokens for index in indices)}

    @property
    def at_start(self) -> bool:
        """Whether this step finds policy and reference as they began, scored on this machine."""
        return self.step == 1 and not self.scores.kept

    def losses(self, pairs: list[Pair], *logps: Tensor) -> dict[str, Tensor]:
        """The loss of each pair, equation (7) or another, and its SFT term if it has one.

        Args:
            logps: policy's chosen and rejected, reference's chosen and rejected, shape (pairs,).
        """
        lengths = [
            to_device(torch.tensor([len(getattr(pair, side)) for pair in pairs]), logps[0].device)
            for side in ("chosen", "rejected")
        ]
        found = {"loss": self.loss(*logps, *lengths)}
        term = {"nll_loss": nll_loss(logps[0], lengths[0])} if self.settings.has_sft_term else {}
        return found | term

    def logps(
        self, model: PreTrainedModel, indices: list[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """A few pairs at a time: which, and their log pi(y_w | x) and log pi(y_l | x), (n, 2).

        Call `backward` on what is made of a part before the next one is asked for.
        """
        pairs = [self.pairs[index] for index in indices]
        context = partial(precision, self.settings, model.device)
        for part, logps in pair_logps_in_parts(model, pairs, context):
            yield indices[part], logps

    def save(self, directory: Path) -> None:
        """The policy and its tokenizer in the hub's format."""
        save_policy(self.policy, self.tokenizer, directory)


def loss_of(settings: PairLossSettings) -> Callable[..., Tensor]:
    """The loss that the settings name, at the log-probabilities of pairs."""
    return choose_loss(settings.loss, settings.beta, **settings.told)


def reward_metrics(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> dict[str, Tensor]:  # fmt: skip
    """What the log says of each pair, under TRL's names: implicit rewards (5) and their order.

    A tie is half right: at the first step, where policy and reference agree, the accuracy is
    1/2 and not 0.

    Returns:
        tensors of the arguments' shape, (pairs,).
    """
    chosen = implicit_reward(policy_chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(policy_rejected_logps, ref_rejected_logps, beta)
    margins = chosen - rejected
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (1 + margins.sign()) / 2,
        "rewards/margins": margins,
        "logps/chosen": policy_chosen_logps,
        "logps/rejected": policy_rejected_logps,
    }
