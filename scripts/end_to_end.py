"""The whole of `dpo_lib.language_model` on a laptop: `python scripts/end_to_end.py [FOLDER]`.

World, SFT, reward model, DPO, PPO and evaluation through the command line alone, from random
weights, with no download; at the end it asserts what the paper claims, on held-out prompts. The
preferences are those of the paper's section 6.1: the true reward decides; 4,000 pairs.
FOLDER keeps the runs (a temporary one is thrown away); run again, it goes on where it stopped.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = ["--optimizer", "adamw", "--warmup-steps", "10", "--log-every", "25", "--resume"]


def dpo(*arguments: object) -> None:
    """Run one command of `dpo` and say what it took."""
    command = [str(argument) for argument in arguments]
    print("$ dpo", *command, flush=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dpo_lib", *command], check=True)
    print(f"# {command[0]}: {time.perf_counter() - started:.0f} s\n", flush=True)


def main(folder: Path) -> None:
    world, sft, reward = folder / "world", folder / "sft", folder / "reward"
    if not world.exists():
        # The settings below were chosen on the world of seed 0: this one is fresh.
        dpo("world", "--out", world, "--pairs", 4000, "--labels", "deterministic", "--seed", 1)
    data, start = ["--data", world], ["--model", sft / "model", "--data", world]
    dpo("check", *data, "--model", "tiny")
    dpo("sft", "--model", "tiny", *data, "--out", sft, "--steps", 250, "--lr", 1e-3, *TRAIN)
    dpo("reward", *start, "--out", reward, "--steps", 125, "--lr", 1e-3, *TRAIN)
    policy = [*start, "--beta", 0.3, *TRAIN]
    dpo("dpo", *policy, "--out", folder / "dpo", "--steps", 62, "--lr", 1e-4)
    rollouts = ["--minibatches", 2, "--epochs", 2, "--max-new-tokens", 64]
    ppo = ["--reward", reward / "model", "--steps", 60, "--lr", 5e-4, *rollouts]
    dpo("ppo", *policy, "--out", folder / "ppo", *ppo)
    for run in (sft, reward, folder / "dpo", folder / "ppo"):
        dpo("doctor", run)  # exit code 1, and so an error here, if it suspects a bug
    held_out = [*data, "--prompts", 250, "--samples", 4]  # test_prompts.jsonl
    models = ["--model", folder / "dpo/model", folder / "ppo/model"]
    report = folder / "evaluation.json"
    drawing = ["--max-new-tokens", 96, "--best-of", 16, "--batch-size", 250, "--out", report]
    dpo("evaluate", *models, "--reference", sft / "model", *held_out, *drawing)
    check(json.loads(report.read_text()))


def check(report: dict) -> None:
    """DPO's policy has more true reward than the SFT model, at a KL that is finite and known."""
    by_dpo, by_ppo = report["policies"]
    for name, row in (("DPO", by_dpo), ("PPO", by_ppo)):
        gain, kl = row["gain"]["mean"], row["kl"]["mean"]
        print(f"{name}: true reward + {gain:.3f} (z = {row['z']:.1f}) at KL {kl:.2f} nats")
        assert row["z"] > 4, f"{name} is no better than SFT: z = {row['z']:.1f}"
        assert row["kl"]["interval"][0] > 0, f"{name} has not left the reference: KL {kl:.3f}"
    rewards = [row["reward"]["mean"] for row in report["best_of"]]
    assert rewards == sorted(rewards), f"Best-of-N must rise with N, got {rewards}"
    print("all claims hold")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
