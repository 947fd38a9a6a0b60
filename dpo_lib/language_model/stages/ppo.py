"""PPO on a language model: draw, score, charge the KL, take a few clipped steps (chapter 4).

One optimiser step of the loop is one minibatch step here. An iteration is `minibatches` times
`epochs` of them; at its first the policy draws fresh completions, which then stay fixed.

The policy that is drawn from, scored and trained is one and the same: the model's distribution at
`temperature`, without dropout. The reference is taken at the same temperature, as TRL does, so
that the KL starts at 0. The value function has a body of its own, copied from the reward model as
InstructGPT does, or from the policy if another judge is used; its head starts at zero.

One file: an iteration is understood as a whole, from the draw to the last clipped step.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib._checks import check_finite
from dpo_lib.language_model.data.order import derive_seed, next_items
from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.generation.rollouts import (
    Rollouts,
    pad,
    token_advantages,
    token_rewards,
    whiten,
)
from dpo_lib.language_model.generation.sampling import generate
from dpo_lib.language_model.models.devices import at_least_float32, precision
from dpo_lib.language_model.models.judges import Score, named_judge
from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.scoring.logprobs import token_logps
from dpo_lib.language_model.scoring.sequences import check_data
from dpo_lib.language_model.settings import PPOSettings
from dpo_lib.language_model.stages.ppo_terms import (
    ValueModel,
    clip_fraction,
    clipped_value_loss,
    controlled_beta,
    logps_and_entropies,
)
from dpo_lib.language_model.stages.shared.first_models import (
    check_comparable,
    check_start,
    fingerprint,
    held_out_hash,
    layout,
    load_first,
    load_reference,
)
from dpo_lib.language_model.stages.shared.fresh_samples import FreshSamples
from dpo_lib.language_model.stages.shared.loading import load_held_out_prompts, load_prompts
from dpo_lib.language_model.training.parallel.processes import processes
from dpo_lib.language_model.training.stage import Measurement, Stage
from dpo_lib.losses import ppo_clip_loss


class PPO(Stage):
    """The stage for `training.train`.

    Args:
        settings: what to do.
        policy: changed in place; its dropout must be off.
        reference: frozen, with storage of its own.
        value: trained beside the policy.
        tokenizer: its EOS ends a completion; saved beside the policy.
        prompts: token ids, none empty.
        score: the reward to climb.
        judge: the reward's name among the hashes that are fixed for a run.
        held_out: prompts that are not drawn for in training, for samples to watch it by.
    """

    def __init__(
        self,
        settings: PPOSettings,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        value: ValueModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[tuple[int, ...]],
        score: Score,
        judge: str,
        held_out: Sequence[tuple[int, ...]] = (),
    ):
        longest = (tokenizer.eos_token_id,) * settings.max_new_tokens
        sequences = [(prompt, longest) for prompt in prompts]
        check_comparable(policy, reference, sequences)
        check_data(value.body, sequences)
        # Without `steps` each prompt is drawn for once, and each completion used `epochs` times.
        self.settings = settings.for_items(settings.epochs * len(prompts))
        self.policy, self.reference, self.value = policy, reference, value
        self.tokenizer, self.prompts, self.score = tokenizer, prompts, score
        self.beta, self.first = settings.beta, False
        self.items = settings.minibatches * settings.batch_size  # so an epoch is the loop's
        dtype = at_least_float32(policy.dtype)
        self.rollouts = Rollouts(self.items, settings.max_new_tokens, dtype).to(policy.device)
        self.modules = {"policy": policy, "value": value, "rollouts": self.rollouts}
        hashes = fingerprint(prompts, tokenizer, model=policy, reference=reference)
        self.fingerprint = hashes | {"reward": judge} | held_out_hash(held_out)
        self.samples = FreshSamples(settings, tokenizer, held_out, policy, reference, score)

    @classmethod
    def from_settings(cls, settings: PPOSettings) -> tuple["PPO", Report]:
        """Load everything that the settings name; the report says what became of the rows."""
        tokenizer = load_tokenizer(settings.model, settings.data)
        _, prompts, report = load_prompts(settings, tokenizer)
        held_out = load_held_out_prompts(settings, tokenizer, prompts)
        policy = load_first(settings, tokenizer)
        reference = load_reference(settings, tokenizer, policy)
        judge = named_judge(settings.reward, tokenizer, policy.device)
        value = ValueModel(judge.model.body if judge.model else policy, settings)
        loaded = (policy, reference, value, tokenizer, prompts, judge.score, judge.name, held_out)
        return cls(settings, *loaded), report

    def layout(self) -> dict[str, str]:
        """As the log-probabilities are computed."""
        return layout(self.policy)

    def start(self, step: int) -> None:
        """Draw new completions if an iteration begins with this step (steps count from 1)."""
        iteration, within = divmod(step - 1, self.settings.epochs * self.settings.minibatches)
        self.first = within == 0
        if self.first:
            self.draw(iteration)

    @torch.no_grad()
    def draw(self, iteration: int) -> None:
        """Completions of the present policy with their rewards, advantages and value targets.

        A function of the weights, `beta` and (seed, iteration). Every prompt is used once before
        any is used twice. With several processes all take what the first one drew.
        """
        settings, rollouts = self.settings, self.rollouts
        if settings.target_kl is not None and iteration > 0:
            kl = rollouts.kl().mean().item()  # of the iteration that ends here
            self.beta = controlled_beta(self.beta, kl, settings.target_kl)
        chosen = next_items(settings.seed, iteration, self.items, len(self.prompts))
        with precision(settings, self.policy.device):
            completions = generate(
                self.policy,
                [self.prompts[place] for place in chosen],
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                generator=torch.Generator().manual_seed(derive_seed(settings.seed, 0, iteration)),
                eos=self.tokenizer.eos_token_id,
                batch_size=settings.batch_size,
            )
            rollouts.take(chosen, completions)
            rollouts.record(
                logps=self._in_batches(self.logps),
                ref_logps=self._in_batches(partial(self.logps, model=self.reference)),
                values=self._in_batches(self.values),
                scores=self._in_batches(self.score),
            )
        if iteration == 0:
            check_start(settings, rollouts.kl())
        self._judge()
        first, *_ = processes().gather(rollouts.state_dict())
        rollouts.load_state_dict(first)

    def _judge(self) -> None:
        """Scores, log-probabilities and values to advantages and the value function's targets."""
        settings, rollouts, lengths = self.settings, self.rollouts, self.rollouts.lengths
        check_finite("scores", rollouts.scores.cpu())
        rollouts.scores -= settings.missing_eos_penalty * ~self.finished()
        rewards = token_rewards(
            rollouts.scores, rollouts.logps, rollouts.ref_logps, lengths, self.beta
        )
        advantages, returns = token_advantages(
            rewards, rollouts.values, lengths, settings.gamma, settings.lam
        )
        if settings.whiten:
            advantages = whiten(advantages, rollouts.mask())
        rollouts.record(advantages=advantages, returns=returns)

    def weight(self, indices: list[int]) -> float:
        """Generated tokens: each weighs the same, whatever the length of its completion."""
        return self.rollouts.lengths[indices].sum().item()

    def backward(self, indices: list[int], share: float) -> dict[str, Tensor | float]:
        """PPO (9) with its sign turned, summed over the generated tokens of these items."""
        settings, rollouts = self.settings, self.rollouts
        rows = sorted(indices)  # as they were scored when drawn, so that the same kernels run
        batch, mask = self.sequences(rows), rollouts.mask()[rows]
        old_logps, advantages = rollouts.logps[rows], rollouts.advantages[rows]
        with precision(settings, self.policy.device):
            logps, entropies = self.logps_and_entropies(batch)
            values = self.values(batch)
        policy_losses = ppo_clip_loss(logps, old_logps, advantages, settings.clip_range)
        value_losses = clipped_value_loss(
            values, rollouts.values[rows], rollouts.returns[rows], settings.value_clip_range
        )
        losses = policy_losses + settings.value_coefficient * value_losses
        change = logps.detach() - old_logps
        if settings.entropy_coefficient:
            losses = losses - settings.entropy_coefficient * entropies
        else:  # a metric only, estimated from the drawn tokens: E_old[rho (-log pi)] = H(pi)
            entropies = -change.exp() * logps
        (losses.where(mask, 0.0).sum() * share).backward()
        of_tokens = {
            "loss": losses,
            "loss/policy_avg": policy_losses,
            "loss/value_avg": value_losses,
            "policy/approxkl_avg": change.square() / 2,
            "policy/clipfrac_avg": clip_fraction(change, advantages, settings.clip_range),
            "policy/entropy_avg": entropies,
            "val/ratio": change.exp(),
        }
        sums = {name: x.detach().where(mask, 0.0).sum() for name, x in of_tokens.items()}
        if self.first:  # before any update, so 1
            sums["ratio/first"] = sums["val/ratio"]
        tokens = self.weight(rows)  # the log divides by it
        sums |= {name: mean * tokens for name, mean in self.objective().items()}
        return sums | {"num_tokens": tokens}

    def evaluate(self) -> Measurement:
        """Fresh completions of held-out prompts, with the figures of `objective`."""
        return self.samples.draw(self.policy)

    def objective(self) -> dict[str, float]:
        """What the present completions say of objective (3): means over the iteration.

        `objective/kl` is the KL that the rewards charged, in nats of a whole completion.
        """
        rollouts = self.rollouts
        kl, score = rollouts.kl().mean().item(), rollouts.scores.mean().item()
        return {
            "objective/kl": kl,
            "objective/kl_coef": self.beta,
            "objective/entropy": -rollouts.logps.sum(-1).mean().item(),
            "objective/scores": score,
            "objective/non_score_reward": -self.beta * kl,
            "objective/rlhf_reward": score - self.beta * kl,
            "val/num_eos_tokens": self.finished().sum().item(),
        }

    def logps(self, sequences: Sequences, model: PreTrainedModel | None = None) -> Tensor:
        """log pi of each generated token at the run's temperature, shape (rows, width), nats."""
        return self.logps_and_entropies(sequences, model)[0]

    def logps_and_entropies(
        self, sequences: Sequences, model: PreTrainedModel | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The same, with the entropies of the tokens' distributions if a bonus needs them."""
        model, temperature = model or self.policy, self.settings.temperature
        width = self.settings.max_new_tokens
        if not self.settings.entropy_coefficient:
            return pad(token_logps(model, sequences, temperature), width), None
        logps, entropies = logps_and_entropies(model, sequences, temperature)
        return pad(logps, width), pad(entropies, width)

    def values(self, sequences: Sequences) -> Tensor:
        """V before each generated token, shape (rows, width), reward units."""
        return pad(self.value(sequences), self.settings.max_new_tokens)

    def sequences(self, rows: list[int]) -> Sequences:
        """Prompt and completion of some of the iteration's rows."""
        prompts = [self.prompts[place] for place in self.rollouts.prompts[rows].tolist()]
        return list(zip(prompts, self.rollouts.completions(rows), strict=True))

    def finished(self) -> Tensor:
        """Which completions ended by themselves, in EOS: bool, shape (rows,)."""
        return self.rollouts.last_tokens() == self.tokenizer.eos_token_id

    def state(self) -> dict:
        """The adapted coefficient; the completions are tensors, in `self.rollouts`."""
        return {"beta": self.beta}

    def load_state(self, state: dict) -> None:
        self.beta = state["beta"]

    def save(self, directory: Path) -> None:
        """The policy in the hub's format; the value function has served its purpose."""
        save_policy(self.policy, self.tokenizer, directory)

    def _in_batches(self, function: Callable[[Sequences], Tensor]) -> Tensor:
        """A function of all completions, as many at a time as a backward pass holds."""
        size = math.ceil(self.settings.batch_size / self.settings.accumulate)
        sequences = self.sequences(list(range(self.items)))
        starts = range(0, self.items, size)
        parts = [function(sequences[start : start + size]) for start in starts]
        return torch.cat(parts).to(self.rollouts.scores)
