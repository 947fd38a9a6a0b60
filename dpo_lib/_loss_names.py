"""What the losses of `variants` are called and told; without torch, for the command line."""

from typing import Literal, get_args

from dpo_lib._checks import check_beta

LossName = Literal[
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "apo_zero", "apo_down", "discopop", "unlikelihood",
]  # fmt: skip
OWN = {  # what a loss is told beside beta; unlikelihood is told this only
    "cdpo": "label_smoothing",
    "robust": "label_smoothing",
    "exo_pair": "label_smoothing",
    "unlikelihood": "alpha",
}


def check_loss(name: str, beta: float, label_smoothing: float, alpha: float | None) -> str:
    """The loss that a name and its settings ask for: `sigmoid` with label smoothing is `cdpo`.

    Raises:
        ValueError: for a setting that the loss would ignore, lacks, or cannot take.
    """
    if name not in get_args(LossName):
        raise ValueError(f"loss must be one of {', '.join(get_args(LossName))}, got {name}")
    if name == "sigmoid" and label_smoothing:
        name = "cdpo"  # what the authors' code does with smoothed labels
    check_beta(beta)
    given = {"label_smoothing": label_smoothing or None, "alpha": alpha}  # 0 says nothing
    for setting, value in given.items():
        if OWN.get(name) != setting and value is not None:
            users = ", ".join(loss for loss, own in OWN.items() if own == setting)
            raise ValueError(
                f"{setting} has no effect on the loss {name}, only on {users}; got {value}"
            )
    if OWN.get(name) == "label_smoothing":
        check_label_smoothing(label_smoothing, positive=name == "exo_pair")
    if OWN.get(name) == "alpha":
        if alpha is None:
            raise ValueError(f"the loss {name} needs alpha")
        check_alpha(alpha)
    return name


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
