"""What the rules look at: the start of a log, its end, a slope."""

import math
from statistics import fmean, stdev

from dpo_lib.language_model.judging.training_log import EXACT, Log, is_number
from dpo_lib.language_model.settings import MOVING, START

LN2 = math.log(2)
CONVEX = {"sigmoid", "cdpo", "robust", "hinge", "ipo"}  # in the margin
ROUNDING = 5e-3  # four decimals, and averages over a batch
SHOWN = 5e-5  # the least that a log of four decimals shows
NATS = 1.0  # by which 16 bits may move the log-probability of one answer
SIDES = ("chosen", "rejected")


def is_still(log: Log) -> bool:
    """The margin is 0, now and then but for float32's last bit, and the loss stays at ln 2."""
    losses, margins = log.values("loss"), log.values("rewards/margins")
    if not log.is_dpo or len(losses) < 3:
        return False
    still = margins.count(0.0) > len(margins) / 2 and max(map(abs, margins)) < EXACT
    return still and max(losses) - min(losses) < EXACT


def is_convex(log: Log) -> bool:
    """The loss is convex in the logged margin and sees nothing else: Jensen's bound holds."""
    plain = log.divergence == "reverse_kl" and not log.sees_more
    return log.loss_name in CONVEX and plain


def has_its_own_reference(log: Log) -> bool:
    """The settings name a reference other than the model, so nothing need start at margin 0."""
    return log.settings.get("reference") not in (*START, log.settings.get("model"))


def reference_follows(log: Log) -> bool:
    """The reference is the policy as each round of online DPO begins, or nobody says it is not."""
    return log.draws and log.settings.get("reference", MOVING) == MOVING


def rounding(log: Log, pairs: int | None = None) -> float:
    """How far from 0 precision alone may bring the mean reward of the first batch, reward units.

    A reference that is held or scored in 16 bits gives rewards that are not quite 0 in healthy
    runs, DPO's own first ones among them (eric-mitchell/direct-preference-optimization, issue
    34). Logits of 50,257 tokens rounded to bfloat16 moved answers of 200 tokens by -0.23, 0.35
    and -0.20 nats, to float16 by 0.003, -0.003 and 0.026. Four times their spread is `NATS`, and
    the mean over a batch has `NATS` beta / sqrt(batch). Where the settings do not say, beta is
    TRL's 0.1 and the batch one pair; `pairs` asks for the mean over another number.
    """
    beta, size = (log.settings.get(name) for name in ("beta", "batch_size"))
    beta = beta if is_number(beta) else 0.1
    size = pairs or (size if is_number(size) and size >= 1 else 1)
    return max(ROUNDING, beta * NATS / math.sqrt(size))


def not_zero_at_the_start(log: Log, least: float | None = None) -> list[str]:
    """The rewards of the first step that are further from 0 than `least` (rounding), in words."""
    if has_its_own_reference(log):
        return []
    least = rounding(log) if least is None else least
    starts = {side: log.start(f"rewards/{side}") for side in SIDES}
    return [f"{n} {v:.4f}" for n, v in starts.items() if v is not None and abs(v) > least]


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
