"""The bug zoo on fresh seeds: `python scripts/bug_zoo.py [SEED ...]`.

Trains every bug of `dpo_lib.language_model.zoo.bugs` and 20 healthy runs of different beta, size
and loss for each seed, asks the doctor, and prints whom it names first. The result is written to
dpo_lib/results/bug_zoo.json, which chapter 19 reads. The rules were written on seeds 0 and 1;
the seeds here were first used when the rules were finished.
"""

import json
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from dpo_lib.language_model.judging.doctor import diagnose
from dpo_lib.language_model.zoo.bugs import HEALTHY, INVISIBLE, VISIBLE, Healthy
from dpo_lib.language_model.zoo.start import make_start, record

OUT = Path(__file__).parents[1] / "dpo_lib/results/bug_zoo.json"
SEEDS = (101, 102)
LARGER = dict(n_layer=2, n_embd=48)  # every fourth healthy run


def verdict(stage: Healthy) -> dict:
    """The first suspect, or "nothing found", and the notes."""
    findings = diagnose(record(stage))
    suspects = [finding.rule for finding in findings if not finding.note]
    notes = [finding.rule for finding in findings if finding.note]
    return {"first": (suspects or ["nothing found"])[0], "others": suspects[1:], "notes": notes}


def examine(seed: int) -> dict:
    """The doctor's verdicts on every bug and on the healthy runs of one seed."""
    torch.set_num_threads(1)
    start, larger = make_start(seed), make_start(seed, **LARGER)
    bugs = {bug.__name__: verdict(bug.of(start, seed=seed)) for bug in (*VISIBLE, *INVISIBLE)}
    healthy = [
        {"settings": settings, "larger": number % 4 == 3}
        | verdict(Healthy.of(larger if number % 4 == 3 else start, seed=seed, **settings))
        for number, settings in enumerate(HEALTHY)
    ]
    return {"bugs": bugs, "healthy": healthy}


def main(seeds: list[int]) -> None:
    with ProcessPoolExecutor(len(seeds), get_context("spawn")) as pool:
        found = dict(zip(map(str, seeds), pool.map(examine, seeds), strict=True))
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    result = {"command": "python scripts/bug_zoo.py", "versions": versions, "seeds": found}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    expected = {bug.__name__: rule for bug, rule in VISIBLE.items()}
    expected |= {bug.__name__: "nothing found" for bug in INVISIBLE}
    for name, rule in expected.items():
        firsts = [found[seed]["bugs"][name]["first"] for seed in found]
        others = ", ".join(sorted({first for first in firsts if first != rule}))
        print(f"{name:20s} {firsts.count(rule)}/{len(firsts)} {rule:40s} {others}")
    runs = [run for seed in found.values() for run in seed["healthy"]]
    print(f"healthy: {sum(r['first'] == 'nothing found' for r in runs)} of {len(runs)} clear")
    for run in runs:
        if run["first"] != "nothing found":
            print(run)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(SEEDS))
