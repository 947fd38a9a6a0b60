"""The paper's section 6.1 on a language model: `python -m dpo_lib.results.frontier --out RUNS`.

For each seed: SFT, a reward model, DPO over a range of beta, Preferred-FT, Unlikelihood, PPO with
the learned and with the true reward, Best-of-N; then all of them on held-out prompts. The world
is the built-in one, its true reward decides the preferences. Everything is one JSON file in the
end. Started again with the same settings, a killed run goes on where it stopped.
"""

import json
import resource
import sys
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from dpo_lib._command_line import Config, make_app
from dpo_lib._command_line import run as run_app
from dpo_lib.language_model.files import write_json
from dpo_lib.results.about import about
from dpo_lib.results.plan import Plan, stages
from dpo_lib.results.stored import ResultError, signed

CURVES = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
CURVES += ("logps/chosen", "logps/rejected", "objective/kl", "objective/scores", "accuracy")
POINTS = 24  # of a stored curve
WATCHED = 100  # held-out pairs that a grid of learning rates is measured on while it trains


def main(arguments: list[str] | None = None) -> int:
    """Run what is not there yet, seed after seed, and write OUT/frontier.json after each."""
    app = make_app("frontier", usage="Usage: python -m dpo_lib.results.frontier [OPTIONS]")

    @app.default
    def frontier(plan: Plan, *, config: Config = None) -> None:
        """Section 6.1 of the paper on a language model, every method, several seeds."""
        run(plan)

    return run_app(app, arguments)


def run(plan: Plan) -> Path:
    """The whole experiment; returns the path of the JSON."""
    out, world = Path(plan.out), Path(plan.out) / "world"
    out.mkdir(parents=True, exist_ok=True)
    keep_plan(plan, out / "plan.json")
    if not world.exists():
        labels = ("--labels", "deterministic", "--seed", plan.world_seed)
        dpo("world", "--out", world, "--pairs", plan.pairs, *labels)
    with (world / "test_preferences.jsonl").open() as lines:
        (world / "watched.jsonl").write_text("".join(islice(lines, WATCHED)))
    found = []
    for seed in range(plan.seeds):
        done = out / f"seed-{seed}.json"
        if not done.exists():
            write_json(done, run_seed(plan, seed, out))
        found.append(json.loads(done.read_text()))
        write_json(out / "frontier.json", signed({"about": about(plan, out)} | {"seeds": found}))
        print(f"# seed {seed} is in {out / 'frontier.json'}", flush=True)
    return out / "frontier.json"


def keep_plan(plan: Plan, path: Path) -> None:
    """A folder belongs to one plan; more seeds may be added to it."""
    new = asdict(plan)
    old = new | (json.loads(path.read_text()) if path.exists() else {})
    if changed := [key for key in new if key not in ("seeds", "out") and old[key] != new[key]]:
        told = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in changed)
        raise ResultError(f"{path.parent} holds another plan: {told}")
    write_json(path, new)


def dpo(*arguments: object) -> None:
    """One command of `dpo`, in this process."""
    from dpo_lib.__main__ import main

    command = [str(argument) for argument in arguments]
    print("$ dpo", *command, flush=True)
    if code := main(command):
        raise SystemExit(code)


def run_seed(plan: Plan, seed: int, out: Path) -> dict:
    """Train every stage that has no model yet, then judge; returns the seed's part of the JSON."""
    from dpo_lib.results.judging import judge  # with torch, which help needs not

    records = {}
    for name, command in stages(plan, seed, out).items():
        folder = out / f"seed-{seed}" / name
        if not (folder / "cost.json").exists():
            dpo(*command)
            write_json(folder / "cost.json", {"peak_memory_mib": peak_memory()})
        peak = json.loads((folder / "cost.json").read_text())
        records[name] = stage_record(folder, command) | peak
    started = time.perf_counter()
    judged = judge(plan, seed, out)
    return {"seed": seed, "stages": records} | judged | {"judged_s": time.perf_counter() - started}


def peak_memory() -> float:
    """The GPU's largest allocation since the last call, or this process's largest size, in MiB."""
    import torch

    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def stage_record(folder: Path, command: list) -> dict:
    """Curves and speed of one finished stage, from its log."""
    rows, timings = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "timing.jsonl")
    )
    looked = [row for row in rows if "eval_loss" in row]  # before the first step too
    rows = [row for row in rows if "loss" in row]
    timing = {row["step"]: row for row in timings}  # a step that was repeated counts once
    kept = sorted({round(k * (len(rows) - 1) / (POINTS - 1)) for k in range(POINTS)})
    names = [name for name in CURVES if name in rows[0]]
    curves = {name: [float(f"{rows[k][name]:.6g}") for k in kept] for name in names}
    seconds = awake([row["seconds"] for row in timing.values()])
    held_out = {
        name: [row[name] if name == "step" else float(f"{row[name]:.6g}") for row in looked]
        for name in ("step", *(f"eval_{name}" for name in CURVES))
        if looked and name in looked[0]
    }
    return {
        "command": " ".join(map(str, ("dpo", *command))).replace(str(folder.parents[1]), "OUT"),
        "steps": len(rows),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(rows[-1].get("num_tokens", 0) / seconds, 1),
        "first_loss": rows[0]["loss"],
        "curves": {"step": [rows[k]["step"] for k in kept]} | curves,
    } | ({"held_out": held_out} if looked else {})


def awake(seconds: list[float]) -> float:
    """Their sum without pauses: a process that was stopped, a laptop that slept.

    A step may be slow for good reasons (PPO draws, the reference scores all pairs), but not
    a hundred times the median.
    """
    middle = sorted(seconds)[len(seconds) // 2]
    return sum(value for value in seconds if value <= 100 * middle)


if __name__ == "__main__":
    sys.exit(main())
