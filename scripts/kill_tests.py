"""Kill training runs and see whether they end with the same bytes as runs that were left alone.

    python scripts/kill_tests.py [--kills 40] [--every 1] [--stages sft,reward,dpo,lora]

For each stage, on a GPT-2 of two layers and the built-in world, measured on held-out rows, its
best checkpoint kept, and (the reward model aside) sampled from: SIGKILL at random moments, in
chains of 1, 2 and 5 with a resume between, and SIGKILL at each write, fsync, mkdir, rename and
removal of a whole run. "online" has a moving reference and rounds of three steps, "online-1" a
fixed one and rounds of one; "lora" is DPO with an adapter. "identical" means weights, optimiser,
log and saved model, by SHA-256; "torn" counts checkpoints that had a checkpoint's name and were not
whole. Exit code 1 if any run ended otherwise.
"""

# ruff: noqa: E402 (the paths and the number of threads come first)

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a fork must not inherit a pool of threads
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/language_model")]

import torch
from faults import Faults, count_events, ends, in_child, warm_up
from small_world import small_world

from dpo_lib.language_model import settings as told
from dpo_lib.language_model.models.adapters.layers import require_peft
from dpo_lib.language_model.stages.dpo import DPO
from dpo_lib.language_model.stages.kto import KTO
from dpo_lib.language_model.stages.online import OnlineDPO
from dpo_lib.language_model.stages.ppo import PPO
from dpo_lib.language_model.stages.reward import Reward
from dpo_lib.language_model.stages.sft import SFT
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.loop import train

STAGES = {
    "sft": (told.SFTSettings, SFT),
    "reward": (told.RewardSettings, Reward),
    "dpo": (told.DPOSettings, DPO),
    "kto": (told.KTOSettings, KTO),
    "online": (told.OnlineDPOSettings, OnlineDPO),
    "online-1": (told.OnlineDPOSettings, OnlineDPO),
    "ppo": (told.PPOSettings, PPO),
    "lora": (told.DPOSettings, DPO),
}
CHAINS = (1, 2, 5, 2)
SETTINGS = dict(steps=9, batch_size=8, accumulate=2, save_every=2, lr=1e-4, max_length=64)
# SFT runs to its end; the others find nothing better than their start, end early and save it.
WATCHED = dict(eval_every=2, metric_for_best_model="loss", early_stopping_patience=3)
SAMPLED = dict(samples=4, max_new_tokens=8)
ONLINE = WATCHED | SAMPLED | dict(reward="true", metric_for_best_model="objective/kl")
OWN = {
    "sft": WATCHED | SAMPLED,
    "reward": WATCHED,
    "dpo": WATCHED | SAMPLED | dict(metric_for_best_model="rewards/margins"),
    "kto": WATCHED | SAMPLED,
    "online": ONLINE | dict(reference="moving", refresh_every=3),
    "online-1": ONLINE | dict(num_generations=6, max_new_tokens=24),  # fewer would all tie
    "ppo": WATCHED
    | SAMPLED
    | dict(reward="true", epochs=2, minibatches=2, metric_for_best_model="objective/kl"),
}


OWN["lora"] = OWN["dpo"] | dict(lora=2)


def command(name: str, named: dict, run: Path) -> Callable[[], None]:
    """What `dpo NAME --out RUN --resume` does."""
    settings, stage = STAGES[name]
    given = SETTINGS | named | OWN[name] | dict(eval_data=named["data"], out=str(run))
    given |= dict(resume=True, log_every=1000)
    return lambda: train(stage.from_settings(settings(**given))[0])


class Tally:
    """One line of the table."""

    def __init__(self, stage: str, kind: str, whole: dict[str, str]):
        self.stage, self.kind, self.whole = stage, kind, whole
        self.kills = self.runs = self.identical = self.torn = 0

    def killed(self, code: int, run: Path) -> bool:
        """Count a child that was killed, and look at what it left."""
        if code != -9:
            return False
        self.kills += 1
        try:
            found = checkpoint.load(run)
            self.torn += len(found.passed_over) if found else 0
        except checkpoint.CheckpointError:
            self.torn += 1
        return True

    def finish(self, resumed: Callable[[], None], run: Path) -> None:
        """Let the run end, and compare."""
        self.runs += 1
        said = run.with_suffix(".txt")
        if in_child(resumed, stderr=said) == 0 and ends(run) == self.whole:
            self.identical += 1
            shutil.rmtree(run)
        else:
            print(f"{self.stage}: {run} ended otherwise: {said.read_text()[-500:]}")

    @property
    def good(self) -> bool:
        return self.identical == self.runs and self.torn == 0

    def __str__(self) -> str:
        counts = f"{self.kills:7}{self.runs:7}{self.identical:11}{self.torn:6}"
        return f"{self.stage:9}{self.kind:16}{counts}"


def at_random(tally: Tally, resumed_in: Callable, folder: Path, kills: int, seconds: float) -> None:
    """Chains of kills, uniformly in time, until there were so many."""
    times = random.Random(f"{tally.stage} {kills}")
    for number, chain in enumerate(itertools.cycle(CHAINS)):
        if tally.kills >= kills:
            return
        run = folder / f"{tally.stage}-random-{number}"
        for _ in range(min(chain, kills - tally.kills)):
            resumed = resumed_in(run)
            tally.killed(in_child(resumed, kill_after=times.uniform(0, seconds)), run)
        tally.finish(resumed, run)


def at_events(tally: Tally, resumed_in: Callable, folder: Path, every: int) -> None:
    """A kill at every `every`-th change of the disk, torn writes included."""
    events = count_events(resumed_in(folder / f"{tally.stage}-count"))
    for at in range(1, events + 1, every):
        run = folder / f"{tally.stage}-event-{at}"

        def killed(run=run, at=at):
            Faults(at).install()
            resumed_in(run)()

        tally.killed(in_child(killed), run)
        tally.finish(resumed_in(run), run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="at random, over all stages")
    parser.add_argument("--every", type=int, default=1, help="1: a kill at each disk event")
    parser.add_argument("--stages", default=",".join(STAGES))
    given = parser.parse_args()
    stages = given.stages.split(",")
    torch.set_num_threads(1)
    warm_up()
    if "lora" in stages:
        require_peft()  # imported before a fork, as torch is
    folder = Path(tempfile.mkdtemp(prefix="kill-tests-"))
    named = small_world(folder, pairs=40, reviews=40, prompts=40, test=8)
    tallies = []
    print(f"{'stage':9}{'killed':16}{'kills':>7}{'runs':>7}{'identical':>11}{'torn':>6}")
    for number, name in enumerate(stages):
        whole = folder / f"{name}-whole"
        for run in (folder / f"{name}-first", whole):  # the second has warm files: it is timed
            began = time.perf_counter()
            code = in_child(command(name, named, run), stderr=folder / f"{name}.txt")
            seconds = time.perf_counter() - began
            if code != 0:
                print(f"{name}: does not run: {(folder / f'{name}.txt').read_text()[-500:]}")
                return 1
        if ends(folder / f"{name}-first") != ends(whole):
            print(f"{name}: two runs that were left alone differ")
            return 1
        resumed_in = lambda run, name=name: command(name, named, run)  # noqa: E731
        share = given.kills * (number + 1) // len(stages) - given.kills * number // len(stages)
        tallies += [
            Tally(name, "at random", ends(whole)),
            Tally(name, "at disk events", ends(whole)),
        ]
        at_random(tallies[-2], resumed_in, folder, share, seconds)
        print(tallies[-2], flush=True)
        at_events(tallies[-1], resumed_in, folder, given.every)
        print(tallies[-1], flush=True)
    good = all(tally.good for tally in tallies)
    if good:
        shutil.rmtree(folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
