"""DPO on pairs that the policy itself draws and a judge labels (online or iterative DPO).

A round of `refresh_every` steps: the policy as the round begins draws some completions of each
prompt, a judge scores them, the best against the worst of a prompt is its pair, and then come
that many of DPO's own steps on these pairs, each used once (Guo et al. 2024, arXiv 2402.04792,
with a judge of any kind). A round as long as the run is offline DPO on pairs from the start.

With `--reference moving` the reference is the policy as the round begins. If every round reached
its optimum (4), round t would end at pi_t proportional to pi_(t-1) exp(r / beta), so after T
rounds at pi_0 exp(T r / beta): the optimum of objective (3) with beta / T, measured from the start.

One file: a round is understood as a whole, from the draw to its last step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib._checks import check_finite
from dpo_lib.language_model.data.order import batch_indices, derive_seed, next_items
from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.generation.rollouts import Completions
from dpo_lib.language_model.generation.samples import sample
from dpo_lib.language_model.models.devices import at_least_float32, precision
from dpo_lib.language_model.models.judges import Judge, as_texts, named_judge
from dpo_lib.language_model.models.policies import load_tokenizer
from dpo_lib.language_model.scoring.logprobs import pair_sides
from dpo_lib.language_model.settings import MOVING, START, OnlineDPOSettings, TrainingError
from dpo_lib.language_model.stages.dpo import DPO, loss_of
from dpo_lib.language_model.stages.shared.first_models import (
    check_comparable,
    fingerprint,
    held_out_hash,
    load_first,
    load_reference,
)
from dpo_lib.language_model.stages.shared.fresh_samples import FreshSamples
from dpo_lib.language_model.stages.shared.loading import load_held_out_prompts, load_prompts
from dpo_lib.language_model.stages.shared.reference_scores import score_batches
from dpo_lib.language_model.training.parallel.processes import processes
from dpo_lib.language_model.training.run_folder import PAIRS
from dpo_lib.language_model.training.stage import Measurement


class OnlineDPO(DPO):
    """The stage for `training.train`; its items are the prompts of a round.

    A last round that the run's end cuts short is drawn, labelled and kept whole.

    Args:
        settings: what to do.
        policy: changed in place; its dropout must be off.
        reference: frozen, with storage of its own; the KL of samples is to it, moving or not.
        tokenizer: its EOS ends a completion; saved beside the policy.
        prompts: token ids, none empty.
        judge: labels the completions, and scores the samples.
        texts: the prompts as rows of pairs have them, text or messages; decoded if not given.
        held_out: prompts that are not drawn for in training, for samples to watch it by.
    """

    may_shard = False
    keeps = (PAIRS,)

    def __init__(
        self,
        settings: OnlineDPOSettings,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[tuple[int, ...]],
        judge: Judge,
        texts: Sequence[str | list[dict]] | None = None,
        held_out: Sequence[tuple[int, ...]] = (),
    ):
        longest = (tokenizer.eos_token_id,) * settings.max_new_tokens
        check_comparable(policy, reference, [(prompt, longest) for prompt in prompts])
        self.settings = settings.for_items(len(prompts))
        self.policy, self.tokenizer, self.judge = policy, tokenizer, judge
        self.prompts, self.texts = prompts, texts
        self.loss = loss_of(settings)
        self.items = settings.refresh_every * settings.batch_size  # so an epoch is a round
        self.step = 0  # that is under way
        rows = self.items * settings.num_generations
        self.drawn = Completions(rows, settings.max_new_tokens, torch.float64)  # on the CPU
        wide = at_least_float32(policy.dtype)
        self.drawn.register_buffer("ref_logps", torch.zeros(self.items, 2, dtype=wide))
        self.pairs: list[Pair | None] = []  # of each item; None is a tie
        self.labels: list[tuple[int, int]] = []  # of each item: rows of its best and its worst
        self.modules = {"policy": policy, "drawn": self.drawn}
        hashes = fingerprint(prompts, tokenizer, model=policy, reference=reference)
        self.fingerprint = hashes | {"reward": judge.name} | held_out_hash(held_out)
        self.samples = FreshSamples(settings, tokenizer, held_out, policy, reference, judge.score)
        self.reference = reference

    @classmethod
    def from_settings(cls, settings: OnlineDPOSettings) -> tuple["OnlineDPO", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        tokenizer = load_tokenizer(settings.model, settings.data)
        texts, prompts, report = load_prompts(settings, tokenizer)
        held_out = load_held_out_prompts(settings, tokenizer, prompts)
        policy = load_first(settings, tokenizer)
        own = replace(settings, reference=None) if settings.reference in START else settings
        reference = load_reference(own, tokenizer, policy)
        judge = named_judge(settings.reward, tokenizer, policy.device)
        room = settings.max_length - settings.max_new_tokens
        uncut = [
            (getattr(text, "messages", None) or text) if len(ids) < room else tokenizer.decode(ids)
            for text, ids in zip(texts, prompts, strict=True)
        ]
        return cls(settings, policy, reference, tokenizer, prompts, judge, uncut, held_out), report

    def start(self, step: int) -> None:
        """Draw new pairs if a round begins with this step (steps count from 1)."""
        self.step = step
        number, within = divmod(step - 1, self.settings.refresh_every)
        if within == 0:
            self.draw(number)
        elif not self.pairs:  # the round is a checkpoint's
            self.label()
        self.ref_logps = self.drawn.ref_logps.to(self.policy.device)  # (items, 2)

    @torch.no_grad()
    def draw(self, number: int) -> None:
        """The pairs of round `number` (0, 1, ...) and what the reference says of them.

        A function of the weights and (seed, number), if the judge is one of the texts.

        Raises:
            TrainingError: there is not one pair.
        """
        settings = self.settings
        self.drawn.load_state_dict(processes().from_main(partial(self._judged, number)))
        self.label()
        if not any(self.pairs):
            low, high = self.drawn.scores.min().item(), self.drawn.scores.max().item()
            raise TrainingError(
                f"round {number + 1}: all completions of {self.items} prompts tie, with a score of "
                f"{low:g}{f' to {high:g}' if high > low else ''}, so there is no pair to learn "
                "from; raise temperature or num_generations, or take another judge; the "
                "checkpoints are intact"
            )
        first = number * settings.refresh_every + 1
        steps = range(first, first + settings.refresh_every)
        batches = (batch_indices(settings.seed, n, settings.batch_size, self.items) for n in steps)
        unknown = torch.full_like(self.drawn.ref_logps, torch.nan)
        reference = self.policy if settings.reference == MOVING else self.reference
        asked = partial(self.logps, reference)  # in the parts in which a step asks the policy
        found = score_batches(unknown, batches, asked, settings.accumulate)
        self.drawn.record(ref_logps=found.nan_to_num(0.0))  # ties have none, and are never read

    def _judged(self, number: int) -> dict[str, Tensor]:
        """Draw the completions of a round and, in the main process, have them scored."""
        settings = self.settings
        score = self.judge.score if processes().main else None  # a program is asked once
        chosen = next_items(settings.seed, number, self.items, len(self.prompts))
        with precision(settings, self.policy.device):
            drawn = sample(
                self.policy,
                [self.prompts[place] for place in chosen],
                score,
                self.tokenizer.eos_token_id,
                samples=settings.num_generations,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=derive_seed(settings.seed, 0, number),
                batch_size=settings.batch_size,
            )
        repeated = [place for place in chosen for _ in range(settings.num_generations)]
        self.drawn.take(repeated, [completion for _, completion in drawn.sequences])
        if drawn.rewards is not None:
            check_finite("scores", drawn.rewards)
            self.drawn.record(scores=drawn.rewards.flatten())
        return self.drawn.state_dict()

    def label(self) -> None:
        """The pair of each prompt of the round, best against worst; None where these tie."""
        places, scores = self.drawn.prompts.tolist(), self.drawn.scores.tolist()
        completions = self.drawn.completions(list(range(len(places))))
        self.labels, self.pairs = [], []
        for first in range(0, len(places), self.settings.num_generations):
            group = range(first, first + self.settings.num_generations)
            best, worst = (pick(group, key=scores.__getitem__) for pick in (max, min))
            pair = Pair(self.prompts[places[first]], completions[best], completions[worst])
            tie = scores[best] == scores[worst] or pair.chosen == pair.rejected
            self.labels.append((best, worst))
            self.pairs.append(None if tie else pair)

    @property
    def at_start(self) -> bool:
        return self.step == 1

    def untied(self, indices: list[int]) -> list[int]:
        """Those of the round's prompts that have a pair."""
        return [index for index in indices if self.pairs[index] is not None]

    def weight(self, indices: list[int]) -> float:
        """The pairs among these prompts."""
        return len(self.untied(indices))

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """DPO's own, of the prompts that have a pair."""
        untied = self.untied(indices)
        return super().backward(untied, share) if untied else {}

    def logps(
        self, model: PreTrainedModel, indices: list[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """DPO's own, of the prompts that have a pair."""
        untied = self.untied(indices)
        return super().logps(model, untied) if untied else iter(())

    def figures(self, batch: list[int]) -> dict[str, float]:
        """What was drawn, as means over the round; and how many pairs this step had."""
        ended = self.drawn.last_tokens() == self.tokenizer.eos_token_id
        return {
            "pairs": len(self.untied(batch)),
            "objective/scores": self.drawn.scores.mean().item(),
            "completions/mean_length": self.drawn.lengths.double().mean().item(),
            "completions/ended": ended.double().mean().item(),
            "completions/ties": self.pairs.count(None) / self.items,
        }

    def kept(self, step: int) -> dict[str, list[dict]]:
        """The pairs of a round with its first step, as text: rows that `dpo dpo` reads."""
        number, within = divmod(step - 1, self.settings.refresh_every)
        if within:
            return {}
        places, scores = self.drawn.prompts.tolist(), self.drawn.scores.tolist()
        found = [
            self._row(self.texts and self.texts[places[best]], pair)
            | {"score_chosen": scores[best], "score_rejected": scores[worst], "round": number + 1}
            for pair, (best, worst) in zip(self.pairs, self.labels, strict=True)
            if pair is not None
        ]
        return {PAIRS: found}

    def _row(self, text: str | list[dict] | None, pair: Pair) -> dict:
        """A pair as text, as messages where its prompt is a conversation."""
        (prompt, chosen), (_, rejected) = as_texts(pair_sides([pair]), self.tokenizer)
        sides = {"chosen": chosen, "rejected": rejected}
        if isinstance(text, list):
            sides = {n: [{"role": "assistant", "content": side}] for n, side in sides.items()}
        return {"prompt": prompt if text is None else text} | sides

    def evaluate(self) -> Measurement:
        """Fresh completions of held-out prompts, with the judge's scores and the KL."""
        return self.samples.draw(self.policy)
