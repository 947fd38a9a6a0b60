"""The log of a run and the weights that it ends with, TRL's and ours, step by step.

Both start from one folder in float32, take the same batches in the same order with AdamW at a
constant rate, and log every step. A column is compared if both have it under one name, in a run
of each of `RUNS`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback
from trl import DPOConfig, DPOTrainer

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.settings import DPOSettings
from dpo_lib.language_model.stages.dpo import DPO
from dpo_lib.language_model.training.loop import train
from oracle.folders import pairs_as_text
from oracle.losses import PLAIN
from oracle.rows import DIFFERENT, Row, judged, relative

RUNS = (("gpt2", 1), ("llama", 2))  # shape of the model, micro-batches of a step
ITEMS, BATCH, STEPS, SEED = 40, 4, 10, 0  # one epoch
HELD_OUT, EVAL_BATCH = 10, 4  # the last batch is short
LR, BETA, NORM = 1e-3, 0.3, 1.0  # a norm that clips
TOLERANCE = 1e-4  # relative to the column's largest: ten steps of AdamW in float32
WEIGHTS = 1e-2  # of the distance moved
EXACT = ("num_tokens", "learning_rate", "epoch")  # no rounding of a model in them


@dataclass(frozen=True)
class Run:
    """What a run leaves: a line of its log for each step, and its weights."""

    log: list[dict[str, float]]
    held_out: dict[str, float]
    weights: dict[str, torch.Tensor]


def compare(folder: Path, tokenizer) -> tuple[list[Row], dict[str, list[str]]]:
    """A row for each shared column and for the weights, and the columns that TRL alone has."""
    found: dict[str, list[Row]] = {}
    for shape, accumulate in RUNS:
        ours, *theirs = _runs(folder, tokenizer, shape, accumulate)
        shared = [name for name in ours.log[0] if name in theirs[0].log[0] and name != "step"]
        rows = [_column(name, ours.log, theirs[0].log) for name in shared]
        start = _weights(folder / f"{shape}-policy")
        for row in (*rows, *_held_out(ours, *theirs), _moved(start, ours, theirs[0])):
            found.setdefault(row.name, []).append(row)
    alone = {
        "TRL": sorted(theirs[0].log[0].keys() - ours.log[0].keys()),
        "us": sorted(ours.log[0].keys() - theirs[0].log[0].keys()),
    }
    return [_worst(rows) for rows in found.values()], alone


def _worst(rows: list[Row]) -> Row:
    """The row of the run in which a column differs most."""
    return max(rows, key=lambda row: (row.verdict == DIFFERENT, row.difference))


def _runs(folder: Path, tokenizer, shape: str, accumulate: int) -> tuple[Run, Run, Run]:
    """Ours, TRL's with a short last batch of held-out pairs, and TRL's with one batch of them."""
    rows = pairs_as_text(ITEMS + HELD_OUT, seed=7)
    rows, held_out = rows[:ITEMS], rows[ITEMS:]
    return (
        _ours(folder, shape, accumulate, rows, held_out),
        *(
            _theirs(folder, tokenizer, shape, accumulate, rows, held_out, size)
            for size in (EVAL_BATCH, HELD_OUT)
        ),
    )


def _ours(folder: Path, shape: str, accumulate: int, rows: list, held_out: list) -> Run:
    for name, some in (("rows", rows), ("held", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    settings = DPOSettings(
        model=str(folder / f"{shape}-policy"), data=str(folder / "rows.jsonl"),
        eval_data=str(folder / "held.jsonl"), eval_every=STEPS, out=str(folder / f"run-{shape}"),
        steps=STEPS, batch_size=BATCH, accumulate=accumulate, optimizer="adamw", lr=LR, beta=BETA,
        warmup_steps=0, max_grad_norm=NORM, seed=SEED, dtype="float32",
    )  # fmt: skip
    path = train(DPO.from_settings(settings)[0])
    log = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return Run(*_steps_and_measured(log), _weights(path / "model"))


def _theirs(
    folder: Path, tokenizer, shape: str, accumulate: int, rows: list, held_out: list, size: int
) -> Run:
    order = [i for step in range(1, STEPS + 1) for i in batch_indices(SEED, step, BATCH, ITEMS)]
    settings = DPOConfig(
        output_dir=str(folder / "trl"), max_steps=STEPS, eval_strategy="steps", eval_steps=STEPS,
        per_device_train_batch_size=BATCH // accumulate, gradient_accumulation_steps=accumulate,
        per_device_eval_batch_size=size, logging_steps=1, learning_rate=LR, beta=BETA,
        max_grad_norm=NORM, optim="adamw_torch", weight_decay=0.0,
        lr_scheduler_type="constant", train_sampling_strategy="sequential", **PLAIN,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=str(folder / f"{shape}-policy"), args=settings, processing_class=tokenizer,
        train_dataset=Dataset.from_list([rows[i] for i in order]),
        eval_dataset=Dataset.from_list(held_out),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return Run(*_steps_and_measured(trainer.state.log_history), trainer.model.state_dict())


def _steps_and_measured(log: list[dict]) -> tuple[list[dict], dict]:
    """The lines of the steps, and the last one of the held-out pairs."""
    held_out = [line for line in log if "eval_loss" in line]
    return [line for line in log if "loss" in line], held_out[-1]


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()


def _column(name: str, ours: list[dict], theirs: list[dict]) -> Row:
    """A column at the last step; the difference is the largest of all steps."""
    a, b = ([line[name] for line in log] for log in (ours, theirs))
    size = max(map(abs, (*a, *b))) or 1
    apart = max(abs(x - y) for x, y in zip(a, b, strict=True)) / size
    tolerance = 1e-12 if name in EXACT else TOLERANCE
    why, holds = REASONS.get(name, ("", lambda *_: True))
    return Row(name, a[-1], b[-1], apart, judged(apart, tolerance, why, holds(a, b)))


def _ties_are_half(ours: list[float], theirs: list[float]) -> bool:
    later = max(abs(a - b) for a, b in zip(ours[1:], theirs[1:], strict=True))
    return ours[0] == 0.5 and theirs[0] == 0.0 and later == 0


REASONS: dict[str, tuple[str, Callable]] = {
    "rewards/accuracies": ("A tie, as at the first step, is half right here and wrong in TRL; "
                           "equal at the nine steps after it", _ties_are_half),
}  # fmt: skip


def _held_out(ours: Run, short: Run, whole: Run) -> list[Row]:
    """The loss of held-out pairs, and the mean of them that differs most.

    Args:
        short, whole: TRL's, with a short last batch and with a single one.
    """
    why = "TRL's are means of the batches' means, a short last batch among them; equal in one batch"
    found = []
    for name in (n for n in ours.held_out if n in short.held_out and n.startswith("eval_")):
        a, b, c = (run.held_out[name] for run in (ours, short, whole))
        verdict = judged(relative(a, b), TOLERANCE, why, relative(a, c) <= TOLERANCE)
        found.append(Row(name, a, b, relative(a, b), verdict))
    loss, *means = found
    return [loss, replace(_worst(means), name="eval_rewards/*, eval_logps/*")]


def _moved(start: dict, ours: Run, theirs: Run) -> Row:
    """How far the weights have moved, as a norm, and the norm of what both differ in over it."""
    names = [name for name, tensor in start.items() if tensor.is_floating_point()]

    def norm(a: dict, b: dict) -> float:
        return torch.cat([(a[name] - b[name]).flatten() for name in names]).norm().item()

    moved, apart = norm(ours.weights, start), norm(ours.weights, theirs.weights)
    verdict = judged(apart / moved, WEIGHTS)
    name = f"weights after {STEPS} steps, distance moved"
    return Row(name, moved, norm(theirs.weights, start), apart / moved, verdict)
