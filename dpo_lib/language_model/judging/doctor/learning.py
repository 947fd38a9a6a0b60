"""Rules about what is learned: nothing, chance, a label in the text, or a language lost."""

import math
from statistics import fmean, median, stdev

from dpo_lib.language_model.judging.doctor.evidence import CONVEX, LN2, ROUNDING, SIDES, tail
from dpo_lib.language_model.judging.training_log import Log


def language_is_lost(log: Log) -> str | None:
    """Both answers at half as many nats again and more: every token's probability is squared."""
    ends = {}
    for side in SIDES:
        logps = log.values(f"logps/{side}")
        if len(logps) < 8 or logps[0] >= 0:
            return None
        ends[side] = (logps[0], median(logps[len(logps) // 2 :]))
    if all(last < 2 * first for first, last in ends.values()):
        first, last = ends["chosen"]
        return (
            f"log-probabilities of chosen go from {first:.0f} to {last:.0f}, and of rejected "
            "likewise: the learning rate is too high and the policy forgets its language"
        )
    return None


def too_good_too_soon(log: Log) -> str | None:
    """L3, A1: duplicated rows, a label in the text, or a mask that shows the answer."""
    accuracies = dict(log.series("rewards/accuracies", "accuracy"))
    perfect = [s for s, loss in log.series("loss") if loss < 0.05 and accuracies.get(s, 0) >= 1]
    soon = len(perfect) >= 3 and perfect[0] <= 50 and perfect[0] < log.rows[-1]["step"]
    fresh = [row["step"] for row in log.fresh if accuracies.get(row["step"], 0) >= 1]
    unseen = len(log.fresh) >= 16 and len(fresh) >= len(log.fresh) / 2
    if soon or unseen:
        since = min(perfect[:1] + fresh[:1])
        where = "pairs it has not seen before" if unseen else "a loss below 0.05"
        return (
            f"accuracy is 1.0 on {where} from step {since} on: the pairs give the label away "
            "(duplicates, a fixed length or ending, chosen always the same text)"
        )
    return None


def labels_follow_nothing(log: Log) -> str | None:
    """In the first epoch each pair is scored before it is trained on: a test set for nothing."""
    fresh = log.fresh
    start = log.loss_at(0.0, 0.0)
    if len(fresh) < 16 or start is None or log.loss_name not in CONVEX:
        return None
    (mean, error), (margin, noise) = (
        (fmean(values), stdev(values) / math.sqrt(len(values)))
        for values in ([row[f"rewards/{n}"] for row in fresh] for n in ("accuracies", "margins"))
    )
    loss = fmean(row["loss"] for row in fresh[len(fresh) // 2 :])
    if mean < 0.5 + 2 * error and margin < 2 * noise and loss > start + ROUNDING:
        return (
            f"on pairs not seen before the accuracy is {mean:.3f} ± {error:.3f} and the loss "
            f"{loss:.3f}, above its start: what is learned does not carry over; labels may be "
            "random, or shuffled against the texts"
        )
    return None


def nothing_is_learned(log: Log) -> str | None:
    """Not a bug of the code, but a run to throw away: too timid, too short, or labels by chance."""
    losses, accuracies = log.values("loss"), log.values("rewards/accuracies", "accuracy")
    if min(len(losses), len(accuracies)) < 40:
        return None
    first, last, accuracy = losses[0], tail(losses), tail(accuracies)
    if max(abs(first - LN2), abs(last - LN2)) < 0.01 and abs(accuracy - 0.5) < 0.1:
        return (
            f"loss ends at {last:.4f} where it began, at ln 2, and the accuracy at {accuracy:.2f}: "
            "learning rate too low, too few steps, or labels that follow nothing in the text"
        )
    return None


def both_fall(log: Log) -> str | None:
    """Displacement: DPO sees only the difference, so both log-probabilities may sink.

    Seen in the rewards, which compare each answer with itself under the reference: the
    log-probabilities of different batches differ for many other reasons.
    """
    sides = {name: log.values(f"rewards/{name}") for name in ("chosen", "rejected", "margins")}
    if min(map(len, sides.values())) < 8:
        return None
    chosen, rejected, margin = (tail(values) for values in sides.values())
    if max(chosen, rejected) < -0.1 and margin > 0.1:
        return (
            f"rewards end at {chosen:.2f} for chosen and {rejected:.2f} for rejected while the "
            f"margin is {margin:.2f}: both became less likely, in favour of texts in neither column"
        )
    return None
