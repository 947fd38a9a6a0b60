"""Rules about what is learned: nothing, chance, a label in the text, the training pairs alone."""

import math
from statistics import fmean, median, stdev

from dpo_lib.language_model.judging.doctor.evidence import (
    LN2,
    ROUNDING,
    SIDES,
    is_convex,
    tail,
)
from dpo_lib.language_model.judging.training_log import EXACT, Log, is_finite


def language_is_lost(log: Log) -> str | None:
    """Both answers at half as many nats again and more: every token's probability is squared.

    Answers that the policy draws itself may have grown longer.
    """
    ends = {}
    for side in SIDES:
        logps = log.values(f"logps/{side}")
        if log.draws or len(logps) < 8 or logps[0] >= 0:
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
    since = _perfect_since(log)
    soon = since is not None and since <= 50 and since < log.rows[-1]["step"] and not log.draws
    fresh = [(row["step"], row["rewards/accuracies"]) for row in log.fresh]
    perfect = [step for step, accuracy in fresh if accuracy >= 1]
    late = [accuracy for _, accuracy in fresh[len(fresh) // 2 :]]
    unseen = len(fresh) >= 16 and len(perfect) >= len(fresh) / 2 and fmean(late) > 0.95
    if soon or unseen:
        first = min([since] * soon + perfect[:1] * unseen)
        where = "pairs it has not seen before" if unseen else "a loss below 0.05"
        return (
            f"accuracy is 1.0 on {where} from step {first} on: the pairs give the label away "
            "(duplicates, a fixed length or ending, chosen always the same text)"
        )
    return None


def pairs_are_known_by_heart(log: Log) -> str | None:
    """Not a bug of the code: too many epochs, seen without held-out pairs."""
    since, again = _perfect_since(log), _met_again(log)
    fresh = [row["rewards/accuracies"] for row in log.fresh]
    if since is None or not fresh or fmean(fresh) > 0.9 or since <= log.fresh[-1]["step"]:
        return None
    return (
        f"accuracy is 1.0 and the loss below 0.05 from step {since} on, over pairs met up to "
        f"{math.ceil(again[-1]['epoch'] - EXACT)} times; met first, they had {fmean(fresh):.2f}: "
        "they are remembered; take fewer epochs, more pairs or a lower learning rate"
    )


def labels_follow_nothing(log: Log) -> str | None:
    """In the first epoch each pair is scored before it is trained on: a test set for nothing.

    An error of 0.03 is that of 280 pairs; fewer say nothing either way.
    """
    fresh = log.fresh
    start = log.loss_at(0.0, 0.0)
    if len(fresh) < 16 or start is None or not is_convex(log):
        return None
    (mean, error), (margin, noise) = (
        (fmean(values), stdev(values) / math.sqrt(len(values)))
        for values in ([row[f"rewards/{n}"] for row in fresh] for n in ("accuracies", "margins"))
    )
    loss = fmean(row["loss"] for row in fresh[len(fresh) // 2 :])
    chance = error < 0.03 and mean - 0.5 < 2 * error
    if chance and margin < 2 * noise and loss > start + ROUNDING:
        return (
            f"on pairs not seen before the accuracy is {mean:.3f} ± {error:.3f} and the loss "
            f"{loss:.3f}, above its start: what is learned does not carry over; labels may be "
            "random, or shuffled against the texts"
        )
    return None


def one_side_is_shorter(log: Log) -> str | None:
    """Cut at different places, the two answers of a pair differ in length from the start."""
    rows = log.complete[:8]
    if len(rows) < 8 or rows[0]["step"] > 1:
        return None
    nats = {side: [-row[f"logps/{side}"] for row in rows] for side in SIDES}
    short, long = sorted(nats, key=lambda side: fmean(nats[side]))
    apart = [b - a for a, b in zip(nats[short], nats[long], strict=True)]
    sure = fmean(apart) > 4 * stdev(apart) / math.sqrt(len(apart))
    if sure and fmean(nats[long]) > 1.5 * fmean(nats[short]) > 0:
        return (
            f"{short} answers have {fmean(nats[short]):.0f} nats over the first 8 rows and {long} "
            f"ones {fmean(nats[long]):.0f}: the two are cut at different places, or differ so much "
            "in length that the length is what is learned"
        )
    return None


def held_out_loss_rises(log: Log) -> str | None:
    """Not a bug of the code: what is still gained is gained on the training data alone."""
    held_out = [(step, loss) for step, loss in log.held_out("loss") if math.isfinite(loss)]
    losses = [(step, loss) for step, loss in log.series("loss") if math.isfinite(loss)]
    once = max(log.values("epoch"), default=math.inf) <= 1 + EXACT  # nothing is met again
    if len(held_out) < 4 or not losses or once:
        return None
    best, least = min(held_out, key=lambda measured: measured[1])
    end = tail([loss for _, loss in held_out])
    then = tail([loss for step, loss in losses if step <= max(best, losses[0][0])])
    now = tail([loss for _, loss in losses])
    if not (end > least + 0.1 * abs(least) and now < then):
        return None
    never = best == held_out[0][0]
    stop = "it was never less than when first measured" if never else f"stop at step {best}"
    return (
        f"held-out loss was least at step {best} and has risen from {least:.3f} to {end:.3f} "
        f"while the training loss fell from {then:.3f} to {now:.3f}: the training data are "
        f"remembered; {stop}; take more data or a lower learning rate"
    )


def accuracy_may_be_memory(log: Log) -> str | None:
    """From the second epoch on the log's accuracy is of pairs that were trained on.

    Set against held-out pairs if they were measured, else against the first epoch's later half.
    """
    again = [row["rewards/accuracies"] for row in _met_again(log)]
    fresh = [row["rewards/accuracies"] for row in log.fresh]
    held_out = [accuracy for _, accuracy in log.held_out("rewards/accuracies")]
    unseen = held_out[-1:] or fresh[len(fresh) // 2 :]
    if len(again) < 4 or not unseen or not tail(again) > fmean(unseen) + 0.1:
        return None
    held = "held-out ones: the difference is memory"
    new = "pairs not seen before: only held-out ones (--eval-data) tell learning from memory"
    return (
        f"accuracy ends at {tail(again):.2f} on pairs that were trained on before and is "
        f"{fmean(unseen):.2f} on {held if held_out else new}"
    )


def nothing_is_learned(log: Log) -> str | None:
    """Not a bug of the code, but a run to throw away: too timid, too short, or labels by chance.

    Where the policy draws the pairs, and so much the more where the reference follows it, the
    loss has no reason to fall.
    """
    losses, accuracies = log.values("loss"), log.values("rewards/accuracies", "accuracy")
    if log.draws or min(len(losses), len(accuracies)) < 40:
        return None
    first, last, accuracy = losses[0], tail(losses), tail(accuracies)
    late = losses[-len(losses) // 4 :]
    sure = stdev(late) / math.sqrt(len(late)) < 0.005  # not by the luck of a few pairs
    if sure and max(abs(first - LN2), abs(last - LN2)) < 0.01 and abs(accuracy - 0.5) < 0.1:
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


def _perfect_since(log: Log) -> int | None:
    """The step from which on every pair is right, and surely so, in most rows and at least 3.

    In most rows: in a batch of two both pairs are right now and then by luck.
    """
    accuracies = dict(log.series("rewards/accuracies", "accuracy"))
    rows = log.series("loss")
    perfect = [n for n, (s, v) in enumerate(rows) if v < 0.05 and accuracies.get(s, 0) >= 1]
    lasting = [
        n for place, n in enumerate(perfect) if len(perfect) - place >= max(3, (len(rows) - n) / 2)
    ]
    return rows[lasting[0]][0] if lasting else None


def _met_again(log: Log) -> list[dict]:
    """Rows of the second epoch and later ones."""
    rows = [row for row in log.complete if is_finite(row.get("epoch"))]
    return [row for row in rows if row["epoch"] > 1 + EXACT]
