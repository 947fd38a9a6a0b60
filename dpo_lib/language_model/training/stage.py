"""What a stage (SFT, reward model, DPO, PPO) tells the training loop."""

from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from dpo_lib.language_model.settings import Settings


class Stage(Protocol):
    """What a stage provides; inherit from it for the defaults."""

    settings: Settings
    modules: dict[str, nn.Module]  # trained and checkpointed
    items: int  # training items of one epoch; a batch is a list of indices below it
    fingerprint: dict[str, str]  # hashes of data, tokenizer, model, reference: fixed for a run
    may_shard = False  # whether `backward` passes through its modules once, whatever the items

    def start(self, step: int) -> None:
        """Called before optimiser step `step` (1, 2, ...): PPO draws its rollouts here.

        Must follow from `step`, the weights and `state()` alone.
        """

    def weight(self, indices: list[int]) -> float:
        """The divisor of these items' mean: their number (default), or their tokens (SFT)."""
        return len(indices)

    def backward(self, indices: list[int], share: float) -> dict[str, float | Tensor]:
        """Forward and backward of one micro-batch; gradients add up.

        Args:
            indices: the items of this micro-batch.
            share: 1 / weight of the whole batch over all micro-batches and processes. Call
                `(losses.sum() * share).backward()`: the sum over micro-batches is then the
                gradient of the batch's mean, whatever the split.

        Returns:
            SUMS over the micro-batch (detached), "loss" among them, with TRL's names; the log
            shows sum * share. "num_tokens" is special: counted, not averaged.
        """
        ...

    def state(self) -> dict:
        """What else the next step depends on, as JSON (KL coefficient, rollouts)."""
        return {}

    def load_state(self, state: dict) -> None:
        """Take back what `state` gave."""

    def save(self, directory: Path) -> None:
        """Write the trained model in the hub's format."""
        ...
