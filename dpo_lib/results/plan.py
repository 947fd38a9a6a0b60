"""What section 6.1 takes: its settings, and the commands of `dpo` that they mean."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run. The defaults are for "tiny"; a larger model wants smaller learning rates."""

    out: str
    """Folder of the runs; frontier.json is written into it."""
    model: str = "tiny"
    """tiny, small, gpt2-random, gpt2 (from the hub), or a folder."""
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
    lrs: str = ""
    """Of DPO, each with each of betas, and watched on held-out pairs; `lr` alone if empty."""
    methods: str = "Preferred-FT Unlikelihood PPO PPO-GT"
    """Beside DPO."""
    lora: int = 0
    """Rank of one more DPO, at `beta` and ten times `lr`; none if 0."""
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

    def dpo_runs(self) -> dict[str, tuple[float, float]]:
        """Name -> beta and learning rate of the runs of DPO with all weights."""
        betas = numbers(self.betas)
        if not self.lrs:
            return {f"DPO {b:g}": (b, self.lr) for b in betas}
        return {f"DPO {b:g} at {lr:g}": (b, lr) for b in betas for lr in numbers(self.lrs)}


def stages(plan: Plan, seed: int, out: Path) -> dict[str, list]:
    """Name -> command, in the order in which they depend on each other."""
    world, runs = out / "world", out / f"seed-{seed}"
    common = ["--data", world, "--seed", seed, "--batch-size", plan.batch_size]
    common += ["--accumulate", plan.accumulate, "--optimizer", "adamw", "--warmup-steps", 10]
    common += ["--log-every", 25, "--save-every", 50, "--resume"]
    start = ["--model", runs / "SFT/model", *common]
    fit = ["--steps", plan.steps, "--lr"]
    watched = ["--eval-data", world / "watched.jsonl", "--eval-every", max(1, plan.steps // 6)]
    draw = ["--steps", plan.ppo_steps, "--lr", plan.ppo_lr, "--beta", plan.beta]
    draw += ["--minibatches", 2, "--epochs", 2, "--max-new-tokens", min(64, plan.max_new_tokens)]
    slow = ["--lr", plan.sft_lr, "--steps"]
    twice = ["--batch-size", 2 * plan.batch_size]
    preferred = ["sft", *start, *fit, plan.lr, "--data", world / "preferences.jsonl"]
    unlikelihood = ["--loss", "unlikelihood", "--alpha", plan.alpha]
    others = {
        "Preferred-FT": preferred,
        "Unlikelihood": ["dpo", *start, *fit, plan.lr, *unlikelihood],
        "PPO": ["ppo", *start, *draw, "--reward", runs / "reward/model"],
        "PPO-GT": ["ppo", *start, *draw, "--reward", "true"],
    }
    found = {
        "SFT": ["sft", "--model", plan.model, *common, *slow, plan.sft_steps],
        "reward": ["reward", *start, *slow, plan.reward_steps, *twice],
    }
    for name, (beta, lr) in plan.dpo_runs().items():
        found[name] = ["dpo", *start, *fit, lr, "--beta", beta, *watched * bool(plan.lrs)]
    if plan.lora:
        adapter = ["--lora", plan.lora, "--beta", plan.beta]
        found[f"LoRA {plan.beta:g}"] = ["dpo", *start, *fit, 10 * plan.lr, *adapter]
    found |= {name: others[name] for name in plan.methods.split()}
    return {name: [*command, "--out", runs / name] for name, command in found.items()}


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]
