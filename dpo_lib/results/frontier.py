"""The paper's section 6.1 on a language model: `python -m dpo_lib.results.frontier --out RUNS`.

For each seed: SFT, a reward model, DPO over a range of beta, Preferred-FT, Unlikelihood, PPO with
the learned and with the true reward, Best-of-N; then all of them on held-out prompts. The world
is the built-in one, its true reward decides the preferences. Everything is one JSON file in the
end. Started again with the same settings, a killed run goes on where it stopped.
"""

import hashlib
import json
import platform
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch
from cyclopts import Parameter

from dpo_lib._command_line import Config, make_app
from dpo_lib._command_line import run as run_app

STORED = resources.files(__package__)  # this folder: frontier_tiny.json is in it
CURVES = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
CURVES += ("logps/chosen", "logps/rejected", "objective/kl", "objective/scores", "accuracy")
POINTS = 24  # of a stored curve


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run. The defaults are for "tiny"; a larger model wants smaller learning rates."""

    out: str
    """Folder of the runs; frontier.json is written into it."""
    model: str = "tiny"
    """tiny, gpt2-random, gpt2 (from the hub), or a folder."""
    seeds: int = 3
    """How many, from 0 on; of weights, order and sampling. The world is one."""
    betas: str = "0.05 0.3 1 5"
    """Of DPO, reward units per nat."""
    beta: float = 0.3
    """Of PPO, and of the DPO that is drawn from at every temperature."""
    alpha: float = 0.1
    """Of Unlikelihood."""
    temperatures: str = "0.25 0.5 0.75 1"
    """At which policies are judged."""
    pairs: int = 3840
    """Preference pairs, labelled by the true reward without noise."""
    batch_size: int = 32
    """Items of one step."""
    accumulate: int = 1
    """Micro-batches of a batch; more need less memory."""
    sft_steps: int = 200
    """Of SFT."""
    reward_steps: int = 125
    """Of the reward model, on batches twice as large."""
    steps: int = 120
    """Of DPO, Preferred-FT and Unlikelihood; 120 go once through 3,840 pairs."""
    ppo_steps: int = 60
    """Of PPO."""
    sft_lr: float = 1e-3
    """Learning rate of SFT and of the reward model."""
    lr: float = 1e-4
    """Learning rate of DPO, Preferred-FT and Unlikelihood."""
    ppo_lr: float = 5e-4
    """Learning rate of PPO."""
    test_pairs: int = 500
    """Held-out pairs for accuracies, at most 500."""
    prompts: int = 100
    """For completions; those of the first test pairs."""
    samples: int = 2
    """Completions of each prompt."""
    best_of: int = 16
    """The largest N of Best-of-N."""
    max_new_tokens: int = 96
    """Of a judged completion; PPO trains on at most 64."""
    world_seed: int = 2
    """Of the world."""


class ResultError(ValueError):
    """Why a stored result cannot be used, in one line."""


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
    from dpo_lib.language_model.files import write_json

    out, world = Path(plan.out), Path(plan.out) / "world"
    out.mkdir(parents=True, exist_ok=True)
    keep_plan(plan, out / "plan.json")
    if not world.exists():
        labels = ("--labels", "deterministic", "--seed", plan.world_seed)
        dpo("world", "--out", world, "--pairs", plan.pairs, *labels)
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
    from dpo_lib.language_model.files import write_json

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


def stages(plan: Plan, seed: int, out: Path) -> dict[str, list]:
    """Name -> command, in the order in which they depend on each other."""
    world, runs = out / "world", out / f"seed-{seed}"
    common = ["--data", world, "--seed", seed, "--batch-size", plan.batch_size]
    common += ["--accumulate", plan.accumulate, "--optimizer", "adamw", "--warmup-steps", 10]
    common += ["--log-every", 25, "--save-every", 50, "--resume"]
    start = ["--model", runs / "SFT/model", *common]
    fit = ["--steps", plan.steps, "--lr", plan.lr]
    draw = ["--steps", plan.ppo_steps, "--lr", plan.ppo_lr, "--beta", plan.beta]
    draw += ["--minibatches", 2, "--epochs", 2, "--max-new-tokens", min(64, plan.max_new_tokens)]
    slow = ["--lr", plan.sft_lr, "--steps"]
    twice = ["--batch-size", 2 * plan.batch_size]
    unlikelihood = ["--loss", "unlikelihood", "--alpha", plan.alpha]
    found = {
        "SFT": ["sft", "--model", plan.model, *common, *slow, plan.sft_steps],
        "reward": ["reward", *start, *slow, plan.reward_steps, *twice],
        **{f"DPO {b:g}": ["dpo", *start, *fit, "--beta", b] for b in numbers(plan.betas)},
        "Preferred-FT": ["sft", *start, *fit, "--data", world / "preferences.jsonl"],
        "Unlikelihood": ["dpo", *start, *fit, *unlikelihood],
        "PPO": ["ppo", *start, *draw, "--reward", runs / "reward/model"],
        "PPO-GT": ["ppo", *start, *draw, "--reward", "true"],
    }
    return {name: [*command, "--out", runs / name] for name, command in found.items()}


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def run_seed(plan: Plan, seed: int, out: Path) -> dict:
    """Train every stage that has no model yet, then judge; returns the seed's part of the JSON."""
    from dpo_lib.language_model.files import write_json

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
    timing = {row["step"]: row for row in timings}  # a step that was repeated counts once
    kept = sorted({round(k * (len(rows) - 1) / (POINTS - 1)) for k in range(POINTS)})
    names = [name for name in CURVES if name in rows[0]]
    curves = {name: [float(f"{rows[k][name]:.6g}") for k in kept] for name in names}
    seconds = awake([row["seconds"] for row in timing.values()])
    return {
        "command": " ".join(map(str, ("dpo", *command))).replace(str(folder.parents[1]), "OUT"),
        "steps": len(rows),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(rows[-1].get("num_tokens", 0) / seconds, 1),
        "first_loss": rows[0]["loss"],
        "curves": {"step": [rows[k]["step"] for k in kept]} | curves,
    }


def awake(seconds: list[float]) -> float:
    """Their sum without pauses: a process that was stopped, a laptop that slept.

    A step may be slow for good reasons (PPO draws, the reference scores all pairs), but not
    a hundred times the median.
    """
    middle = sorted(seconds)[len(seconds) // 2]
    return sum(value for value in seconds if value <= 100 * middle)


class Judge:
    """What judges the policies of one seed: held-out prompts, and both rewards.

    Completions of one seed share their random numbers, so that differences are sharper; those
    of the SFT model that all are compared with, and that Best-of-N chooses from, have their own.
    """

    size = 256  # completions or pairs of one forward pass

    def __init__(self, plan: Plan, seed: int, out: Path):
        from dpo_lib.language_model.data.reading import read_preferences
        from dpo_lib.language_model.data.tokens import tokenize_preferences
        from dpo_lib.language_model.models.devices import pick_device
        from dpo_lib.language_model.models.judges import load_judge, world_score
        from dpo_lib.language_model.models.policies import load_tokenizer

        self.plan, self.seed, self.runs = plan, seed, out / f"seed-{seed}"
        self.device = pick_device()
        self.tokenizer = load_tokenizer(self.runs / "SFT/model")
        self.true_reward = world_score(self.tokenizer)
        self.reward_model = load_judge(str(self.runs / "reward/model"), self.tokenizer)
        self.reward_model.to(self.device)
        rows, report = read_preferences(out / "world/test_preferences.jsonl")
        found = tokenize_preferences(rows, self.tokenizer, 512, report)
        self.pairs, shown = found[: plan.test_pairs], found[: plan.prompts]
        self.prompts = [pair.prompt for pair in shown]
        chosen = self.true_reward([(pair.prompt, pair.chosen) for pair in shown])
        self.chosen = chosen.double().unsqueeze(-1)  # (prompts, 1)
        self.reference = self.load("SFT")
        self.ref_logps = self.logps(self.reference)
        self.base = self.draw(self.reference, 1.0, plan.best_of, 0)

    def load(self, name: str):
        from dpo_lib.language_model.models.policies import load_policy

        folder = str(self.runs / name / "model")
        return load_policy(folder, self.tokenizer).to(self.device).eval()

    @torch.no_grad()
    def logps(self, model) -> torch.Tensor:
        """Log-probabilities of the held-out pairs, shape (pairs, 2): chosen, rejected."""
        from dpo_lib.language_model.scoring.logprobs import pair_logps

        return torch.cat(
            [pair_logps(model, part).cpu().double() for part in self.parts(self.pairs)]
        )

    @torch.no_grad()
    def learned(self, drawn) -> torch.Tensor:
        """The reward model's reward of what was drawn, shape (prompts, samples)."""
        scores = map(self.reward_model.score, self.parts(drawn.sequences))
        return torch.cat([part.cpu().double() for part in scores]).view_as(drawn.rewards)

    def parts(self, rows: list) -> list[list]:
        return [rows[i : i + self.size] for i in range(0, len(rows), self.size)]

    def draw(self, model, temperature: float, samples: int, stream: int):
        """Completions of the held-out prompts; `stream` numbers the random numbers."""
        from dpo_lib.language_model.data.order import derive_seed
        from dpo_lib.language_model.judging.evaluation import sample

        drawing = dict(samples=samples, temperature=temperature, batch_size=self.size)
        drawing |= dict(seed=derive_seed(self.seed, stream))
        drawing |= dict(max_new_tokens=self.plan.max_new_tokens)
        eos = self.tokenizer.eos_token_id
        return sample(model, self.prompts, self.true_reward, eos, **drawing)

    def policy(self, name: str, temperatures: list[float]) -> list[dict]:
        """One row for each temperature."""
        from dpo_lib.language_model.judging.evaluation import sequence_kl
        from dpo_lib.language_model.judging.statistics import difference, win_rate

        model, rows = self.load(name), []
        accuracy = None if name == "SFT" else self.accuracy(model)
        for t in temperatures:
            drawn = self.draw(model, t, self.plan.samples, 1)
            kl, _ = sequence_kl(model, self.reference, drawn, t, self.size)
            gain, z = difference(drawn.rewards, self.base.rewards)
            row = {"name": name, "temperature": t, "z": z, "gain": gain.record}
            row |= {"reward": means(drawn.rewards), "learned": means(self.learned(drawn))}
            row |= {"kl": means(kl), "length": means(drawn.lengths), "ended": means(drawn.ended)}
            row["beats_chosen"] = win_rate(drawn.rewards, self.chosen).record
            row["beats_sft"] = win_rate(drawn.rewards, self.base.rewards).record
            rows.append(row | {"accuracy": accuracy if t == 1 else None})
        return rows

    def accuracy(self, model) -> dict:
        """How often the implicit reward ranks a held-out pair as its label does."""
        from dpo_lib.language_model.stages.reward import correct

        chosen, rejected = (self.logps(model) - self.ref_logps).unbind(-1)
        return proportion(correct(chosen, rejected))

    def best_of(self) -> list[dict]:
        """Best-of-N at temperature 1 for N = 1, 2, 4, ..., at the others for the largest N."""
        plan, reference = self.plan, self.reference
        learned = self.learned(self.base)
        rows = [
            best_row(n, 1.0, self.base.rewards, learned, self.chosen) for n in powers(plan.best_of)
        ]
        for t in (t for t in numbers(plan.temperatures) if t != 1):
            drawn = self.draw(reference, t, plan.best_of, 2)
            learned = self.learned(drawn)
            rows.append(best_row(plan.best_of, t, drawn.rewards, learned, self.chosen))
        return rows


@torch.no_grad()
def judge(plan: Plan, seed: int, out: Path) -> dict:
    """Every policy on held-out prompts: true and learned reward, KL, win rates, lengths."""
    from dpo_lib.language_model.stages.reward import correct, rewards_of

    court, rows = Judge(plan, seed, out), []
    everywhere = ("SFT", f"DPO {plan.beta:g}", "Preferred-FT", "PPO")
    for name in stages(plan, seed, out):
        if name != "reward":
            rows += court.policy(name, numbers(plan.temperatures) if name in everywhere else [1.0])
            print(f"# judged {name}", flush=True)
    best = court.best_of()
    ranks = rewards_of(court.reward_model, court.pairs, court.size).cpu().double()
    return {
        "policies": rows,
        "best_of": best,
        "chosen_reward": means(court.chosen),
        "reward_accuracy": proportion(correct(ranks[:, 0], ranks[:, 1])),
        "gpu_agreement_nats": agreement(court.reference, court.pairs[:16]),
    }


def means(values: torch.Tensor) -> dict:
    """The mean of (prompts, samples) with the standard error over prompts."""
    from dpo_lib.language_model.judging.statistics import estimate

    return estimate(values).record


def powers(n: int) -> list[int]:
    """1, 2, 4, ... below n, and n."""
    return sorted({2**k for k in range(n.bit_length())} | {n})


def best_row(n: int, temperature: float, rewards, learned, chosen) -> dict:
    """Best-of-n as the paper has it, chosen by the learned reward; and by the true one."""
    from dpo_lib.language_model.judging.statistics import best_of, best_of_kl

    wins = ((rewards - chosen).sign() + 1) / 2
    return {
        "n": n,
        "temperature": temperature,
        "kl_at_most": best_of_kl(n),
        "reward": means(best_of(rewards, n, by=learned)),
        "learned": means(best_of(learned, n)),
        "reward_by_true": means(best_of(rewards, n)),
        "beats_chosen": means(best_of(wins, n, by=learned)),
    }


def proportion(hits) -> dict:
    """A share of pairs and its z against a coin."""
    share = hits.double().mean().item()
    return {"mean": share, "pairs": len(hits), "z": (share - 0.5) * 2 * len(hits) ** 0.5}


@torch.no_grad()
def agreement(model, pairs) -> float | None:
    """Largest difference of float32 log-probabilities between GPU and CPU; None without a GPU."""
    from dpo_lib.language_model.models.policies import frozen_copy
    from dpo_lib.language_model.scoring.logprobs import pair_logps

    if model.device.type == "cpu":
        return None
    there = pair_logps(model, pairs).cpu()
    return (there - pair_logps(frozen_copy(model).cpu(), pairs)).abs().max().item()


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
    }


def flags(plan: Plan) -> list[str]:
    """The settings that are not the defaults, as they are typed."""
    usual = asdict(Plan(out=""))
    given = {key: value for key, value in asdict(plan).items() if value != usual[key]}
    given["out"] = "OUT"
    return [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in given.items()]


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


def signed(result: dict) -> dict:
    return result | {"sha256": digest(result)}


def digest(result: dict) -> str:
    """SHA-256 of a result without its own "sha256"."""
    content = {key: value for key, value in result.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(path=STORED / "frontier_tiny.json") -> dict:
    """A stored result whose content is what its hash says.

    Raises:
        ResultError: if it is damaged, in one line.
    """
    try:
        result = dict(json.loads(path.read_text()))
    except ValueError:
        raise ResultError(f"{path}: is not JSON") from None
    if result.get("sha256") != digest(result):
        raise ResultError(f"{path}: its content is not that of its sha256")
    return result


if __name__ == "__main__":
    sys.exit(main())
