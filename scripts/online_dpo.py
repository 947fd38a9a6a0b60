"""Is it the loss, or where the pairs come from? `python scripts/online_dpo.py [--quick] [FOLDER]`.

On the built-in world, for each of three seeds (world, weights, order and draws), the same SFT
model, learned reward model, loss (7), beta, learning rate, steps and number of pairs:

    offline     the world's own pairs, labelled by the reward model
    frozen      pairs that the SFT model draws, labelled by the reward model (--refresh-every 60)
    online      pairs that the policy draws before each step (--refresh-every 1)
    moving      the same with --reference moving, on the first seed only; under no gate

Judged by the true reward and the KL to the SFT model, of four completions of each of 200 held-out
prompts, with 95 % intervals. Gates, for every seed alone, paired over prompts, z > 4: online has
more true reward than offline, and less KL; and (the control) frozen has less true reward than
online. Exit code 1 if one fails. --quick is a run of seconds, in which the gates are said and not
asserted. FOLDER keeps the runs.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from dpo_lib.language_model.data import (
    read_preferences,
    read_prompts,
    tokenize_preferences,
    tokenize_prompts,
)
from dpo_lib.language_model.data.reading import Report
from dpo_lib.language_model.generation import sample, sequence_kl
from dpo_lib.language_model.judging import difference, estimate
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
    RewardSettings,
    SFTSettings,
)
from dpo_lib.language_model.stages import DPO, SFT, OnlineDPO, Reward
from dpo_lib.language_model.stages.reward import rewards_of
from dpo_lib.language_model.training import checkpoint, train
from dpo_lib.language_model.worlds import write_world

SHAPE = dict(n_layer=2, n_embd=64, n_head=4, n_positions=128)  # chapter 17's GPT-2
COMMON = dict(optimizer="adamw", warmup_steps=10, max_length=128, save_every=10_000)
POLICY = dict(beta=0.3, lr=1e-3)
SURE = 4.0  # standard errors


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: tuple[int, ...] = (1, 2, 3)
    pairs: int = 4000
    sft_steps: int = 250
    reward_steps: int = 120
    steps: int = 60
    batch_size: int = 64
    prompts: int = 200  # held out
    samples: int = 4  # of each


QUICK = Size((1,), pairs=48, sft_steps=3, reward_steps=2, steps=3, batch_size=8, prompts=6)


@dataclass(frozen=True)
class Judged:
    """What a policy's completions of held-out prompts come to, each (prompts, samples)."""

    reward: Tensor  # true
    kl: Tensor  # to the SFT model, nats
    length: Tensor


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds; the gates are not asserted")
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the runs; made here")
    given = parser.parse_args()
    size, began = QUICK if given.quick else Size(), time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(
            f"{'seed':>4} {'pairs':8}{'true reward':>16}{'KL, nats':>16}{'tokens':>8}{'seconds':>9}"
        )
        found = {seed: judge_seed(folder / f"seed-{seed}", seed, size) for seed in size.seeds}
    failed = [line for line in gates(found) if line.endswith("FAILED")]
    print(f"{time.perf_counter() - began:.0f} s, {torch.get_num_threads()} threads")
    return int(bool(failed) and not given.quick)


def judge_seed(folder: Path, seed: int, size: Size) -> dict[str, Judged]:
    """Train and judge every method of one seed; a line of the table for each."""
    runs = Runs(folder, seed, size)
    methods = ["offline", "frozen", "online", *(["moving"] if seed == size.seeds[0] else [])]
    found = {}
    for method in ["sft", *methods]:
        began = time.perf_counter()
        model = runs.sft if method == "sft" else runs.policy(method)
        found[method] = runs.judge(model)
        row = found[method]
        figures = [estimate(row.reward), estimate(row.kl)]
        columns = "".join(f"{figure!s:>16}" for figure in figures)
        seconds = time.perf_counter() - began
        print(f"{seed:4} {method:8}{columns}{row.length.mean():8.1f}{seconds:9.0f}", flush=True)
    print(f"{seed:4} {runs.read_back('frozen')}")
    return found


class Runs:
    """One seed's world, SFT model and reward model, and the policies that start from them."""

    def __init__(self, folder: Path, seed: int, size: Size):
        self.folder, self.seed, self.size = folder, seed, size
        self.world = folder / "world"
        write_world(self.world, size.pairs, words=(9, 24), seed=seed)
        self.tokenizer = load_tokenizer("tiny", self.world)
        eos = self.tokenizer.eos_token_id
        shape = dict(vocab_size=len(self.tokenizer), bos_token_id=eos, eos_token_id=eos)
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**shape, **SHAPE))
        save_policy(model, self.tokenizer, folder / "start")
        sft = dict(model=str(folder / "start"), steps=size.sft_steps, lr=3e-3)
        self.sft = self.train(SFT, SFTSettings, "sft", **sft)
        reward = dict(model=self.sft, steps=size.reward_steps, lr=2e-3)
        self.reward = self.train(Reward, RewardSettings, "reward", **reward)

    def train(self, stage, settings, name: str, **told) -> str:
        """Train one stage; returns the folder of its model."""
        own = dict(data=str(self.world), out=str(self.folder / name), seed=self.seed)
        sizes = dict(batch_size=self.size.batch_size)
        with contextlib.redirect_stderr(io.StringIO()):
            run = train(stage.from_settings(settings(**COMMON | own | sizes | told))[0])
        return str(run / "model")

    def policy(self, method: str) -> str:
        """Train by one of the methods; all are told the same but for where pairs come from."""
        steps = self.size.steps
        told = dict(model=self.sft, steps=steps, **POLICY)
        if method == "offline":
            return self.train(DPO, DPOSettings, method, **told, data=str(self.relabelled()))
        online = dict(reward=self.reward, max_new_tokens=48)
        online |= dict(refresh_every=steps if method == "frozen" else 1)
        online |= dict(reference="moving" if method == "moving" else "fixed")
        return self.train(OnlineDPO, OnlineDPOSettings, method, **told, **online)

    def relabelled(self) -> Path:
        """The world's pairs, the better one by the reward model chosen."""
        rows, report = read_preferences(self.world / "preferences.jsonl", self.tokenizer)
        pairs = tokenize_preferences(rows, self.tokenizer, COMMON["max_length"], report)
        with torch.no_grad():
            chosen, rejected = rewards_of(RewardModel.load(self.reward), pairs).unbind(1)
        path = self.folder / "relabelled.jsonl"
        with open(path, "w") as file:
            for row, stays in zip(rows, (chosen >= rejected).tolist(), strict=True):
                better, worse = (row.chosen, row.rejected)[:: 1 if stays else -1]
                line = {"prompt": row.prompt, "chosen": better, "rejected": worse}
                file.write(json.dumps(line) + "\n")
        return path

    def read_back(self, method: str) -> str:
        """How many of the last round's completions have one reading in tokens, as pairs.jsonl."""
        drawn = checkpoint.load(self.folder / method).tensors
        rows = zip(drawn["drawn/tokens"].tolist(), drawn["drawn/lengths"].tolist(), strict=True)
        ids, eos = [tuple(row[:length]) for row, length in rows], self.tokenizer.eos_token_id
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        again = [(*self.tokenizer(text)["input_ids"], eos) for text in texts]
        same = sum(one == other for one, other in zip(ids, again, strict=True)) / len(ids)
        cut = sum(row[-1] != eos for row in ids) / len(ids)
        kept = f"{same:.1%} of {len(ids):,} completions keep their tokens as text"
        return f"{method}: {kept}; {cut:.1%} were cut"

    def judge(self, model: str) -> Judged:
        """Draw completions of held-out prompts, by the same random numbers for every policy."""
        policy, sft = (load_policy(name, self.tokenizer).eval() for name in (model, self.sft))
        texts, _ = read_prompts(self.world / "test_prompts.jsonl", self.tokenizer)
        room = COMMON["max_length"] - 48
        prompts = tokenize_prompts(texts, self.tokenizer, room, Report())[: self.size.prompts]
        drawn = sample(
            policy,
            prompts,
            world_score(self.tokenizer),
            self.tokenizer.eos_token_id,
            samples=self.size.samples,
            max_new_tokens=48,
            seed=self.seed,
            batch_size=400,
        )
        kl, _ = sequence_kl(policy, sft, drawn, batch_size=400)
        return Judged(drawn.rewards, kl, drawn.lengths)


def gates(found: dict[int, dict[str, Judged]]) -> list[str]:
    """Print every gate with its number, for each seed and over all prompts together."""
    lines = []
    for seed, rows in found.items():
        online, offline, frozen = (rows[name] for name in ("online", "offline", "frozen"))
        for claim, more, less in (
            ("online has more true reward than offline", online.reward, offline.reward),
            ("online has less KL than offline", offline.kl, online.kl),
            ("frozen has less true reward than online", online.reward, frozen.reward),
        ):
            gap, z = difference(more, less)
            verdict = "holds" if z > SURE else "FAILED"
            lines.append(f"seed {seed}: {claim}, by {gap}, z = {z:.1f}: {verdict}")
    print(*lines, sep="\n")
    return lines


if __name__ == "__main__":
    sys.exit(main())
