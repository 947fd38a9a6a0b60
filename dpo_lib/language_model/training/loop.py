"""The one training loop of all stages: order, accumulation, clipping, schedule, log, resume.

A stage (`sft`, `reward_model`, `dpo`, `ppo`) knows its loss; the loop knows everything else. It
keeps one promise: a run that was killed at any moment and started again with `resume` ends with
the same bytes, weights, optimiser and log, as a run that was left alone (on one CPU machine,
with one torch version and one number of threads). So nothing in it depends on a hidden state:
the order of the data is a function of (seed, epoch), the learning rate of the step.
"""

import itertools
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dpo_lib.language_model.settings import Settings, TrainingError
from dpo_lib.language_model.training import checkpoint, sharding
from dpo_lib.language_model.training.order import batch_indices, micro_batches
from dpo_lib.language_model.training.processes import Processes, processes
from dpo_lib.language_model.training.progress import Progress
from dpo_lib.language_model.training.run_folder import RunFolder
from dpo_lib.language_model.training.stage import Stage

OPTIMIZERS: dict[str, Callable] = {
    "rmsprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr, weight_decay=0.0),
}


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then constant, as in the paper's code."""
    return settings.lr * min(1.0, step / (settings.warmup_steps + 1))


def train(stage: Stage) -> Path:
    """Train to the last step, from the first or from where a killed run stopped.

    Returns:
        the run's folder, settings.out; the trained model is its `model`.

    Raises:
        ValueError: a TrainingError, RunError or CheckpointError, in one line; checkpoints intact.
        SystemExit: after SIGTERM or SIGINT, with a checkpoint of the step that was under way.
    """
    settings, group = stage.settings, processes()
    if settings.batch_size > stage.items:
        raise TrainingError(
            f"batch_size {settings.batch_size} is more than the {stage.items} items"
        )
    if group.sharded and not stage.may_shard:
        raise TrainingError(f"{type(stage).__name__} cannot be sharded: leave --use_fsdp out")
    hashes = {f"{name} (hash)": value for name, value in stage.fingerprint.items()}
    facts = {"stage": type(stage).__name__, **hashes}
    group.require_same(facts)
    with RunFolder(settings.out, settings, facts, settings.resume, main=group.main) as run:
        group.wait()
        learner = _Learner(stage, group)
        learner.start(run.load())
        done = (learner.step, learner.num_tokens)
        with Progress(settings, *done, run.notes, show=group.main) as bar:
            if learner.step == 0:
                run.require_space(learner.checkpoint_bytes() * 3)  # two are kept, one is written
                learner.save(run)
            _loop(learner, run, bar)
        if group.sharded:
            for module in stage.modules.values():
                sharding.gather(module)
        run.finish(stage.save)
        group.wait()
    return run.path


def _loop(learner: "_Learner", run: RunFolder, bar: Progress) -> None:
    settings = learner.stage.settings
    with _Signals() as signals:
        while learner.step < settings.steps:
            record = learner.update()
            run.log(record, bar.advance(record))
            stopped = learner.group.any(signals.received)
            if stopped or learner.step % settings.save_every == 0 or learner.step == settings.steps:
                learner.save(run)
            if stopped:
                bar.note(f"stopped at step {learner.step}, saved; go on with --resume")
                raise SystemExit(128 + stopped)


class _Learner:
    """A stage, its optimiser and its step: all that a checkpoint holds."""

    def __init__(self, stage: Stage, group: Processes):
        self.stage, self.group = stage, group
        self.step = 0  # optimiser steps taken
        self.num_tokens = 0

    def start(self, saved: checkpoint.Checkpoint | None) -> None:
        """Take a checkpoint's place; None is the beginning. Weights are whole until then."""
        if saved is not None:
            weights = {n: t for n, t in saved.tensors.items() if not n.startswith("optimizer/")}
            checkpoint.copy_into(self._weights(), weights)
        if self.group.sharded:
            for module in self.stage.modules.values():
                sharding.shard(module, self.group.count)
        self._make_optimizer()
        if saved is not None:
            self._restore_optimizer(saved.tensors)
            self.stage.load_state(saved.extras["stage"])
            self.step, self.num_tokens = saved.step, saved.extras["num_tokens"]

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

    def update(self) -> dict:
        """One optimiser step; returns its line of the log."""
        stage, settings, step = self.stage, self.stage.settings, self.step + 1
        stage.start(step)
        batch = batch_indices(settings.seed, step, settings.batch_size, stage.items)
        share = 1 / stage.weight(batch)
        self.optimizer.zero_grad(set_to_none=True)
        pieces = micro_batches(batch, settings, self.group)
        parts = [stage.backward(piece, share) for piece in pieces]
        for _ in range(settings.accumulate - len(pieces) if self.group.sharded else 0):
            stage.backward(batch[:1], 0.0)  # the others wait for this process's pass
        self.group.sum_gradients(self.parameters.values())
        norm = sharding.clip_gradients(self.parameters.values(), settings.max_grad_norm)
        *parts, last = _numbers([*parts, {"grad_norm": norm}])  # the step's one wait for the device
        sums, bad = self._gather(pieces, parts)
        if bad or not math.isfinite(last["grad_norm"]):
            raise TrainingError(
                f"step {step}: the loss or its gradient is not finite (grad_norm "
                f"{last['grad_norm']}), items {bad or batch}; the checkpoints are intact"
            )
        rate = learning_rate(settings, step)
        for part in self.optimizer.param_groups:
            part["lr"] = rate
        self.optimizer.step()
        self.step = step
        self.num_tokens += int(sums.pop("num_tokens", 0))
        means = {name: total * share for name, total in sums.items()}
        epoch = step / math.ceil(stage.items / settings.batch_size)
        totals = {"num_tokens": self.num_tokens} if self.num_tokens else {}
        return {"step": step, "epoch": epoch, **means, **last, "learning_rate": rate, **totals}

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
        extras = {"stage": self.stage.state(), "num_tokens": self.num_tokens}
        run.save(self.step, self.tensors(), extras)
        self.group.wait()


class _Signals:
    """SIGTERM and SIGINT are remembered until the step is done; a second one is not held back."""

    def __init__(self):
        self.received = 0
        self.before: dict = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _) -> None:
        self.received = number
        self.__exit__()
        os.write(2, b"\nstopping after this step; once more stops at once\n")  # print may not nest


def _numbers(parts: list[dict[str, float | Tensor]]) -> list[dict[str, float]]:
    """All tensors to numbers in one transfer."""
    tensors = [v.detach() for part in parts for v in part.values() if isinstance(v, Tensor)]
    together = [tensor.to(tensors[-1].device).reshape(()) for tensor in tensors]
    moved = iter(torch.stack(together).tolist() if together else [])
    return [
        {key: next(moved) if isinstance(v, Tensor) else float(v) for key, v in part.items()}
        for part in parts
    ]
