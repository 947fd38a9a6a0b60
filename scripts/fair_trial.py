"""Which method, or which setting? `python scripts/fair_trial.py [--quick] [FOLDER]`.

On the built-in world, from one SFT model and one learned reward model for each seed, with as many
steps of as many completions for every method (120 steps of 128 at most):

    offline       DPO on the world's own pairs, labelled as they are
    relabelled    the same pairs, labelled by the reward model
    frozen        DPO on pairs that the SFT model draws, labelled by the reward model
    online        DPO on pairs that the policy draws before each step, labelled by the reward model
    PPO           each completion that it draws is used twice
    Preferred-FT  SFT on the chosen answers

Tuning, on a seed of its own: each method has every learning rate with every beta (Preferred-FT has
no beta), is looked at after 30, 60 and 120 steps, and keeps the setting with the most *learned*
reward on held-out prompts; and, by a second rule, the one with the most among those whose KL is at
most 10 nats. (The second rule was made when the first had chosen a policy that fools the reward
model, and before any fresh seed was tried at a tuned setting.) Trial, on three other seeds: each
method at both settings, and the four kinds of DPO at one shared setting, with five rounds of pairs
(reference kept, and moved) and a program as judge beside them. The true reward judges, by
completions of 200 held-out prompts.

Gates at the shared setting, for every seed alone, paired over prompts, z > 4: online has more true
reward than relabelled, and less KL; and (the control) frozen has less true reward than online.
Exit code 1 if one fails. FOLDER keeps what is done, and a run that is started again goes on there.
The result is dpo_lib/results/fair_trial.json; --quick takes seconds, asserts and writes nothing.
"""

import argparse
import contextlib
import io
import json
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, logging

from dpo_lib.language_model.data import (
    read_preferences,
    read_prompts,
    tokenize_preferences,
    tokenize_prompts,
)
from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.generation import sample, sequence_kl
from dpo_lib.language_model.generation.samples import Samples
from dpo_lib.language_model.judging import best_of, difference, estimate
from dpo_lib.language_model.models import (
    RewardModel,
    load_policy,
    load_tokenizer,
    save_policy,
    world_score,
)
from dpo_lib.language_model.settings import (
    DPOSettings,
    OnlineDPOSettings,
    PPOSettings,
    RewardSettings,
    SFTSettings,
)
from dpo_lib.language_model.stages import DPO, PPO, SFT, OnlineDPO, Reward
from dpo_lib.language_model.stages.reward import correct, rewards_of
from dpo_lib.language_model.training import train
from dpo_lib.language_model.training.run_folder import machine
from dpo_lib.language_model.worlds import write_world
from dpo_lib.results.about import commit, cpu
from dpo_lib.results.stored import STORED, signed

SHAPE = dict(n_layer=2, n_embd=64, n_head=4, n_positions=128)  # chapter 17's GPT-2
COMMON = dict(optimizer="adamw", warmup_steps=10, max_length=128, save_every=10_000)
SHARED = dict(lr=1e-3, beta=0.3, steps=60)
METHODS = ("offline", "relabelled", "frozen", "online", "PPO", "Preferred-FT")
AT_ONE_SETTING = ("relabelled", "offline", "frozen", "online", "kept", "moved", "program")
ROUNDS = 5  # of kept and moved
# Passes a review that is worth 1 or more, as a test passes a program that is right.
PROGRAM = """
import json, sys
from dpo_lib.language_model.worlds import reviews
for row in map(json.loads, sys.stdin):
    print(int(reviews.reward(row["prompt"], row["completion"]) >= 1))
"""
ROOF = torch.logspace(-2, 2, 80, dtype=torch.float64)  # the betas that it is the least over
RULES = {"tuned": math.inf, "near": 10.0}  # most learned reward, at so many nats at most
SURE = 4.0  # standard errors


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    tuned_on: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    pairs: int = 4000
    sft_steps: int = 250
    reward_steps: int = 120
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    betas: tuple[float, ...] = (0.1, 0.3, 1.0)
    looks: tuple[int, ...] = (30, 60, 120)  # steps
    batch_size: int = 64
    prompts: int = 200  # held out, in a trial
    samples: int = 4  # of each
    best_of: int = 16


QUICK = Size(
    0, (1,), 48, 3, 2, (1e-3,), (0.3,), (2, 4), batch_size=4, prompts=6, samples=2, best_of=2
)


def main() -> int:
    began = time.perf_counter()
    with begun(__doc__, Size(), QUICK) as (size, folder):
        grid = tune(Runs(folder / f"seed-{size.tuned_on}", size.tuned_on, size))
        chosen = {
            rule: {method: best(grid, method, most) for method in METHODS}
            for rule, most in RULES.items()
        }
        print(json.dumps(chosen, indent=1))
        seeds = [trial(Runs(folder / f"seed-{s}", s, size), chosen) for s in size.seeds]
    failed = [line for line in gates(seeds) if line.endswith("FAILED")]
    print(f"{time.perf_counter() - began:.0f} s")
    if size == QUICK:
        return 0
    keep("fair_trial", {"grid": grid, "chosen": chosen, "seeds": seeds})
    return int(bool(failed))


@contextlib.contextmanager
def begun(doc: str, whole: Size, quick: Size):
    """What the command line asks for: how much, and a folder of the runs, ours if none is named."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds; asserts and writes nothing")
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the runs; made here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        stack.callback(logging.set_verbosity, logging.get_verbosity())  # as a test had it
        logging.set_verbosity_error()
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield quick if given.quick else whole, folder


def keep(name: str, result: dict) -> None:
    """Store what a script of this name found, with all that it takes to repeat it."""
    about = {
        "command": f"python scripts/{name}.py",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine() | {"cpu": cpu()},
    }
    (STORED / f"{name}.json").write_text(json.dumps(signed({"about": about} | result)) + "\n")


def tune(runs: "Runs") -> list[dict]:
    """A row for each method, learning rate, beta and number of steps."""
    grid = []
    for method, lr, beta in product(METHODS, runs.size.lrs, runs.size.betas):
        if method == "Preferred-FT" and beta != runs.size.betas[0]:
            continue
        rows = runs.once(f"tune-{method}-{lr:g}-{beta:g}", lambda: runs.look(method, lr, beta))  # noqa: B023
        grid += [dict(method=method, lr=lr, beta=beta) | row for row in rows]
        print(*(f"{method:13}{lr:8g}{beta:6g}{told(row)}" for row in rows), sep="\n", flush=True)
    return grid


def best(grid: list[dict], method: str, most: float = math.inf) -> dict:
    """The setting with the most learned reward, among those whose KL is at most so many nats."""
    rows = [row for row in grid if row["method"] == method and row["kl"] <= most]
    top = max(rows, key=lambda row: row["learned"])
    return {name: top[name] for name in ("lr", "beta", "steps")}


def trial(runs: "Runs", chosen: dict[str, dict[str, dict]]) -> dict:
    """Every method on one seed, judged: by both rules, and at the shared setting."""
    shared = SHARED | {"steps": min(SHARED["steps"], runs.size.looks[-1])}
    wanted = chosen | {"shared": dict.fromkeys(AT_ONE_SETTING, shared)}
    rows = []
    for rule, settings in wanted.items():
        for method, setting in settings.items():
            name = f"{rule}-{method}"
            found = runs.once(name, lambda: runs.judged(method, **setting))  # noqa: B023
            rows.append(dict(method=method, rule=rule, **setting) | found)
            means = {key: sum(found[key]) / len(found[key]) for key in ("reward", "kl")}
            print(f"seed {runs.seed} {name:20}{told(found | means | setting)}", flush=True)
    return {"seed": runs.seed, **runs.once("base", runs.base), "rows": rows}


def told(row: dict) -> str:
    columns = {"steps": "4d", "learned": ".3f", "reward": ".3f", "kl": ".2f"}
    return "".join(f"  {name} {row[name]:{form}}" for name, form in columns.items())


class Start:
    """One seed's world and SFT model, what is made once, and how a policy is judged."""

    max_new_tokens = 48

    def __init__(self, folder: Path, seed: int, size):
        self.folder, self.seed, self.size = folder, seed, size
        self.world = folder / "world"
        if not self.world.exists():
            write_world(self.world, size.pairs, words=(9, 24), seed=seed)
        self.tokenizer = load_tokenizer("tiny", self.world)
        eos = self.tokenizer.eos_token_id
        self.start, self.sft = (str(folder / name) for name in ("start", "sft/model"))
        if not Path(self.start).exists():
            shape = dict(vocab_size=len(self.tokenizer), bos_token_id=eos, eos_token_id=eos)
            torch.manual_seed(seed)
            model = GPT2LMHeadModel(GPT2Config(**shape, **SHAPE))
            save_policy(model, self.tokenizer, self.start)
        if not Path(self.sft).exists():
            told = dict(model=self.start, steps=size.sft_steps, lr=3e-3)
            quietly(SFT.from_settings(self.settings(SFTSettings, "sft", **told))[0])
        self.reference = load_policy(self.sft, self.tokenizer).eval()
        texts, _ = read_prompts(self.world / "test_prompts.jsonl", self.tokenizer)
        room = COMMON["max_length"] - self.max_new_tokens
        found = tokenize_prompts(texts, self.tokenizer, room, Report())
        self.prompts = found[: size.prompts]

    def once(self, name: str, make: Callable):
        """What has been made under this name before, or now."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(make()))
        return json.loads(path.read_text())

    def settings(self, kind: type, name: str, **told):
        own = dict(data=str(self.world), out=str(self.folder / name), seed=self.seed)
        return kind(**COMMON | own | dict(batch_size=self.size.batch_size) | told)

    def measure(self, policy, prompts=None, samples=None, seed=None) -> tuple[Samples, Tensor]:
        """Completions by the same random numbers for every policy, and their KL to the SFT one."""
        drawn = sample(
            policy,
            prompts or self.prompts,
            world_score(self.tokenizer),
            self.tokenizer.eos_token_id,
            samples=samples or self.size.samples,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed if seed is None else seed,
            batch_size=400,
        )
        return drawn, sequence_kl(policy, self.reference, drawn, batch_size=400)[0]


class Runs(Start):
    """With the seed's reward model, and the policies of every method."""

    def __init__(self, folder: Path, seed: int, size: Size):
        super().__init__(folder, seed, size)
        self.reward = str(folder / "reward/model")
        if not Path(self.reward).exists():
            told = dict(model=self.sft, steps=size.reward_steps, lr=2e-3)
            quietly(Reward.from_settings(self.settings(RewardSettings, "reward", **told))[0])
        self.judge = RewardModel.load(self.reward)

    def stage(self, method: str, lr: float, beta: float, steps: int, watch: Callable | None = None):
        """A method, ready to be trained; `watch(policy, steps)` before each step but the first."""
        told = dict(model=self.sft, steps=steps, lr=lr, beta=beta)
        each_round = {"frozen": steps, "kept": steps // ROUNDS or 1, "moved": steps // ROUNDS or 1}
        program = f"command:{shlex.join([sys.executable, '-c', PROGRAM])}"
        drawn = dict(reward=self.reward, max_new_tokens=self.max_new_tokens)
        twice = dict(batch_size=2 * self.size.batch_size)  # of completions, where a pair has two
        if method == "Preferred-FT":
            del told["beta"]
            kind, settings = SFT, SFTSettings
            told |= twice | dict(data=str(self.world / "preferences.jsonl"))
        elif method in ("offline", "relabelled"):
            kind, settings = DPO, DPOSettings
            told |= dict(data=str(self.relabelled())) if method == "relabelled" else {}
        elif method == "PPO":
            kind, settings = PPO, PPOSettings
            told |= drawn | twice | dict(minibatches=2, epochs=2)
        else:
            kind, settings = OnlineDPO, OnlineDPOSettings
            told |= drawn | dict(refresh_every=each_round.get(method, 1))
            told |= dict(reference="moving") if method == "moved" else {}
            told |= dict(reward=program) if method == "program" else {}
        name = f"runs/{method}-{lr:g}-{beta:g}-{steps}-{time.monotonic_ns()}"
        kind = watched(kind, watch) if watch else kind
        return kind.from_settings(self.settings(settings, name, **told))[0]

    def look(self, method: str, lr: float, beta: float) -> list[dict]:
        """One run of the grid: what half of the held-out prompts say, look by look."""
        rows = []

        def watch(policy, steps):
            if steps in self.size.looks:
                drawn, kl = self.measure(policy, self.prompts[::2], samples=2, seed=100)
                figures = self.learned(drawn), drawn.rewards, kl
                means = [round(x.double().mean().item(), 4) for x in figures]
                learned, reward, nats = means
                rows.append(dict(steps=steps, learned=learned, reward=reward, kl=nats))

        stage = self.stage(method, lr, beta, self.size.looks[-1], watch)
        quietly(stage)
        watch(trained(stage), self.size.looks[-1])
        return rows

    def judged(self, method: str, lr: float, beta: float, steps: int) -> dict:
        """Train one policy and judge it: figures of each held-out prompt, and means."""
        began = time.perf_counter()
        stage = self.stage(method, lr, beta, steps)
        quietly(stage)
        seconds = time.perf_counter() - began
        drawn, kl = self.measure(trained(stage).eval())
        figures = {"reward": drawn.rewards, "kl": kl}
        found = {n: [round(x, 3) for x in v.double().mean(-1).tolist()] for n, v in figures.items()}
        found |= {"learned": self.learned(drawn).mean().item(), "seconds": round(seconds, 1)}
        lengths, ended = drawn.lengths.double().mean().item(), drawn.ended.double().mean().item()
        return found | {"length": round(lengths, 2), "ended": round(ended, 4)}

    def base(self) -> dict:
        """The SFT model, the best of its draws, and what the roof over all policies is made of."""
        drawn, _ = self.measure(self.reference, samples=self.size.best_of, seed=3)
        learned = self.learned(drawn)
        tilted = drawn.rewards.double().flatten() / ROOF[:, None]
        log_z = tilted.logsumexp(-1) - math.log(drawn.rewards.numel())
        ns = [n for n in (1, 2, 4, 8, 16) if n <= self.size.best_of]
        by = {"true": drawn.rewards, "learned": learned}
        test = read_preferences(self.world / "test_preferences.jsonl", self.tokenizer)
        pairs = tokenize_preferences(test[0], self.tokenizer, COMMON["max_length"], test[1])
        with torch.no_grad():
            right = correct(*rewards_of(self.judge, pairs).double().unbind(1))
        return {
            "sft": [round(x, 3) for x in drawn.rewards.double().mean(-1).tolist()],
            "sft_length": drawn.lengths.double().mean().item(),
            "sft_ended": drawn.ended.double().mean().item(),
            "sft_learned": learned.mean().item(),
            "accuracy": right.mean().item(),
            "best_of": {
                name: {n: estimate(best_of(drawn.rewards, n, of).unsqueeze(-1)).mean for n in ns}
                for name, of in by.items()
            },
            "roof": {"beta": ROOF.tolist(), "log_z": log_z.tolist()},
        }

    @torch.no_grad()
    def learned(self, drawn: Samples) -> Tensor:
        """What the reward model says of them, in the shape of the true rewards."""
        parts = range(0, len(drawn.sequences), 400)
        scores = [self.judge.score(drawn.sequences[k : k + 400]) for k in parts]
        return torch.cat(scores).double().view_as(drawn.rewards)

    def relabelled(self) -> Path:
        """The world's pairs, the better one by the reward model chosen."""
        path = self.folder / "relabelled.jsonl"
        if path.exists():
            return path
        rows, report = read_preferences(self.world / "preferences.jsonl", self.tokenizer)
        pairs = tokenize_preferences(rows, self.tokenizer, COMMON["max_length"], report)
        with torch.no_grad():
            chosen, rejected = rewards_of(self.judge, pairs).unbind(1)
        lines = []
        for row, stays in zip(rows, (chosen >= rejected).tolist(), strict=True):
            better, worse = (row.chosen, row.rejected)[:: 1 if stays else -1]
            lines.append({"prompt": row.prompt, "chosen": better, "rejected": worse})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


def quietly(stage) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        train(stage)


def trained(stage):
    """What a stage trains, under the name that it has there."""
    return stage.model if isinstance(stage, SFT) else stage.policy


def watched(kind: type, watch: Callable) -> type:
    """The same stage; `watch(policy, steps that it has made)` is called before each step."""

    class Watched(kind):
        def start(self, step):
            super().start(step)
            if step > 1:
                watch(trained(self), step - 1)

    return Watched


def gates(seeds: list[dict]) -> list[str]:
    """Print every gate with its number, for each seed."""
    lines = []
    for part in seeds:
        rows = {row["method"]: row for row in part["rows"] if row["rule"] == "shared"}
        for claim, more, less, figure in (
            ("online has more true reward than relabelled", "online", "relabelled", "reward"),
            ("online has less KL than relabelled", "relabelled", "online", "kl"),
            ("frozen has less true reward than online", "online", "frozen", "reward"),
        ):
            both = [torch.tensor(rows[name][figure]).unsqueeze(-1) for name in (more, less)]
            gap, z = difference(*both)
            verdict = "holds" if z > SURE else "FAILED"
            lines.append(f"seed {part['seed']}: {claim}, by {gap}, z = {z:.1f}: {verdict}")
    print(*lines, sep="\n")
    return lines


if __name__ == "__main__":
    sys.exit(main())
