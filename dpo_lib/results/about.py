"""What a result says of itself: all that it takes to repeat it."""

import json
import math
import platform
import shlex
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

from dpo_lib.results.plan import Plan


def about(plan: Plan, out: Path) -> dict:
    """All that it takes to repeat the run, and on what it ran."""
    from dpo_lib.language_model.training.run_folder import machine

    config = json.loads((out / "seed-0/SFT/model/config.json").read_text())
    shape = {key: config.get(key) for key in ("n_layer", "n_embd", "n_head", "vocab_size")}
    return {
        "command": "python -m dpo_lib.results.frontier " + " ".join(flags(plan)),
        "plan": {key: value for key, value in asdict(plan).items() if key != "out"},
        "shape": shape,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "machine": machine() | {"cpu": cpu()},
        "peak_flops": peak(),
    }


def flags(plan: Plan) -> list[str]:
    """The settings that are not the defaults, as they are typed."""
    usual = asdict(Plan(out=""))
    given = {key: value for key, value in asdict(plan).items() if value != usual[key]}
    given["out"] = "OUT"
    return [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in given.items()]


def peak(size: int = 1024, times: int = 10) -> float:
    """Operations a second of a product of two large matrices, float32: the best of some."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, best = torch.ones(size, size, device=device), math.inf
    for _ in range(times):
        started = time.perf_counter()
        (a @ a).sum().item()  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def commit() -> str | None:
    """The commit of the repository that this file lies in, if any."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")
