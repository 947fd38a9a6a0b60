"""Direct Preference Optimization on a language model: gradient steps on equation (7).

The loss is the book's own, `dpo_lib.losses.dpo_loss`, or another of `dpo_lib.variants`, at the
log-probabilities of whole completions under the policy and under a frozen reference. The data do
not change, so the reference scores them once, before the first step; no step pays for it again.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.reading import Report, read_preferences
from dpo_lib.language_model.data.tokens import Pair, data_hash, tokenize_preferences
from dpo_lib.language_model.models.devices import pick_device, precision
from dpo_lib.language_model.models.hashes import state_hash, tokenizer_hash
from dpo_lib.language_model.models.policies import (
    frozen_copy,
    load_policy,
    load_reference,
    load_tokenizer,
    save_policy,
)
from dpo_lib.language_model.scoring.logprobs import pair_logps_in_parts, pair_sides
from dpo_lib.language_model.scoring.sequences import check_data
from dpo_lib.language_model.settings import DPOSettings, TrainingError
from dpo_lib.language_model.stages.reference_scores import load_scores, save_scores
from dpo_lib.language_model.training.order import batch_indices, micro_batches
from dpo_lib.language_model.training.processes import processes
from dpo_lib.language_model.training.progress import counted
from dpo_lib.language_model.training.stage import Stage
from dpo_lib.objective import implicit_reward
from dpo_lib.variants import choose_loss


class DPO(Stage):
    """The stage for `trainer.train`.

    Args:
        settings: what to do.
        policy: changed in place; its dropout must be off.
        reference: frozen, with storage of its own; let go when it has scored the data.
        tokenizer: saved beside the policy.
        pairs: labelled pairs as token ids.
    """

    may_shard = True

    def __init__(
        self,
        settings: DPOSettings,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: list[Pair],
    ):
        if reference.dtype != policy.dtype:
            raise TrainingError(f"the reference is {reference.dtype}, the policy {policy.dtype}")
        for model in (policy, reference):
            check_data(model, pair_sides(pairs))
        self.settings = settings.for_items(len(pairs))
        self.tokenizer, self.pairs = tokenizer, pairs
        self.policy, self.reference = policy, reference
        self.loss = choose_loss(
            settings.loss, settings.beta, settings.label_smoothing, settings.alpha
        )
        self.modules = {"policy": policy}
        self.items = len(pairs)
        self.fingerprint = {
            "data": data_hash(pairs),
            "tokenizer": tokenizer_hash(tokenizer),
            "model": state_hash(policy),
            "reference": state_hash(reference),
        }
        self.ref_logps: Tensor | None = None  # (items, 2): chosen, rejected

    @classmethod
    def from_settings(cls, settings: DPOSettings) -> tuple["DPO", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        processes()  # before the models: it picks the GPU
        tokenizer = load_tokenizer(settings.model, settings.data)
        rows, report = read_preferences(settings.data, tokenizer)
        pairs = tokenize_preferences(rows, tokenizer, settings.max_length, report)
        policy = load_policy(settings.model, tokenizer, torch.float32, settings.seed)
        if settings.reference is None:  # a copy of step 0: a resume brings its weights back later
            reference = frozen_copy(policy)
        else:
            reference = load_reference(settings, tokenizer)
        device = pick_device()
        return cls(settings, policy.to(device), reference.to(device), tokenizer, pairs), report

    def start(self, step: int) -> None:
        """Before the first step of this process, score the data with the reference."""
        if self.ref_logps is None:
            self.ref_logps = self._reference_logps().to(self.policy.device)
            self.reference = None  # its scores are all that is needed of it

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """Add the gradient of (7)'s part; returns sums over these pairs."""
        columns = []
        for part, (policy_chosen_logps, policy_rejected_logps) in self.parts(self.policy, indices):
            ref_chosen_logps, ref_rejected_logps = self.ref_logps[part].unbind(-1)
            losses = self.loss(
                policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps
            )
            (losses.sum() * share).backward()
            metrics = reward_metrics(
                policy_chosen_logps.detach(),
                policy_rejected_logps.detach(),
                ref_chosen_logps,
                ref_rejected_logps,
                self.settings.beta,
            )
            columns.append({"loss": losses.detach()} | metrics)
        sums = {name: sum(column[name].sum() for column in columns) for name in columns[0]}
        return sums | {"num_tokens": sum(map(self._tokens, indices))}

    def parts(
        self, model: PreTrainedModel, indices: list[int]
    ) -> Iterator[tuple[list[int], tuple[Tensor, Tensor]]]:
        """A few pairs at a time: which, and their log pi(y_w | x) and log pi(y_l | x), nats."""
        pairs = [self.pairs[index] for index in indices]
        context = partial(precision, self.settings, model.device)
        for part, logps in pair_logps_in_parts(model, pairs, context):
            yield indices[part], logps.unbind(-1)

    def save(self, directory: Path) -> None:
        """The policy and its tokenizer in the hub's format."""
        save_policy(self.policy, self.tokenizer, directory)

    def _reference_logps(self) -> Tensor:
        """The reference's scores, from the run's folder if they are these data's and its own."""
        settings, group = self.settings, processes()
        path = Path(settings.out) / "reference.safetensors"
        names = ("seed", "steps", "batch_size", "accumulate", "dtype")
        key = {name: str(getattr(settings, name)) for name in names}
        key |= {name: self.fingerprint[name] for name in ("data", "reference")}
        key |= {"processes": str(group.count)}
        logps = group.gather(load_scores(path, key) if group.main else None)[0]
        if logps is None:
            logps = self._score_with_reference()
            if group.main:
                save_scores(path, key, logps)
        return logps

    @torch.no_grad()
    def _score_with_reference(self) -> Tensor:
        """The reference's log-probabilities of every pair that the run meets, shape (items, 2).

        In the micro-batches and parts in which the first epoch meets them: the same model then
        gives the same bits, and the margins of the first step are exactly 0 on every device.
        Pairs that a run of less than one epoch does not meet stay NaN.
        """
        settings, group = self.settings, processes()
        wide = torch.promote_types(self.reference.dtype, torch.float32)
        logps = torch.full((self.items, 2), torch.nan, dtype=wide)
        epoch = math.ceil(self.items / settings.batch_size)
        steps = range(1, min(settings.steps, epoch) + 1)
        for step in counted(steps, "the reference scores the data", group.main):
            batch = batch_indices(settings.seed, step, settings.batch_size, self.items)
            for piece in micro_batches(batch, settings, group):
                for part, sides in self.parts(self.reference, piece):
                    logps[part] = torch.stack(sides, -1).cpu()
        for others in group.gather(logps):
            logps = logps.where(~logps.isnan(), others)
        return logps

    def _tokens(self, index: int) -> int:
        pair = self.pairs[index]
        return 2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


def reward_metrics(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
) -> dict[str, Tensor]:
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
