"""What a stage (SFT, reward model, DPO, KTO, PPO) tells the training loop."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dpo_lib.language_model.models.devices import pick_dtype
from dpo_lib.language_model.settings import Settings


@dataclass(frozen=True)
class Measurement:
    """What a stage finds on held-out rows."""

    # Means, by their names in the log with `eval_` before them, as TRL has it.
    figures: dict[str, float] = field(default_factory=dict)
    # Texts to be read: JSON objects of prompt, completion and what is said of it.
    samples: list[dict] = field(default_factory=list)

    def __or__(self, other: "Measurement") -> "Measurement":
        return Measurement(self.figures | other.figures, self.samples + other.samples)


class Stage(ABC):
    """What a stage provides: its attributes, `backward` and `save`; the rest has defaults."""

    settings: Settings
    modules: dict[str, nn.Module]  # trained and checkpointed
    items: int  # training items of one epoch; a batch is a list of indices below it
    tokens: int | None = None  # of all items; None if that cannot be known
    fingerprint: dict[str, str]  # hashes of data, tokenizer, model, reference: fixed for a run
    keeps: tuple[str, ...] = ()  # files of the run's folder that `kept` adds to
    may_shard = False  # whether `backward` passes through its modules once, whatever the items

    def layout(self) -> dict[str, str]:
        """How a language model is given its batches: "attention" and "layout", in words."""
        return {}

    def start(self, step: int) -> None:  # noqa: B027 (a default that does nothing)
        """Called before optimiser step `step` (1, 2, ...): PPO draws its rollouts here.

        Must follow from `step`, the weights and `state()` alone.
        """

    def weight(self, indices: list[int]) -> float:
        """The divisor of these items' mean: their number (default), or their tokens (SFT).

        0 is a batch with nothing to learn from, whose step moves nothing.
        """
        return len(indices)

    @abstractmethod
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

    def figures(self, batch: list[int]) -> dict[str, float]:
        """What else the log says of a step, beside the means of `backward`."""
        return {}

    def kept(self, step: int) -> dict[str, list[dict]]:
        """What a step adds to the files of `keeps`, once it is taken: name -> JSON objects."""
        return {}

    def evaluate(self) -> Measurement:
        """Held-out items under the present weights, which must not change, as no random state."""
        return Measurement()

    def state(self) -> dict:
        """What else the next step depends on, as JSON (KL coefficient, rollouts)."""
        return {}

    def load_state(self, state: dict) -> None:  # noqa: B027
        """Take back what `state` gave."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the trained model in the hub's format."""


def about(stage: Stage) -> dict[str, str | int | None]:
    """What a run does, for its first line and for its folder: name -> value, as JSON."""
    modules = stage.modules.values()
    found = {id(p): p for module in modules for p in module.parameters()}  # some share a base
    parameters = list(found.values())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    device, weights = parameters[0].device, parameters[0].dtype
    autocast = pick_dtype(device, stage.settings.dtype)
    computes = autocast if autocast != torch.float32 else weights
    return {
        "device": str(device),
        "weights": str(weights).removeprefix("torch."),
        "computes in": str(computes).removeprefix("torch."),
        **stage.layout(),
        "parameters": sum(map(torch.numel, parameters)),
        "trained": sum(map(torch.numel, trained)),
        "items": stage.items,
        "tokens": stage.tokens,
    }


def first_line(stage: Stage, found: dict[str, str | int | None]) -> str:
    """`about` in one line for a person."""
    settings, tokens = stage.settings, found["tokens"]
    words = [
        f"{type(stage).__name__} on {found['device']}: {found['weights']} weights",
        f"computed in {found['computes in']}",
        *(f"{name} {found[name]}" for name in ("attention", "layout") if name in found),
        f"{found['trained']:,} of {found['parameters']:,} parameters trained",
        f"{found['items']:,} items" + (f" of {tokens:,} tokens" if tokens else ""),
        f"{settings.steps:,} steps of {settings.batch_size}",
    ]
    return ", ".join(words)
