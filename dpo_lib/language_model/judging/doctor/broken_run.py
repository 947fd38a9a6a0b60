"""Rules about a run that cannot be trusted whatever it trains: NaN, broken steps, no updates."""

import math
from itertools import pairwise
from statistics import median

from dpo_lib.language_model.judging.doctor.evidence import is_still
from dpo_lib.language_model.judging.training_log import Log


def not_finite(log: Log) -> str | None:
    """H1: one NaN poisons every later step."""
    bad = [(s, n) for n in ("loss", "grad_norm") for s, v in log.series(n) if not math.isfinite(v)]
    if bad:
        step, name = min(bad)
        return f"{name} is not finite at step {step} ({len(bad)} such values); all after it is lost"
    return None


def steps_are_broken(log: Log) -> str | None:
    """K1-K4: a resume that repeats or skips steps."""
    steps = [row["step"] for row in log.rows]
    jumps = [b - a for a, b in pairwise(steps)]
    back = [i for i, jump in enumerate(jumps) if jump <= 0]
    if back:
        a, b = steps[back[0]], steps[back[0] + 1]
        return f"step {b} comes after step {a}: a resume repeated steps or two runs share this log"
    usual = median(jumps) if jumps else 0
    gaps = [i for i, jump in enumerate(jumps[:-1]) if jump > 1.5 * usual]
    if gaps:
        a, b = steps[gaps[0]], steps[gaps[0] + 1]
        return f"no row between step {a} and step {b} (usually every {usual:g}): steps were skipped"
    return None


def learning_rate_is_zero(log: Log) -> str | None:
    rates = log.values("learning_rate", "lr")
    if len(rates) > 1 and max(rates) == 0:
        return f"learning_rate is 0 in all {len(rates)} rows: nothing is trained"
    return None


def nothing_moves(log: Log) -> str | None:
    """C1: no completion token is scored, or the optimiser holds other weights."""
    if is_still(log) and max(log.values("grad_norm"), default=0) == 0:
        return (
            f"the margin is 0 and the gradient too for {len(log.rows)} rows: the optimiser "
            "holds other weights, or completions are empty"
        )
    return None


def gradients_explode(log: Log) -> str | None:
    norms = log.series("grad_norm")
    finite = [norm for _, norm in norms if math.isfinite(norm)]
    usual = median(finite[: max(5, len(finite) // 4)]) if len(finite) >= 10 else math.inf
    large = [(step, norm) for step, norm in norms if usual > 0 and norm > 100 * usual]
    if large:
        step, norm = large[0]
        times = f"{norm / usual:.0f} times the usual {usual:.3g}"
        return f"grad_norm is {norm:.3g} at step {step}, {times}"
    return None
