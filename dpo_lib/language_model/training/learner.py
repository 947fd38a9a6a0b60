"""One optimiser step of any stage, and all that the next one depends on.

Nothing depends on a hidden state: the order of the data is a function of (seed, epoch), the
learning rate of the step, and the rest is in a checkpoint.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.settings import Settings, TrainingError
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.measuring import Measuring
from dpo_lib.language_model.training.parallel import sharding
from dpo_lib.language_model.training.parallel.processes import micro_batches, processes
from dpo_lib.language_model.training.run_folder import RunFolder
from dpo_lib.language_model.training.stage import Stage

OPTIMIZERS: dict[str, Callable] = {
    "rmsprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr, weight_decay=0.0),
}


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then constant, as in the paper's code."""
    return settings.lr * min(1.0, step / (settings.warmup_steps + 1))


class Learner:
    """A stage, its optimiser and its step: all that a checkpoint holds."""

    def __init__(self, stage: Stage):
        self.stage, self.group = stage, processes()
        self.step = 0  # optimiser steps taken
        self.num_tokens = 0
        self.measuring = Measuring(stage.settings)

    def start(self, saved: checkpoint.Checkpoint | None) -> None:
        """Take a checkpoint's place; None is the beginning. Weights are whole until then."""
        if saved is not None:
            self.take_weights(saved)
        if self.group.sharded:
            for module in self.stage.modules.values():
                sharding.shard(module, self.group.count)
        self._make_optimizer()
        if saved is not None:
            self._restore_optimizer(saved.tensors)
            self.stage.load_state(saved.extras["stage"])
            self.step, self.num_tokens = saved.step, saved.extras["num_tokens"]
            self.measuring.load_state(saved.extras["measuring"])

    def take_weights(self, saved: checkpoint.Checkpoint) -> None:
        """Take a checkpoint's weights and nothing else, where they are whole."""
        weights = {n: t for n, t in saved.tensors.items() if not n.startswith("optimizer/")}
        checkpoint.copy_into(self._weights(), weights)

    @property
    def finished(self) -> bool:
        """Whether the last step is taken, or held-out figures have been no better for too long."""
        return self.step >= self.stage.settings.steps or self.measuring.exhausted

    def update(self, step: int | None = None) -> dict:
        """One optimiser step, the next one if none is named; returns its line of the log."""
        stage, settings = self.stage, self.stage.settings
        step = self.step + 1 if step is None else step
        stage.start(step)
        batch = batch_indices(settings.seed, step, settings.batch_size, stage.items)
        weight = stage.weight(batch)
        share = 1 / weight if weight else 0.0
        self.optimizer.zero_grad(set_to_none=True)
        pieces = micro_batches(batch, settings.accumulate, self.group)
        parts = [stage.backward(piece, share) for piece in pieces]
        for _ in range(settings.accumulate - len(pieces) if self.group.sharded else 0):
            stage.backward(batch[:1], 0.0)  # the others wait for this process's pass
        self.group.sum_gradients(self.parameters.values())
        norm = sharding.clip_gradients(self.parameters.values(), settings.max_grad_norm)
        *parts, last = _numbers([*parts, {"grad_norm": norm}])  # the step's one wait for the device
        sums, bad = self._gather(pieces, parts)
        self.check(step, bad if bad or math.isfinite(last["grad_norm"]) else batch, **last)
        rate = self.rate(step)
        for part in self.optimizer.param_groups:
            part["lr"] = rate
        if weight:  # else momentum would move the weights
            self.optimizer.step()
        self.step = step
        self.num_tokens += int(sums.pop("num_tokens", 0))
        means = {name: total * share for name, total in sums.items()} | stage.figures(batch)
        epoch = step / math.ceil(stage.items / settings.batch_size)
        totals = {"num_tokens": self.num_tokens} if self.num_tokens else {}
        return {"step": step, "epoch": epoch, **means, **last, "learning_rate": rate, **totals}

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self.stage.settings, step)

    def check(self, step: int, bad: list[int], grad_norm: float) -> None:
        """Stop before the weights are spoilt, if there are items with a non-finite number."""
        if bad:
            raise TrainingError(
                f"step {step}: the loss or its gradient is not finite (grad_norm "
                f"{grad_norm}), items {bad}; the checkpoints are intact"
            )

    def _gather(self, pieces: list[list[int]], parts: list[dict]) -> tuple[dict, list[int]]:
        """Sums over all micro-batches, and the items of those with a non-finite number."""
        sums: dict[str, float] = {}
        bad: list[int] = []
        own = list(zip(pieces, parts, strict=True))
        for piece, part in itertools.chain.from_iterable(self.group.gather(own)):
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + value
            if not all(map(math.isfinite, part.values())):
                bad += piece
        return sums, bad

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and optimiser state, by name, whole."""
        named = self._weights()
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                named[f"optimizer/{name}/{key}"] = value
        return {name: sharding.whole(tensor) for name, tensor in named.items()}

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{prefix}/{name}": tensor
            for prefix, module in self.stage.modules.items()
            for name, tensor in checkpoint.module_tensors(module).items()
        }

    def checkpoint_bytes(self) -> int:
        """The size of a checkpoint once the optimiser has its state."""
        weights = sum(tensor.nbytes for tensor in self.tensors().values())
        state = sum(parameter.nbytes for parameter in self.parameters.values())
        return weights + state * (2 if self.stage.settings.optimizer == "adamw" else 1)

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint of all this into the run's folder; that of the best step stays."""
        extras = {
            "stage": self.stage.state(),
            "num_tokens": self.num_tokens,
            "measuring": self.measuring.state(),
        }
        run.save(self.step, self.tensors(), extras, self.measuring.best_step)
        self.group.wait()

    def _make_optimizer(self) -> None:
        found = {
            f"{prefix}/{name}": parameter
            for prefix, module in self.stage.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        # One kernel steps many parameters together, but not whole and sharded ones.
        self.parameters = dict(sorted(found.items(), key=lambda kv: sharding.is_sharded(kv[1])))
        kinds = itertools.groupby(self.parameters.values(), sharding.is_sharded)
        groups = [{"params": list(kind)} for _, kind in kinds]
        settings = self.stage.settings
        self.optimizer = OPTIMIZERS[settings.optimizer](groups, settings.lr)

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        slots: dict[int, dict[str, Tensor]] = {}
        for position, (name, parameter) in enumerate(self.parameters.items()):
            prefix = f"optimizer/{name}/"
            found = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
            if found:
                slots[position] = {key: sharding.like(parameter, t) for key, t in found.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _numbers(parts: list[dict[str, float | Tensor]]) -> list[dict[str, float]]:
    """All tensors to numbers in one transfer."""
    tensors = [v.detach() for part in parts for v in part.values() if isinstance(v, Tensor)]
    together = [tensor.to(tensors[-1].device).reshape(()) for tensor in tensors]
    moved = iter(torch.stack(together).tolist() if together else [])
    return [
        {key: next(moved) if isinstance(v, Tensor) else float(v) for key, v in part.items()}
        for part in parts
    ]
