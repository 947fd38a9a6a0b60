"""Rules about the reference: the policy itself, another model, other pairs, one that moves."""

import math
from itertools import chain, pairwise

from dpo_lib.language_model.judging.doctor.evidence import (
    SHOWN,
    SIDES,
    is_still,
    not_zero_at_the_start,
    reference_follows,
    rounding,
)
from dpo_lib.language_model.judging.training_log import Log, is_number


def reference_is_the_policy(log: Log) -> str | None:
    """E3: a gradient moves the weights and the margin does not follow."""
    norms, rates = log.values("grad_norm"), log.values("learning_rate", "lr")
    moved = max(norms, default=0) > 0 and max(rates, default=1) > 0
    if is_still(log) and moved and not reference_follows(log):
        return (
            f"the margin is 0 for {len(log.rows)} rows although the gradient is not (up to "
            f"{max(norms):.3g}): the reference shares the policy's weights, or with LoRA the "
            "adapter is left on in it"
        )
    return None


def reference_scores_belong_to_other_pairs(log: Log) -> str | None:
    """D9: the reward of a pair compares two texts, so it is large, with a sign by chance."""
    first = [[row.get(f"rewards/{side}") for row in log.rows[:8]] for side in SIDES]
    if not not_zero_at_the_start(log) or not all(map(is_number, chain(*first))):
        return None
    least = rounding(log)
    if all(min(side) < -least and max(side) > least for side in first):
        return (
            f"rewards before the first update are not 0 ({', '.join(not_zero_at_the_start(log))}) "
            "and change their sign from row to row: each pair is compared with the reference's "
            "score of another pair, or with that of another model which is as good"
        )
    return None


def policy_is_scored_with_noise(log: Log) -> str | None:
    """E1: a network with parts missing predicts every text worse than the whole one."""
    starts = [log.start(f"rewards/{side}") for side in SIDES]
    if len(not_zero_at_the_start(log)) == 2 and max(starts) < 0:
        return (
            f"rewards before the first update are not 0 but both negative "
            f"({', '.join(not_zero_at_the_start(log))}): dropout is on in the policy; if it is "
            "not, the reference is a better model of these texts"
        )
    return None


def reference_is_another_model(log: Log) -> str | None:
    """E1, E4: before the first update the policy is the reference, or it is not one."""
    if far := not_zero_at_the_start(log):
        return (
            f"rewards before the first update are not 0 ({', '.join(far)}), and further from it "
            f"than 16 bits bring them, {rounding(log):.4f}: the reference is not the initial "
            "policy (with LoRA, an adapter that was part of the start may be switched off in it)"
        )
    return None


def rounding_at_the_start(log: Log) -> str | None:
    """Not a bug: a reference held or scored in fewer bits than the policy."""
    far = not_zero_at_the_start(log, SHOWN)
    if far and not not_zero_at_the_start(log):
        return (
            f"rewards before the first update are not quite 0 ({', '.join(far)}), and no further "
            f"from it than 16 bits may bring them, {rounding(log):.4f}; if policy and reference "
            "are both held and scored in 32 bits, the reference is another model"
        )
    return None


def reference_moves(log: Log) -> str | None:
    """E3: logps - rewards / beta is the reference's own score; over an epoch its mean is fixed.

    The last batch of an epoch may be shorter, and how much is not in the log. Its weight is the
    one unknown; both sides and all epochs must agree on it. An only batch is the whole mean.
    """
    beta, epochs = log.settings.get("beta"), log.epochs
    if not log.is_dpo or not is_number(beta) or len(epochs) < 2:
        return None
    scores = [
        [[row[f"logps/{side}"] - row[f"rewards/{side}"] / beta for row in rows] for rows in epochs]
        for side in SIDES
    ]
    changes = [
        (math.fsum(b[:-1]) - math.fsum(a[:-1]), b[-1] - a[-1])
        for side in scores
        for a, b in pairwise(side)
    ]
    norm = math.fsum(last * last for _, last in changes)
    known = norm and len(epochs[0]) > 1
    weight = -math.fsum(body * last for body, last in changes) / norm if known else 1.0
    weight = min(max(weight, 0.0), 1.0)
    count = len(epochs[0]) - 1 + weight
    far = max((body + weight * last) / count for body, last in changes)
    low = min((body + weight * last) / count for body, last in changes)
    size = max(map(abs, chain(*chain(*scores))))
    if max(far, -low) > max(1e-4 * size, 1e-3):
        worst = far if far > -low else low
        return (
            f"the reference's own score, logps - rewards / beta, changes by {worst:.3f} nats from "
            "one epoch to the next over the same pairs: the reference is trained too, or rewards "
            "and logps are not of one beta"
        )
    return None
