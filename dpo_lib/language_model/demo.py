"""The README's sequence in one go: a world, SFT, DPO, an evaluation and a report."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TRAINING = ["--optimizer", "adamw", "--warmup-steps", "10", "--log-every", "25"]
WATCHED = ["--samples", "32", "--reward", "true"]  # what the policy writes at each measurement


def demo(folder: Path, seed: int, run: Callable[[list[str]], int]) -> int:
    """Run the commands one after the other, each printed as it would be typed.

    Args:
        folder: made here.
        seed: of all draws.
        run: the command line, from arguments to an exit code.

    Returns:
        0, or the exit code of the command that failed.

    Raises:
        ValueError: in one line, if there is something in the folder already.
    """
    _require_empty(folder)
    for arguments in commands(folder, seed):
        print("$", shlex.join(["dpo", *arguments]), flush=True)
        if code := _as_typed(run, arguments):
            return code
    print(*conclusion(folder), sep="\n")
    return 0


def commands(folder: Path, seed: int) -> Iterator[list[str]]:
    """Arguments of each command of `dpo`, in order."""
    world, sft, dpo, judged, page = (
        str(folder / name) for name in ("world", "sft", "dpo", "evaluation.json", "report.html")
    )
    draws = ["--seed", str(seed)]
    training = ["--data", world, "--eval-data", world, *TRAINING, *WATCHED, *draws]
    yield ["world", "--out", world, "--pairs", "4000", "--labels", "deterministic", *draws]
    steps = ["--steps", "250", "--lr", "1e-3", "--eval-every", "50"]
    yield ["sft", "--model", "tiny", "--out", sft, *steps, *training]
    steps = ["--beta", "0.3", "--steps", "62", "--lr", "1e-4", "--eval-every", "12"]
    yield ["dpo", "--model", f"{sft}/model", "--out", dpo, *steps, *training]
    models = ["--model", f"{dpo}/model", "--reference", f"{sft}/model", "--data", world]
    yield ["evaluate", *models, "--prompts", "100", *draws, "--out", judged]
    yield ["report", sft, dpo, "--evaluation", judged, "--out", page]


def conclusion(folder: Path) -> list[str]:
    """True reward and KL of both models with 95% intervals, and where the report is."""
    from dpo_lib.language_model.judging.report import show

    found = json.loads((folder / "evaluation.json").read_text())
    [policy] = found["policies"]
    return [
        f"SFT: true reward {show(found['reference']['reward'])}",
        f"DPO: true reward {show(policy['reward'])} at a KL of {show(policy['kl'])} nats from SFT",
        f"open {folder / 'report.html'}",
    ]


def _require_empty(folder: Path) -> None:
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "report.html" in present:
        raise ValueError(
            f"{folder} has a demonstration already: open {folder / 'report.html'}, or choose"
            " another --out"
        )
    if "world" in present:
        raise ValueError(
            f"{folder} has a demonstration that was not finished: remove the folder, or choose"
            " another --out"
        )
    if present or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} exists already: choose another --out")


def _as_typed(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run with the arguments where a run looks for its command, to keep it."""
    before = sys.argv
    sys.argv = ["dpo", *arguments]
    try:
        return run(arguments)
    finally:
        sys.argv = before
