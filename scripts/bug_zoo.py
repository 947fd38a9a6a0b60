"""The bug zoo on fresh seeds: `python scripts/bug_zoo.py [SEED ...]`.

For each seed it trains every bug of `dpo_lib.language_model.zoo`, 20 healthy runs of different
beta, size and loss with pairs enough for one epoch, the same 20 with so few that pairs are met
three times, and short batches against a reference in bfloat16; it asks the doctor, and prints
whom it names first. The result is written to dpo_lib/results/bug_zoo.json, which chapter 19
reads. The rules were written on seeds 0 to 6, and mended on 103 to 106; 107 and 108 judged them
before the zoo had adapters; the seeds here were first used when the rules were as they are now.
"""

import json
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from dpo_lib.language_model.judging.doctor import diagnose
from dpo_lib.language_model.zoo import (
    HEALTHY,
    INVISIBLE,
    VISIBLE,
    Healthy,
    RoundedReference,
    make_start,
    record,
)

OUT = Path(__file__).parents[1] / "dpo_lib/results/bug_zoo.json"
SEEDS = (109, 110)
LARGER = dict(n_layer=2, n_embd=48)  # every fourth healthy run
ENOUGH = 1600  # pairs of a healthy run: 50 batches of 32
WATCHED = dict(eval_data="", eval_every=5)
ROUNDED: list[dict] = [
    dict(batch_size=2),
    dict(batch_size=2, beta=0.1, steps=300),
    dict(batch_size=2, beta=1.0, steps=300),
    dict(batch_size=32),
]


def verdict(stage: Healthy) -> dict:
    """The first suspect, or "nothing found", and the notes."""
    findings = diagnose(record(stage))
    suspects = [finding.rule for finding in findings if not finding.note]
    notes = [finding.rule for finding in findings if finding.note]
    return {"first": (suspects or ["nothing found"])[0], "others": suspects[1:], "notes": notes}


def healthy_runs(seed: int, pairs: int) -> list[dict]:
    """The verdicts on runs with nothing wrong, and with held-out pairs."""
    starts = [make_start(seed, pairs)] * 3 + [make_start(seed, pairs, **LARGER)]
    return [
        {"settings": settings, "larger": number % 4 == 3}
        | verdict(Healthy.of(starts[number % 4], seed=seed, **WATCHED, **settings))
        for number, settings in enumerate(HEALTHY)
    ]


def bugs(seed: int) -> dict[str, dict]:
    """The verdicts on every bug."""
    start = make_start(seed)
    return {bug.__name__: verdict(bug.of(start, seed=seed)) for bug in (*VISIBLE, *INVISIBLE)}


def rounded_runs(seed: int) -> list[dict]:
    """The verdicts on runs against a reference in bfloat16."""
    start = make_start(seed)
    return [
        {"settings": settings} | verdict(RoundedReference.of(start, seed=seed, **settings))
        for settings in ROUNDED
    ]


GROUPS: dict[str, Callable[[int], dict | list]] = {
    "bugs": bugs,
    "healthy": partial(healthy_runs, pairs=ENOUGH),
    "three epochs": partial(healthy_runs, pairs=640),
    "rounded": rounded_runs,
}


def examine(seed: int, group: str) -> dict | list:
    """The doctor's verdicts on the runs of one group."""
    torch.set_num_threads(1)
    return GROUPS[group](seed)


def main(seeds: list[int]) -> None:
    tasks = list(product(seeds, GROUPS))
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        verdicts = dict(zip(tasks, pool.map(examine, *zip(*tasks, strict=True)), strict=True))
    found = {str(seed): {group: verdicts[seed, group] for group in GROUPS} for seed in seeds}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    result = {"command": "python scripts/bug_zoo.py", "versions": versions, "seeds": found}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    expected = {bug.__name__: rule for bug, rule in VISIBLE.items()}
    expected |= {bug.__name__: "nothing found" for bug in INVISIBLE}
    for name, rule in expected.items():
        firsts = [found[seed]["bugs"][name]["first"] for seed in found]
        others = ", ".join(sorted({first for first in firsts if first != rule}))
        print(f"{name:20s} {firsts.count(rule)}/{len(firsts)} {rule:40s} {others}")
    seconds = [(name, bug["others"]) for s in found.values() for name, bug in s["bugs"].items()]
    print("second suspects:", [second for second in seconds if second[1]] or "none")
    for group in ("healthy", "three epochs", "rounded"):
        runs = [run for seed in found.values() for run in seed[group]]
        print(f"{group}: {sum(r['first'] == 'nothing found' for r in runs)} of {len(runs)} clear")
        for run in runs:
            if run["first"] != "nothing found":
                print(run)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(SEEDS))
