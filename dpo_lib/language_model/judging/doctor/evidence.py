"""What the rules look at: the start of a log, its end, a slope."""

import math
from statistics import fmean, stdev

from dpo_lib.language_model.judging.training_log import EXACT, Log

LN2 = math.log(2)
CONVEX = {"sigmoid", "cdpo", "robust", "hinge", "ipo"}  # in the margin, and of nothing else
ROUNDING = 5e-3  # bf16 and averages over a batch
SIDES = ("chosen", "rejected")


def is_still(log: Log) -> bool:
    """No margin ever differs from 0, and the loss stays at ln 2."""
    losses, margins = log.values("loss"), log.values("rewards/margins")
    still = log.is_dpo and len(losses) > 2 and max(map(abs, margins), default=1) == 0
    return still and max(losses) - min(losses) < EXACT


def has_its_own_reference(log: Log) -> bool:
    """The settings name a reference other than the model, so nothing need start at margin 0."""
    return log.settings.get("reference") not in (None, log.settings.get("model"))


def not_zero_at_the_start(log: Log) -> list[str]:
    """The rewards of the first step that are not 0, in words."""
    if has_its_own_reference(log):
        return []
    starts = {side: log.start(f"rewards/{side}") for side in SIDES}
    return [f"{n} {v:.4f}" for n, v in starts.items() if v is not None and abs(v) > ROUNDING]


def fitted_slope(x: list[float], y: list[float]) -> tuple[float, float]:
    """Slope of y on x by least squares, and its standard error."""
    spread = math.fsum((a - fmean(x)) ** 2 for a in x)
    if spread == 0:
        return 0.0, math.inf
    slope = math.fsum((a - fmean(x)) * b for a, b in zip(x, y, strict=True)) / spread
    left = [b - slope * a for a, b in zip(x, y, strict=True)]
    return slope, stdev(left) * math.sqrt((len(x) - 1) / (len(x) - 2) / spread)


def head(values: list[float]) -> float:
    """The mean of the first eighth."""
    return fmean(values[: max(1, len(values) // 8)])


def tail(values: list[float]) -> float:
    """The mean of the last quarter."""
    return fmean(values[-max(1, len(values) // 4) :])
