"""Rules about the loss: its size, its sign, its beta, and whether it fits the logged margins."""

import math
from itertools import pairwise
from statistics import fmean, stdev

from dpo_lib.language_model.judging.doctor.evidence import (
    LN2,
    ROUNDING,
    SIDES,
    fitted_slope,
    has_its_own_reference,
    head,
    is_convex,
    not_zero_at_the_start,
    rounding,
    tail,
)
from dpo_lib.language_model.judging.training_log import EXACT, NEEDED, Log, is_number


def loss_is_summed(log: Log) -> str | None:
    """G1: at margin 0 a mean of losses is one loss, and a sum of k losses is k times it."""
    first = _first_loss(log)
    if first is None or not_zero_at_the_start(log):
        return None
    loss, wanted, error = first
    times = round(loss / wanted) if wanted else 0
    if times >= 2 and abs(loss - times * wanted) < error * times:
        return (
            f"first loss is {loss:.4f} = {times} × {wanted:.4f}: losses are summed over {times} "
            "micro-batches or pairs, not averaged"
        )
    return None


def first_loss_is_wrong(log: Log) -> str | None:
    """E1, E4, D1: at margin 0 the loss is ln 2 whatever beta is; other losses have their own."""
    first = _first_loss(log)
    if first is None:
        return None
    loss, wanted, error = first
    if abs(loss - wanted) > error:
        name = f"ln 2 = {LN2:.4f}" if abs(wanted - LN2) < EXACT else f"{wanted:.4f}"
        return (
            f"first loss is {loss:.4f}, not {name}: the reference is not the initial "
            "policy, or the loss is averaged or scaled wrongly"
        )
    return None


def chosen_and_rejected_are_swapped(log: Log) -> str | None:
    """D4, D7: a convex loss is, on average, at least the loss of the average margin (Jensen)."""
    impossible = _below_the_bound(log)
    if len(impossible) >= 3 and max(row["rewards/margins"] for row in impossible) < 0:
        return _too_low(impossible, "chosen and rejected are swapped in the loss or in the metrics")
    return None


def loss_falls_while_accuracy_falls(log: Log) -> str | None:
    """D4, D7: the same without margins, or for a loss that is not convex.

    One that sees more than rewards may fall by that: an SFT term, or answers of unequal length.
    """
    losses, accuracies = log.values("loss"), log.values("rewards/accuracies")
    if not log.is_dpo or log.sees_more or min(len(losses), len(accuracies)) < 8:
        return None
    first, last, accuracy = head(losses), tail(losses), tail(accuracies)
    if last < first - 0.05 and accuracy < 0.4:
        return (
            f"loss falls from {first:.3f} to {last:.3f} while the accuracy ends at {accuracy:.2f}: "
            "chosen and rejected are swapped in the loss or in the metrics"
        )
    return None


def loss_follows_a_larger_margin(log: Log) -> str | None:
    """D2: Jensen's bound again, broken where the margin is positive."""
    impossible = _below_the_bound(log)
    if len(impossible) >= 3:
        return _too_low(
            impossible, "the loss divides by beta or leaves it out, or the metrics have it twice"
        )
    return None


def loss_follows_a_smaller_margin(log: Log) -> str | None:
    """D1: where the loss changes with kappa times the logged margin, kappa must be 1.

    The slope of -log sigmoid(kappa z) is -kappa (1 - sigmoid(kappa z)), and 1 - exp(-loss) is
    that bracket. Both are averages here, and differences between rows give kappa.
    """
    beta = log.settings.get("beta")
    losses, margins = ([row[name] for row in log.complete] for name in NEEDED[:4:3])
    if log.loss_name != "sigmoid" or not is_convex(log) or len(losses) < 20 or (beta and beta >= 1):
        return None
    if min(losses) < 0:  # no mean of -log sigmoid
        return None
    brackets = [-math.expm1(-loss) for loss in losses]
    due = [
        (z - next_z) * (s + next_s) / 2
        for (z, next_z), (s, next_s) in zip(pairwise(margins), pairwise(brackets), strict=True)
    ]  # if kappa is 1, the change of the loss
    kappa, error = fitted_slope(due, [b - a for a, b in pairwise(losses)])
    if kappa > 0 and kappa + 3 * error < math.sqrt(beta or 0.25):
        return (
            f"the loss follows {kappa:.2f} ± {error:.2f} times the logged margin, not the margin: "
            "beta is applied twice in the loss, or is missing in the metrics"
            + (f" (beta is {beta:g})" if beta else "")
        )
    return None


def training_goes_uphill(log: Log) -> str | None:
    """D4: the margin goes steadily the wrong way and the loss with it."""
    losses, margins = log.values("loss"), log.values("rewards/margins")
    if min(len(losses), len(margins)) < 8 or not log.is_dpo:
        return None
    late = margins[len(margins) // 2 :]
    mean, error = fmean(late), stdev(late) / math.sqrt(len(late))
    if mean < -4 * error and tail(losses) > losses[0] and tail(margins) < head(margins):
        return (
            f"loss rises from {losses[0]:.3f} to {tail(losses):.3f} and the margin falls to "
            f"{tail(margins):.2f}: the gradient has the wrong sign"
        )
    return None


def logps_are_averages(log: Log) -> str | None:
    """A11: a few nats for an answer of many tokens, whatever their number.

    `num_tokens` counts the prompt, twice a pair, so this is a judgement: answers of one or two
    tokens after long prompts look alike, unless batches with more tokens have more nats.
    """
    rows, size = log.complete, log.settings.get("batch_size")
    rows = [row for row in rows if is_number(row.get("num_tokens"))]
    if not log.is_dpo or len(rows) < 16 or not is_number(size):
        return None
    every = max(b["step"] - a["step"] for a, b in pairwise(rows)) == 1
    tokens = [(b["num_tokens"] - a["num_tokens"]) / size for a, b in pairwise(rows)]
    nats = [-row["logps/chosen"] - row["logps/rejected"] for row in rows[1:]]
    mean = fmean(nats) / 2
    if not every or min(tokens) <= 0 or not 0 < mean < min(6, 0.1 * fmean(tokens)):
        return None
    slope, error = fitted_slope(tokens, nats)
    grows = (slope - 3 * error) * fmean(tokens) > fmean(nats) / 2
    if not grows:
        return (
            f"an answer has {mean:.2f} nats while a pair, with its prompts, has "
            f"{fmean(tokens):.0f} tokens: log-probabilities are averaged over tokens, not summed, "
            "or answers are of one or two tokens"
        )
    return None


def _first_loss(log: Log) -> tuple[float, float, float] | None:
    """The first loss, what it must be, and to what error; None if that is not known.

    It is the loss of the logged rewards, which are 0 or nearly so. Where they are not, the pairs
    lie to both sides of their mean, and a curved loss is larger on average than at it: the error
    allows for margins of half of `NATS` to either side.
    """
    loss, wanted = log.start("loss"), log.loss_at(0.0, 0.0)
    if not log.is_dpo or loss is None or wanted is None or not math.isfinite(loss):
        return None
    if has_its_own_reference(log):
        return None
    rewards = [log.start(f"rewards/{side}") or 0.0 for side in SIDES]
    if not all(map(math.isfinite, rewards)) or not any(rewards):
        return loss, wanted, ROUNDING
    if log.is_kto:  # its loss depends on how many of a batch are desirable, which is not logged
        return None
    apart = rounding(log, pairs=1) / 4
    curved = (log.loss_at(apart, -apart) + log.loss_at(-apart, apart)) / 2 - wanted
    return loss, log.loss_at(*rewards), ROUNDING + abs(curved)


def _below_the_bound(log: Log) -> list[dict]:
    """Rows whose loss is lower than the loss of their average margin."""
    if not is_convex(log) or log.loss_at(0.0, 0.0) is None:
        return []
    bounds = [log.loss_at(row["rewards/margins"], 0.0) for row in log.complete]
    return [
        row
        for row, low in zip(log.complete, bounds, strict=True)
        if row["loss"] < low - ROUNDING * (1 + abs(low))
    ]


def _too_low(impossible: list[dict], cause: str) -> str:
    row = impossible[-1]
    return (
        f"in {len(impossible)} rows the loss is lower than the margin allows, at step "
        f"{row['step']} {row['loss']:.3f} at a margin of {row['rewards/margins']:.3f}: {cause}"
    )
