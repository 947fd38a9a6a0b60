"""The trained policies of one seed on held-out prompts: rewards, KL, win rates, Best-of-N."""

import math
from pathlib import Path

import torch

from dpo_lib.language_model.data.order import derive_seed
from dpo_lib.language_model.data.reading import read_preferences
from dpo_lib.language_model.data.tokens import tokenize_preferences
from dpo_lib.language_model.generation.samples import sample, sequence_kl
from dpo_lib.language_model.judging.statistics import (
    best_of,
    best_of_kl,
    difference,
    estimate,
    win_rate,
)
from dpo_lib.language_model.models.devices import pick_device
from dpo_lib.language_model.models.judges import load_judge, world_score
from dpo_lib.language_model.models.policies import frozen_copy, load_policy, load_tokenizer
from dpo_lib.language_model.scoring.logprobs import pair_logps
from dpo_lib.language_model.stages.reward import correct, rewards_of
from dpo_lib.results.plan import Plan, numbers, stages


class Judge:
    """What judges the policies of one seed: held-out prompts, and both rewards.

    Completions of one seed share their random numbers, so that differences are sharper; those
    of the SFT model that all are compared with, and that Best-of-N chooses from, have their own.
    """

    size = 256  # completions or pairs of one forward pass

    def __init__(self, plan: Plan, seed: int, out: Path):
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
        folder = str(self.runs / name / "model")
        return load_policy(folder, self.tokenizer).to(self.device).eval()

    @torch.no_grad()
    def logps(self, model) -> torch.Tensor:
        """Log-probabilities of the held-out pairs, shape (pairs, 2): chosen, rejected."""
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
        drawing = dict(samples=samples, temperature=temperature, batch_size=self.size)
        drawing |= dict(seed=derive_seed(self.seed, stream))
        drawing |= dict(max_new_tokens=self.plan.max_new_tokens)
        eos = self.tokenizer.eos_token_id
        return sample(model, self.prompts, self.true_reward, eos, **drawing)

    def policy(self, name: str, temperatures: list[float]) -> list[dict]:
        """One row for each temperature."""
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
            row["accuracy"] = accuracy if t == 1 else None
            if self.plan.lrs and t == 1:
                row["texts"] = self.texts(drawn)
            rows.append(row)
        return rows

    def texts(self, drawn, count: int = 10) -> list[list[str]]:
        """Prompt and first completion, with its end, of the first prompts."""
        shown = drawn.sequences[:: self.plan.samples][:count]
        return [[self.tokenizer.decode(list(part)) for part in pair] for pair in shown]

    def accuracy(self, model) -> dict:
        """How often the implicit reward ranks a held-out pair as its label does."""
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
        "roof": roof_of(court.base.rewards),
        "chosen_reward": means(court.chosen),
        "reward_accuracy": proportion(correct(ranks[:, 0], ranks[:, 1])),
        "gpu_agreement_nats": agreement(court.reference, court.pairs[:16]),
    }


def means(values: torch.Tensor) -> dict:
    """The mean of (prompts, samples) with the standard error over prompts."""
    return estimate(values).record


def roof_of(rewards: torch.Tensor) -> dict:
    """By the SFT model's own draws, what bounds the true reward of a policy at each KL.

    It is reached by the policies (4): a KL of k buys at most beta (k + log_z), whatever beta is.
    """
    rewards = rewards.double().flatten()
    betas = torch.logspace(-1.5, 1.5, 61, dtype=torch.float64)
    log_z = (rewards / betas[:, None]).logsumexp(-1) - math.log(len(rewards))
    return {"beta": betas.tolist(), "log_z": log_z.tolist(), "draws": len(rewards)}


def powers(n: int) -> list[int]:
    """1, 2, 4, ... below n, and n."""
    return sorted({2**k for k in range(n.bit_length())} | {n})


def best_row(n: int, temperature: float, rewards, learned, chosen) -> dict:
    """Best-of-n as the paper has it, chosen by the learned reward; and by the true one."""
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
    if model.device.type == "cpu":
        return None
    there = pair_logps(model, pairs).cpu()
    return (there - pair_logps(frozen_copy(model).cpu(), pairs)).abs().max().item()
