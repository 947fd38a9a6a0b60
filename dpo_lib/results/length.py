"""What scripts/length.py found: losses on labels that like length, and on labels that do not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.language_model.judging.statistics import Estimate, difference
from dpo_lib.results.stored import STORED, read


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
