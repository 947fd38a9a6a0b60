"""Which loss keeps length, when the labels like it? `python scripts/length.py [--quick] [FOLDER]`.

On the built-in world labellers see the true reward and like length: each token of an answer is
worth 0.1 reward units to them, so that of two equally good answers the one with ten tokens more is
preferred in 73% of cases, equation (1). From one SFT model for each seed, on these labels:

    sum     equation (7)
    mean    `sigmoid_norm`, (7) per token
    R-DPO   (7) with the true price of a token in the margin (`rdpo`, told 0.1)
    SimPO   per token, without a reference
    clean   (the control) equation (7) on labels that see the true reward only

Tuning, on a seed of its own: each has two learning rates with three betas (per token twenty times
as large: an answer has about twenty tokens), is looked at after 40 and 80 steps, and keeps the
setting with the most *true* reward on held-out prompts among those whose KL is at most 10 nats
(if none is, the one with the least KL: so decided when SimPO's first settings were seen).
Nobody has the true reward in practice: this is each loss at its best. Trial, on three other seeds:
completions of 200 held-out prompts, true reward, tokens, and KL to the SFT model.

Gates, for every seed alone, paired over prompts, z > 4: the answers of sum are longer than those
of clean; those of R-DPO are shorter than those of sum. Exit code 1 if one fails. FOLDER keeps what
is done, and a run that is started again goes on there. The result is dpo_lib/results/length.json;
--quick takes seconds and writes nothing.
"""

import json
import math
import random
import sys
import time
from itertools import product
from pathlib import Path

import torch
from fair_trial import COMMON, QUICK, SURE, Size, Start, begun, keep, quietly, trained, watched

from dpo_lib.language_model.data import read_preferences, tokenize_preferences
from dpo_lib.language_model.generation.samples import Samples
from dpo_lib.language_model.judging import difference
from dpo_lib.language_model.settings import DPOSettings
from dpo_lib.language_model.stages import DPO
from dpo_lib.language_model.worlds import reviews

GAMMA = 0.1  # reward units a token
LOSSES = {
    "sum": dict(loss="sigmoid"),
    "mean": dict(loss="sigmoid_norm"),
    "R-DPO": dict(loss="rdpo", rdpo_alpha=GAMMA),
    "SimPO": dict(loss="simpo"),
    "clean": dict(loss="sigmoid"),
}
PER_TOKEN = ("mean", "SimPO")
FIGURES = ("reward", "length", "kl")
NEAR = 10.0  # nats


WHOLE = Size(lrs=(3e-4, 1e-3), looks=(40, 80))


def main() -> int:
    with begun(__doc__, WHOLE, QUICK) as (size, folder):
        grid = tune(Lengths(folder / f"seed-{size.tuned_on}", size.tuned_on, size))
        chosen = {method: best(grid, method) for method in LOSSES}
        print(json.dumps(chosen, indent=1), flush=True)
        seeds = [trial(Lengths(folder / f"seed-{s}", s, size), chosen) for s in size.seeds]
    failed = [line for line in gates(seeds) if line.endswith("FAILED")]
    if size == QUICK:
        return 0
    keep("length", {"gamma": GAMMA, "grid": grid, "chosen": chosen, "seeds": seeds})
    return int(bool(failed))


def tune(runs: "Lengths") -> list[dict]:
    """A row for each loss, learning rate, beta and number of steps."""
    grid = []
    for method, lr, of_sum in product(LOSSES, runs.size.lrs, runs.size.betas):
        beta = of_sum * (20 if method in PER_TOKEN else 1)
        rows = runs.once(f"tune-{method}-{lr:g}-{beta:g}", lambda: runs.look(method, lr, beta))  # noqa: B023
        grid += [dict(method=method, lr=lr, beta=beta) | row for row in rows]
        print(*(f"{method:7}{lr:8g}{beta:5g}{line(row)}" for row in rows), sep="\n", flush=True)
    return grid


def best(grid: list[dict], method: str) -> dict:
    """The setting with the most true reward near the reference; if none is near, the nearest."""
    rows = [row for row in grid if row["method"] == method]
    near = [row for row in rows if row["kl"] <= NEAR] or [min(rows, key=lambda row: row["kl"])]
    top = max(near, key=lambda row: row["reward"])
    return {name: top[name] for name in ("lr", "beta", "steps")}


def trial(runs: "Lengths", chosen: dict[str, dict]) -> dict:
    """Every loss on one seed, and the SFT model."""
    rows = []
    for method, setting in chosen.items():
        found = runs.once(method, lambda: runs.judged(method, **setting))  # noqa: B023
        rows.append({"method": method} | setting | found)
        means = {name: sum(found[name]) / len(found[name]) for name in FIGURES}
        print(f"seed {runs.seed} {method:7}{line(means | setting)}", flush=True)
    return {"seed": runs.seed, "sft": runs.once("sft-judged", runs.base), "rows": rows}


def line(row: dict) -> str:
    columns = {"steps": "4d", "reward": ".3f", "length": ".2f", "kl": ".2f"}
    return "".join(f"  {name} {row[name]:{form}}" for name, form in columns.items())


class Lengths(Start):
    """One seed's runs."""

    max_new_tokens = 80

    def stage(self, method: str, lr: float, beta: float, steps: int, watch=None):
        """A loss on its labels; `watch(policy, steps)` before each step but the first."""
        name = f"runs/{method}-{lr:g}-{beta:g}-{steps}-{time.monotonic_ns()}"
        data = self.labelled(0.0 if method == "clean" else GAMMA)
        settings = dict(model=self.sft, steps=steps, lr=lr, beta=beta, data=str(data))
        kind = watched(DPO, watch) if watch else DPO
        return kind.from_settings(self.settings(DPOSettings, name, **settings, **LOSSES[method]))[0]

    def labelled(self, gamma: float) -> Path:
        """The world's pairs, labelled anew; the same coin for every gamma."""
        path = self.folder / f"labelled-{gamma:g}.jsonl"
        if path.exists():
            return path
        rows, report = read_preferences(self.world / "preferences.jsonl", self.tokenizer)
        pairs = tokenize_preferences(rows, self.tokenizer, COMMON["max_length"], report)
        coin, lines = random.Random(self.seed), []
        for row, pair in zip(rows, pairs, strict=True):
            two = (row.chosen, row.rejected)
            gap = reviews.reward(row.prompt, two[0]) - reviews.reward(row.prompt, two[1])
            gap += gamma * (len(pair.chosen) - len(pair.rejected))
            better, worse = two if coin.random() < 1 / (1 + math.exp(-gap)) else two[::-1]
            lines.append({"prompt": row.prompt, "chosen": better, "rejected": worse})
        path.write_text("".join(json.dumps(each) + "\n" for each in lines))
        return path

    def look(self, method: str, lr: float, beta: float) -> list[dict]:
        """One run of the grid: means over half of the held-out prompts, look by look."""
        rows = []

        def watch(policy, steps):
            if steps in self.size.looks:
                found = self.measure(policy, self.prompts[::2], samples=2, seed=100)
                means = {name: sum(v) / len(v) for name, v in figures(*found).items()}
                rows.append({"steps": steps} | {n: round(v, 4) for n, v in means.items()})

        stage = self.stage(method, lr, beta, self.size.looks[-1], watch)
        quietly(stage)
        watch(trained(stage), self.size.looks[-1])
        return rows

    def judged(self, method: str, lr: float, beta: float, steps: int) -> dict:
        """Train one policy and judge it: figures of each held-out prompt."""
        stage = self.stage(method, lr, beta, steps)
        quietly(stage)
        return figures(*self.measure(trained(stage).eval()))

    def base(self) -> dict:
        """The same figures of the SFT model."""
        return figures(*self.measure(self.reference))


def figures(drawn: Samples, kl: torch.Tensor) -> dict[str, list[float]]:
    """Means over the completions of each prompt, and the share that stops by itself."""
    found = {"reward": drawn.rewards, "length": drawn.lengths, "kl": kl, "ended": drawn.ended}
    return {n: [round(x, 3) for x in v.double().mean(-1).tolist()] for n, v in found.items()}


def gates(seeds: list[dict]) -> list[str]:
    """Print every gate with its number, for each seed."""
    lines = []
    for part in seeds:
        rows = {row["method"]: torch.tensor(row["length"])[:, None] for row in part["rows"]}
        for more, less in (("sum", "clean"), ("sum", "R-DPO")):
            gap, z = difference(rows[more], rows[less])
            verdict = "holds" if z > SURE else "FAILED"
            claim = f"{more}'s answers are longer than {less}'s"
            lines.append(f"seed {part['seed']}: {claim}, by {gap}, z = {z:.1f}: {verdict}")
    print(*lines, sep="\n")
    return lines


if __name__ == "__main__":
    sys.exit(main())
