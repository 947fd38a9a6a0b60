"""What scripts/fair_trial.py and scripts/length.py tried, and what came of it on fresh seeds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.language_model.judging.statistics import Estimate, difference
from dpo_lib.results.stored import STORED, read


@dataclass(frozen=True)
class Judged:
    """One policy, by completions of held-out prompts that are the same for all of its seed."""

    method: str
    rule: str  # how the setting was chosen: "tuned", "near" or "shared"
    lr: float
    beta: float
    steps: int
    reward: Tensor  # true reward, the mean of each prompt's completions, shape (prompts,)
    kl: Tensor  # to the SFT model, nats, the same shape
    learned: float  # mean learned reward
    length: float  # mean, tokens
    ended: float  # share of completions that stop by themselves
    seconds: float  # of training, on the machine that is named beside the result


@dataclass(frozen=True)
class Seed:
    """One world with its SFT and reward model, and the policies that came of them."""

    seed: int
    sft: Tensor  # true reward of the SFT model, shape (prompts,)
    sft_learned: float
    sft_length: float
    sft_ended: float
    accuracy: float  # of the reward model, on held-out pairs
    best_of: dict[str, dict[str, float]]  # by "true" or "learned": N -> true reward
    roof_beta: Tensor  # shape (betas,)
    roof_log_z: Tensor  # log E_ref[exp(r / beta)], the same shape
    policies: list[Judged]

    def roof(self, kl: float) -> float:
        """The most true reward that a KL of so many nats can buy: chapter 17, step 3."""
        return (self.roof_beta * (kl + self.roof_log_z)).min().item()


@dataclass(frozen=True)
class FairTrial:
    """What was tried on one seed, what was chosen there, and what came of it on others."""

    about: dict
    grid: list[dict]  # method, lr, beta, steps; learned, reward and kl, means over prompts
    chosen: dict[str, dict[str, dict]]  # rule -> method -> lr, beta, steps
    seeds: list[Seed]

    def policies(self, method: str, rule: str = "near") -> list[Judged]:
        """One for each seed.

        Args:
            rule: "tuned", the most learned reward; "near", the most at a KL of at most 10 nats;
                "shared", one setting for all.

        Raises:
            ValueError: no policy was trained so.
        """
        found = [p for s in self.seeds for p in s.policies if (p.method, p.rule) == (method, rule)]
        if not found:
            raise ValueError(f"{method!r} by the rule {rule!r} is not in the trial")
        return found

    def compare(
        self, method: str, other: str, figure: str = "reward", rule: str = "near"
    ) -> list[tuple[Estimate, float]]:
        """How much more of "reward" or "kl" a method has than another: a difference and z a seed.

        Paired over the prompts of the seed; see `judging.difference`.
        """
        both = zip(self.policies(method, rule), self.policies(other, rule), strict=True)
        return [
            difference(*(getattr(p, figure).unsqueeze(-1) for p in policies)) for policies in both
        ]


def fair_trial() -> FairTrial:
    """What scripts/fair_trial.py has stored.

    Raises:
        ResultError: if it is damaged, in one line.
    """
    found = read(STORED / "fair_trial.json")
    return FairTrial(
        found["about"], found["grid"], found["chosen"], [_seed(part) for part in found["seeds"]]
    )


def _seed(part: dict) -> Seed:
    roof = {f"roof_{name}": _numbers(values) for name, values in part["roof"].items()}
    rows = [
        Judged(**row | {name: _numbers(row[name]) for name in ("reward", "kl")})
        for row in part["rows"]
    ]
    kept = {n: x for n, x in part.items() if n not in ("roof", "rows", "sft")}
    return Seed(**kept, **roof, sft=_numbers(part["sft"]), policies=rows)


def _numbers(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Answers:
    """What one policy writes: for each held-out prompt the mean of its completions, (prompts,)."""

    reward: Tensor  # true reward
    length: Tensor  # tokens
    kl: Tensor  # to the SFT model, nats
    ended: Tensor  # share of completions that stop by themselves


@dataclass(frozen=True)
class LengthTrial:
    """Settings that were tried on one seed, and what came of the best on others."""

    about: dict
    gamma: float  # what a token is worth to the labellers, reward units
    grid: list[dict]  # method, lr, beta, steps; reward, length and kl, means over prompts
    chosen: dict[str, dict]  # method -> lr, beta, steps
    seeds: list[dict[str, Answers]]  # of each seed by method, and "SFT"

    def mean(self, method: str, figure: str) -> float:
        """The mean over seeds of a figure of `Answers`."""
        return sum(getattr(seed[method], figure).mean().item() for seed in self.seeds) / len(
            self.seeds
        )

    def compare(self, method: str, other: str, figure: str) -> list[tuple[Estimate, float]]:
        """How much more a method has of a figure than another: a difference and z a seed.

        Paired over the prompts of the seed; see `judging.difference`.
        """
        return [
            difference(*(getattr(seed[name], figure).unsqueeze(-1) for name in (method, other)))
            for seed in self.seeds
        ]


def length_trial() -> LengthTrial:
    """What scripts/length.py has stored.

    Raises:
        ResultError: if it is damaged, in one line.
    """
    found = read(STORED / "length.json")
    seeds = []
    for part in found["seeds"]:
        by_method = {"SFT": part["sft"]} | {row["method"]: row for row in part["rows"]}
        seeds.append({name: _answers(row) for name, row in by_method.items()})
    kept = (found[name] for name in ("about", "gamma", "grid", "chosen"))
    return LengthTrial(*kept, seeds)


def _answers(row: dict) -> Answers:
    figures = (row[name] for name in Answers.__dataclass_fields__)
    return Answers(*(torch.tensor(values, dtype=torch.float64) for values in figures))
