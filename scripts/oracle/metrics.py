"""The log of a run and the weights that it ends with, TRL's and ours, step by step.

Both start from one folder in float32, take the same batches in the same order with AdamW at a
constant rate, and log every step. A column is compared if both have it under one name, in each
run of `METHODS`. KTO's mismatched answers are drawn in different ways, so ours is given TRL's.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.settings import DPOSettings, KTOSettings
from dpo_lib.language_model.stages import kto
from dpo_lib.language_model.stages.dpo import DPO
from dpo_lib.language_model.training.loop import train
from oracle.folders import pairs_as_text
from oracle.losses import PLAIN
from oracle.rows import DIFFERENT, EQUAL, Row, judged, relative

ITEMS, BATCH, STEPS, SEED = 40, 4, 10, 0  # one epoch
HELD_OUT, EVAL_BATCH = 10, 4  # the last batch is short
LR, BETA, NORM = 1e-3, 0.3, 1.0  # a norm that clips
TOLERANCE = 1e-4  # relative to the column's largest: ten steps of AdamW in float32
# Of the distance moved: a GPT-2's key biases have no gradient but rounding, which AdamW follows.
WEIGHTS = 5e-3
EXACT = ("num_tokens", "learning_rate", "epoch")  # no rounding of a model in them


@dataclass(frozen=True)
class Run:
    """What a run leaves: a line of its log for each step, and its weights."""

    log: list[dict[str, float]]
    held_out: dict[str, float]
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Method:
    """A stage of ours and its trainer in TRL.

    runs: shape of the model and micro-batches of a step. (KTO's z_0 is in TRL one of a
        micro-batch, and here one of the batch.)
    rows: text of some pairs as the rows that are trained on.
    held_out: why means over held-out rows differ; in one batch they must not.
    """

    stage: type
    settings: type
    trainer: type
    config: type
    runs: tuple[tuple[str, int], ...]
    rows: Callable[[list[dict]], list[dict]]
    held_out: str


def labelled(pairs: list[dict]) -> list[dict]:
    """An answer of each pair with its label, the chosen and the rejected one in turn."""
    sides = ("chosen", "rejected") * len(pairs)
    return [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair, side in zip(pairs, sides, strict=False)
    ]


METHODS = [
    Method(DPO, DPOSettings, DPOTrainer, DPOConfig, (("gpt2", 1), ("llama", 2)), list,
           "TRL's are means of the batches' means, a short last batch among them; equal in one "
           "batch"),
    Method(kto.KTO, KTOSettings, KTOTrainer, KTOConfig, (("gpt2", 1), ("llama", 1)), labelled,
           "TRL's are means of the batches' means, and each batch has a z_0 of its own; equal in "
           "one batch"),
]  # fmt: skip


def compare(folder: Path, tokenizer) -> tuple[list[Row], dict[str, list[str]]]:
    """A row for each shared column of DPO and for the weights, and the columns TRL alone has.

    Of another method there is a row for all columns of steps, the one that differs most, one for
    held-out rows, and one for the weights.
    """
    found, *others = (_columns(method, folder, tokenizer) for method in METHODS)
    rows, alone = found
    for columns, _ in others:
        *steps, held_out, weights = columns
        worst = _worst(steps)
        names = f"kto, {len(steps)} columns (here {worst.name})"
        rows.append(replace(worst, name=names))
        rows += [replace(row, name=f"kto, {row.name}") for row in (held_out, weights)]
    return rows, alone


def _columns(method: Method, folder: Path, tokenizer) -> tuple[list[Row], dict[str, list[str]]]:
    found: dict[str, list[Row]] = {}
    for shape, accumulate in method.runs:
        ours, *theirs = _runs(method, folder, tokenizer, shape, accumulate)
        shared = [name for name in _names(ours) if name in _names(theirs[0]) and name != "step"]
        rows = [_column(name, ours.log, theirs[0].log) for name in shared]
        start = _weights(folder / f"{shape}-policy")
        held_out = _held_out(ours, *theirs, method.held_out)
        for row in (*rows, *held_out, _moved(start, ours, theirs[0])):
            found.setdefault(row.name, []).append(row)
    alone = {
        "TRL": sorted(_names(theirs[0]).keys() - _names(ours)),
        "us": sorted(_names(ours).keys() - _names(theirs[0])),
    }
    return [_worst(rows) for rows in found.values()], alone


def _names(run: Run) -> dict[str, None]:
    """Every column that a run logs, in order."""
    return {name: None for line in run.log for name in line}


def _worst(rows: list[Row]) -> Row:
    """The row that differs most; one without an explanation before all others."""
    return max(rows, key=lambda row: (row.verdict == DIFFERENT, row.difference))


def _runs(
    method: Method, folder: Path, tokenizer, shape: str, accumulate: int
) -> tuple[Run, Run, Run]:
    """Ours, TRL's with a short last batch of held-out rows, and TRL's with one batch of them."""
    rows = method.rows(pairs_as_text(ITEMS + HELD_OUT, seed=7))
    rows, held_out = rows[:ITEMS], rows[ITEMS:]
    order = [i for step in range(1, STEPS + 1) for i in batch_indices(SEED, step, BATCH, ITEMS)]
    trainers = [
        _trainer(
            method, folder, tokenizer, shape, accumulate, [rows[i] for i in order], held_out, n
        )
        for n in (EVAL_BATCH, HELD_OUT)
    ]
    stage = _stage(method, folder, shape, accumulate, rows, held_out)
    if method.trainer is KTOTrainer:
        stage.data.others = _mismatched(trainers[0].train_dataset, order)
        stage.held_out.others = _mismatched(trainers[0].eval_dataset, range(HELD_OUT))
    path = train(stage)
    log = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return (
        Run(*_steps_and_measured(log), _weights(path / "model")),
        *(
            Run(*_steps_and_measured(trainer.state.log_history), trainer.model.state_dict())
            for trainer in trainers
        ),
    )


def _stage(method: Method, folder: Path, shape: str, accumulate: int, rows: list, held_out: list):
    for name, some in (("rows", rows), ("held", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    out = folder / f"{method.stage.__name__}-{shape}"
    settings = method.settings(
        model=str(folder / f"{shape}-policy"), data=str(folder / "rows.jsonl"),
        eval_data=str(folder / "held.jsonl"), eval_every=STEPS, out=str(out),
        steps=STEPS, batch_size=BATCH, accumulate=accumulate, optimizer="adamw", lr=LR, beta=BETA,
        warmup_steps=0, max_grad_norm=NORM, seed=SEED, dtype="float32",
    )  # fmt: skip
    return method.stage.from_settings(settings)[0]


def _trainer(
    method: Method, folder: Path, tokenizer, shape: str, accumulate: int, rows: list,
    held_out: list, size: int,
):  # fmt: skip
    """TRL's trainer, when it has trained.

    Args:
        size: held-out rows in a batch.
    """
    settings = method.config(
        output_dir=str(folder / "trl"), max_steps=STEPS, eval_strategy="steps", eval_steps=STEPS,
        per_device_train_batch_size=BATCH // accumulate, gradient_accumulation_steps=accumulate,
        per_device_eval_batch_size=size, logging_steps=1, learning_rate=LR, beta=BETA,
        max_grad_norm=NORM, optim="adamw_torch", weight_decay=0.0,
        lr_scheduler_type="constant", train_sampling_strategy="sequential", **PLAIN,
    )  # fmt: skip
    trainer = method.trainer(
        model=str(folder / f"{shape}-policy"), args=settings, processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(held_out),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def _mismatched(made: Dataset, order: Iterable[int]) -> list[tuple[tuple, tuple]]:
    """Of each item, by its number, the prompt and the other answer that TRL put beside it."""
    found = {
        item: (tuple(row["prompt_ids"]), tuple(row["KL_completion_ids"]))
        for item, row in zip(order, made, strict=True)
    }
    return [found[item] for item in range(len(found))]


def _steps_and_measured(log: list[dict]) -> tuple[list[dict], dict]:
    """The lines of the steps, and the last one of the held-out pairs."""
    held_out = [line for line in log if "eval_loss" in line]
    return [line for line in log if "loss" in line], held_out[-1]


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()


def _column(name: str, ours: list[dict], theirs: list[dict]) -> Row:
    """A column at the last step; the difference is the largest of all steps."""
    met = [n for n, line in enumerate(ours) if name in line]
    if met != [n for n, line in enumerate(theirs) if name in line]:
        return Row(name, f"{len(met)} steps", "others", 1.0, DIFFERENT)
    a, b = ([log[n][name] for n in met] for log in (ours, theirs))
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


def _held_out(ours: Run, short: Run, whole: Run, why: str) -> list[Row]:
    """The loss of held-out rows, if it is equal, and of their figures the one that differs most.

    Args:
        short, whole: TRL's, with a short last batch and with a single one.
    """
    found = []
    for name in (n for n in ours.held_out if n in short.held_out and n.startswith("eval_")):
        a, b, c = (run.held_out[name] for run in (ours, short, whole))
        verdict = judged(relative(a, b), TOLERANCE, why, relative(a, c) <= TOLERANCE)
        found.append(Row(name, a, b, relative(a, b), verdict))
    equal = [row for row in found if row.verdict == EQUAL]
    others = [row for row in found if row.verdict != EQUAL]
    return [*equal, replace(_worst(others), name="the other eval_*" if equal else "eval_*")]


def _moved(start: dict, ours: Run, theirs: Run) -> Row:
    """How far the weights have moved, as a norm, and the norm of what both differ in over it."""
    names = [name for name, tensor in start.items() if tensor.is_floating_point()]

    def norm(a: dict, b: dict) -> float:
        return torch.cat([(a[name] - b[name]).flatten() for name in names]).norm().item()

    moved, apart = norm(ours.weights, start), norm(ours.weights, theirs.weights)
    verdict = judged(apart / moved, WEIGHTS)
    name = f"weights after {STEPS} steps, distance moved"
    return Row(name, moved, norm(theirs.weights, start), apart / moved, verdict)
