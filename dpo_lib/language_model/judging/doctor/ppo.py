"""Rules about PPO: its samples must be scored by the policy that drew them."""

import math
from itertools import groupby
from statistics import fmean, stdev

from dpo_lib.language_model.judging.training_log import Log


def kl_is_negative(log: Log) -> str | None:
    """J2: a KL divergence is at least 0, so the mean of its estimates is, up to noise."""
    kl = log.values("objective/kl", "kl")
    kl = [value for value, _ in groupby(kl)]  # one for each iteration, not for each of its steps
    late = kl[len(kl) // 2 :]
    if len(late) < 5:
        return None
    mean, error = fmean(late), stdev(late) / math.sqrt(len(late))
    if mean < -4 * error and mean < -1e-3:
        return (
            f"KL averages {mean:.3f} ± {error:.3f} over the last {len(late)} rows: samples are "
            "scored under another temperature, mask or model than they were drawn from"
        )
    return None


def ratio_is_not_one(log: Log) -> str | None:
    """J3, J6: before the first update the policy is the one that drew the samples."""
    names = ("ratio/first", "policy/first_ratio", "ratio_first")
    far = [(s, v) for s, v in log.series(*names) if not abs(v - 1) <= 1e-3]
    if far:
        step, ratio = far[0]
        return (
            f"probability ratio of the first epoch is {ratio:.4f} at step {step}, not 1: dropout, "
            "temperature or padding differ between sampling and scoring"
        )
    return None
