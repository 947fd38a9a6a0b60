"""What the losses of `variants` are called and told; without torch, for the command line."""

import math
from typing import Literal, get_args

from dpo_lib._checks import check_beta

LossName = Literal[
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "apo_zero", "apo_down", "discopop", "unlikelihood", "dpop", "rdpo", "sigmoid_norm", "simpo",
    "orpo",
]  # fmt: skip
DivergenceName = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
OWN = {  # what a loss is told beside beta; unlikelihood is told this only
    "cdpo": "label_smoothing",
    "robust": "label_smoothing",
    "exo_pair": "label_smoothing",
    "unlikelihood": "alpha",
    "dpop": "dpop_lambda",
    "rdpo": "rdpo_alpha",
    "simpo": "simpo_gamma",
}
TOLD = {  # all that can be said beside name and beta, and what says nothing
    "label_smoothing": 0.0,
    "alpha": None,
    "dpop_lambda": None,
    "rdpo_alpha": None,
    "simpo_gamma": None,
    "rpo_alpha": None,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": None,
}
# Losses in which f'(t) may stand for log t: they see two log-ratios by their difference.
OF_A_DIFFERENCE = (
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "exo_pair", "discopop", "sigmoid_norm",
)  # fmt: skip


def check_loss(name: str, beta: float, **told: float | str | None) -> str:
    """The loss that a name and its settings ask for: `sigmoid` with label smoothing is `cdpo`.

    Args:
        told: settings of `TOLD`; what is left out says nothing.

    Raises:
        ValueError: for a setting that the loss would ignore, lacks, or cannot take.
    """
    told = TOLD | told
    if name not in get_args(LossName):
        raise ValueError(f"loss must be one of {', '.join(get_args(LossName))}, got {name}")
    if name == "sigmoid" and told["label_smoothing"]:
        name = "cdpo"  # what the authors' code does with smoothed labels
    check_beta(beta)
    for setting in dict.fromkeys(OWN.values()):
        if OWN.get(name) != setting and told[setting] != TOLD[setting]:
            users = ", ".join(loss for loss, own in OWN.items() if own == setting)
            raise ValueError(
                f"{setting} has no effect on the loss {name}, only on {users}; got {told[setting]}"
            )
    if OWN.get(name) == "label_smoothing":
        check_label_smoothing(told["label_smoothing"], positive=name == "exo_pair")
    if OWN.get(name) == "alpha":
        if told["alpha"] is None:
            raise ValueError(f"the loss {name} needs alpha")
        check_alpha(told["alpha"])
    if name == "rdpo" and told["rdpo_alpha"] is None:
        raise ValueError(
            "the loss rdpo needs rdpo_alpha: the reward units that labellers give a token"
        )
    if name == "orpo" and told["rpo_alpha"] is not None:
        raise ValueError(
            f"orpo has an SFT term already: leave out rpo_alpha, got {told['rpo_alpha']}"
        )
    for setting in ("dpop_lambda", "rdpo_alpha", "simpo_gamma", "rpo_alpha"):
        value = told[setting]
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{setting} must be at least 0 and finite, got {value}")
    _check_divergence(name, told["f_divergence_type"], told["f_alpha_divergence_coef"])
    return name


def _check_divergence(name: str, divergence: str, coefficient: float | None) -> None:
    known = get_args(DivergenceName)
    if divergence not in known:
        raise ValueError(f"f_divergence_type must be one of {', '.join(known)}, got {divergence}")
    if divergence != "reverse_kl" and name not in OF_A_DIFFERENCE:
        raise ValueError(
            f"f_divergence_type has a meaning for {', '.join(OF_A_DIFFERENCE)} only, "
            f"not for {name}; got {divergence}"
        )
    if coefficient is not None and divergence != "alpha_divergence":
        raise ValueError(
            f"f_alpha_divergence_coef has no effect on {divergence}, only on alpha_divergence; "
            f"got {coefficient}"
        )
    if coefficient is not None and not math.isfinite(coefficient):
        raise ValueError(f"f_alpha_divergence_coef must be finite, got {coefficient}")


def check_label_smoothing(label_smoothing: float, positive: bool = False) -> float:
    """Return a share of wrong labels that lies in [0, 1/2), or with `positive` in (0, 1/2)."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 1/2), got {label_smoothing}")
    if positive and label_smoothing == 0:
        raise ValueError(f"label_smoothing must be positive in exo_pair, got {label_smoothing}")
    return label_smoothing


def check_alpha(alpha: float) -> float:
    """Return the weight of a rejected answer if it lies in [0, 1]."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    return alpha
