"""TRL's own value of each loss at given log-probabilities, for the tests to be held to.

Its trainers are told what a model would have said, in float64. `tests/test_trl.py` has ours equal
to as many digits as `digits` says: a few parts of TRL are float32 whatever they are given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from oracle.folders import pairs_as_text
from oracle.losses import exact_heads, make_trainer, with_blanks


@dataclass(frozen=True)
class Case:
    """A pair: log-probabilities of chosen and rejected under policy, then reference; lengths."""

    logps: tuple[float, float, float, float]
    lengths: tuple[int, int]
    beta: float
    label_smoothing: float


CASES = (
    Case((-34.5, -41.25, -36.0, -40.5), (5, 8), 0.5, 0.1),
    Case((-3.0, -7.0, -3.5, -6.25), (2, 2), 1.0, 0.001),
    Case((-12.0, -9.5, -10.25, -11.0), (9, 4), 0.1, 0.25),
)


def dpo(trainer: DPOTrainer, case: Case) -> float:
    """What its loss is if the log-probabilities are these, each all in its first token."""
    mask = torch.zeros(2, 1 + max(case.lengths), dtype=torch.long)
    for row, length in enumerate(case.lengths):
        mask[row, 1 : 1 + length] = 1
    # In float64 its alpha divergence ends with a KeyError.
    alpha = trainer.f_divergence_type == "alpha_divergence"

    def model(*logps: float) -> Callable:
        per_token = torch.zeros(mask[:, 1:].shape, dtype=torch.float32 if alpha else torch.float64)
        per_token[:, 0] = torch.tensor(logps)
        return lambda **_: with_blanks(per_token)

    trainer.ref_model = model(*case.logps[2:])
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": mask, "completion_mask": mask}
    policy = model(*case.logps[:2])
    return trainer._compute_loss(policy, inputs, return_outputs=False).item()


def simpo(trainer: CPOTrainer, case: Case) -> float:
    return trainer.cpo_loss(*_means(case))[0].item()


def cdpo(trainer: CPOTrainer, case: Case) -> float:
    """CPO's smoothed loss, which has no reference, at the log-ratios."""
    chosen, rejected, *reference = (torch.tensor([logp]) for logp in case.logps)
    return trainer.cpo_loss(chosen - reference[0], rejected - reference[1])[0].item()


def orpo(trainer: ORPOTrainer, case: Case) -> float:
    """The mean negative log-probability of the chosen answer, and its odds-ratio part."""
    chosen, rejected = _means(case)
    return (-chosen - trainer.odds_ratio_loss(chosen, rejected)[0]).item()


def _means(case: Case) -> list[torch.Tensor]:
    pairs = zip(case.logps[:2], case.lengths, strict=True)
    return [torch.tensor([logp / length]) for logp, length in pairs]


@dataclass(frozen=True)
class Formula:
    """A loss of ours at `CASES`.

    name, settings: of `choose_loss`, beside beta and what `smoothed` says.
    theirs: settings of TRL's beside beta and label_smoothing.
    per_token: ours is taken at log-probabilities divided by their lengths.
    """

    name: str
    settings: dict
    theirs: dict
    trainer: type = DPOTrainer
    value: Callable = dpo
    smoothed: bool = False
    per_token: bool = False
    digits: int = 12

    @classmethod
    def same(cls, name: str, **more) -> "Formula":
        return cls(name, {}, {"loss_type": name}, **more)

    @classmethod
    def divergence(cls, name: str, digits: int = 12, **settings: float) -> "Formula":
        settings = {"f_divergence_type": name, **settings}
        return cls("sigmoid", settings, {"loss_type": "sigmoid", **settings}, digits=digits)


FORMULAS = (
    *map(Formula.same, ("sigmoid", "hinge", "nca_pair", "bco_pair", "sppo_hard", "apo_zero",
                        "apo_down", "discopop", "sigmoid_norm")),
    Formula.same("ipo", per_token=True),
    Formula.same("robust", smoothed=True),
    Formula.same("exo_pair", smoothed=True),
    Formula("cdpo", {}, {"loss_type": "sigmoid", "cpo_alpha": 0.0}, CPOTrainer, cdpo, True),
    Formula("simpo", {"simpo_gamma": 0.5},
            {"loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0}, CPOTrainer, simpo),
    Formula("orpo", {}, {}, ORPOTrainer, orpo, digits=6),
    Formula("sigmoid", {"rpo_alpha": 0.5},
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    Formula.divergence("forward_kl"),
    Formula.divergence("js_divergence"),
    Formula.divergence("alpha_divergence", 6, f_alpha_divergence_coef=0.5),
)  # fmt: skip


def compute(folder: Path, tokenizer) -> list[dict]:
    """Each formula as JSON, with TRL's values at `CASES`."""
    rows = pairs_as_text(1)

    def value(formula: Formula, case: Case) -> float:
        smoothing = {"label_smoothing": case.label_smoothing} if formula.smoothed else {}
        settings = formula.theirs | {"beta": case.beta} | smoothing
        trainer = make_trainer(formula.trainer, folder, "gpt2", tokenizer, rows, **settings)
        return formula.value(trainer, case)

    with exact_heads():
        return [
            {
                "loss": formula.name,
                "settings": formula.settings,
                "smoothed": formula.smoothed,
                "per_token": formula.per_token,
                "digits": formula.digits,
                "values": [value(formula, case) for case in CASES],
            }
            for formula in FORMULAS
        ]
