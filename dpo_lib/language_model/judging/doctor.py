"""Read a training log and name the likely bugs, the most suspicious first.

A rule is a function from a `Log` to one sentence with the numbers it saw, or None. `RULES` is the
whole knowledge, in order of suspicion: add a function to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from statistics import fmean, median, stdev

from dpo_lib.language_model.judging.training_log import EXACT, NEEDED, Log, is_number

LN2 = math.log(2)
CONVEX = {"sigmoid", "cdpo", "robust", "hinge", "ipo"}  # in the margin, and of nothing else
ROUNDING = 5e-3  # bf16 and averages over a batch
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Finding:
    """One suspect: the rule's name and what it saw; a note is worth knowing, not a bug."""

    rule: str
    sentence: str
    note: bool = False

    def __str__(self) -> str:
        return f"{'note' if self.note else 'suspect'}: {self.rule}: {self.sentence}"


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
    if _is_still(log) and max(log.values("grad_norm"), default=0) == 0:
        return (
            f"the margin is exactly 0 and the gradient too for {len(log.rows)} rows: the optimiser "
            "holds other weights, or completions are empty"
        )
    return None


def reference_is_the_policy(log: Log) -> str | None:
    """E3: a gradient moves the weights and the margin does not follow."""
    norms, rates = log.values("grad_norm"), log.values("learning_rate", "lr")
    if _is_still(log) and max(norms, default=0) > 0 and max(rates, default=1) > 0:
        return (
            f"the margin is exactly 0 for {len(log.rows)} rows although the gradient is not (up to "
            f"{max(norms):.3g}): the reference shares the policy's weights"
        )
    return None


def loss_is_summed(log: Log) -> str | None:
    """G1: at margin 0 a mean of losses is one loss, and a sum of k losses is k times it."""
    loss, wanted = log.start("loss"), log.loss_at(0.0, 0.0)
    if not log.is_dpo or loss is None or not wanted or not math.isfinite(loss):
        return None
    if _has_its_own_reference(log) or _not_zero_at_the_start(log):
        return None
    times = round(loss / wanted)
    if times >= 2 and abs(loss - times * wanted) < ROUNDING * times:
        return (
            f"first loss is {loss:.4f} = {times} × {wanted:.4f}: losses are summed over {times} "
            "micro-batches or pairs, not averaged"
        )
    return None


def reference_scores_belong_to_other_pairs(log: Log) -> str | None:
    """D9: the reward of a pair compares two texts, so it is large, with a sign by chance."""
    first = [[row.get(f"rewards/{side}") for row in log.rows[:8]] for side in SIDES]
    if len(_not_zero_at_the_start(log)) < 2 or not all(map(is_number, chain(*first))):
        return None
    if all(min(side) < -ROUNDING and max(side) > ROUNDING for side in first):
        return (
            f"rewards before the first update are not 0 ({', '.join(_not_zero_at_the_start(log))}) "
            "and change their sign from row to row: each pair is compared with the reference's "
            "score of another pair"
        )
    return None


def policy_is_scored_with_noise(log: Log) -> str | None:
    """E1: a network with parts missing predicts every text worse than the whole one."""
    starts = [log.start(f"rewards/{side}") for side in SIDES]
    if len(_not_zero_at_the_start(log)) == 2 and max(starts) < 0:
        return (
            f"rewards before the first update are not 0 but both negative "
            f"({', '.join(_not_zero_at_the_start(log))}): dropout is on in the policy; if it is "
            "not, the reference is a better model of these texts"
        )
    return None


def reference_is_another_model(log: Log) -> str | None:
    """E1, E4: before the first update the policy is the reference, or it is not one."""
    if far := _not_zero_at_the_start(log):
        return (
            f"rewards before the first update are not 0 ({', '.join(far)}): the reference is not "
            "the initial policy, or another precision separates them"
        )
    return None


def first_loss_is_wrong(log: Log) -> str | None:
    """E1, E4, D1: at margin 0 the loss is ln 2 whatever beta is; other losses have their own."""
    loss, wanted = log.start("loss"), log.loss_at(0.0, 0.0)
    if not log.is_dpo or loss is None or wanted is None or not math.isfinite(loss):
        return None
    if _has_its_own_reference(log):
        return None
    if abs(loss - wanted) > ROUNDING:
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
        row = impossible[-1]
        return (
            f"in {len(impossible)} rows the loss is lower than the margin allows, at step "
            f"{row['step']} {row['loss']:.3f} at a margin of {row['rewards/margins']:.3f}: "
            "chosen and rejected are swapped in the loss or in the metrics"
        )
    return None


def loss_falls_while_accuracy_falls(log: Log) -> str | None:
    """D4, D7: the same without margins, or for a loss that is not convex."""
    losses, accuracies = log.values("loss"), log.values("rewards/accuracies")
    if not log.is_dpo or min(len(losses), len(accuracies)) < 8:
        return None
    first, last, accuracy = _head(losses), _tail(losses), _tail(accuracies)
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
        row = impossible[-1]
        return (
            f"in {len(impossible)} rows the loss is lower than the margin allows, at step "
            f"{row['step']} {row['loss']:.3f} at a margin of {row['rewards/margins']:.3f}: the "
            "loss divides by beta or leaves it out, or the metrics have it twice"
        )
    return None


def loss_follows_a_smaller_margin(log: Log) -> str | None:
    """D1: where the loss changes with kappa times the logged margin, kappa must be 1.

    The slope of -log sigmoid(kappa z) is -kappa (1 - sigmoid(kappa z)), and 1 - exp(-loss) is
    that bracket. Both are averages here, and differences between rows give the slope.
    """
    beta = log.settings.get("beta")
    losses, margins = ([row[name] for row in log.complete] for name in NEEDED[:4:3])
    if log.loss_name != "sigmoid" or len(losses) < 20 or (beta and beta >= 1):
        return None
    if fmean(losses) <= 0:  # no mean of -log sigmoid, and the bracket is 0 or less
        return None
    slope, error = _slope(*([b - a for a, b in pairwise(x)] for x in (margins, losses)))
    level = math.expm1(-fmean(losses))
    kappa, error = slope / level, -error / level
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
    if mean < -4 * error and _tail(losses) > losses[0] and _tail(margins) < _head(margins):
        return (
            f"loss rises from {losses[0]:.3f} to {_tail(losses):.3f} and the margin falls to "
            f"{_tail(margins):.2f}: the gradient has the wrong sign"
        )
    return None


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
    slope, error = _slope(tokens, nats)
    grows = (slope - 3 * error) * fmean(tokens) > fmean(nats) / 2
    if not grows:
        return (
            f"an answer has {mean:.2f} nats while a pair, with its prompts, has "
            f"{fmean(tokens):.0f} tokens: log-probabilities are averaged over tokens, not summed, "
            "or answers are of one or two tokens"
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
    first, last, accuracy = losses[0], _tail(losses), _tail(accuracies)
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
    chosen, rejected, margin = (_tail(values) for values in sides.values())
    if max(chosen, rejected) < -0.1 and margin > 0.1:
        return (
            f"rewards end at {chosen:.2f} for chosen and {rejected:.2f} for rejected while the "
            f"margin is {margin:.2f}: both became less likely, in favour of texts in neither column"
        )
    return None


RULES: list[Callable[[Log], str | None]] = [
    not_finite,
    steps_are_broken,
    learning_rate_is_zero,
    nothing_moves,
    reference_is_the_policy,
    loss_is_summed,
    reference_scores_belong_to_other_pairs,
    policy_is_scored_with_noise,
    reference_is_another_model,
    first_loss_is_wrong,
    chosen_and_rejected_are_swapped,
    loss_falls_while_accuracy_falls,
    training_goes_uphill,
    language_is_lost,
    loss_follows_a_larger_margin,
    loss_follows_a_smaller_margin,
    reference_moves,
    logps_are_averages,
    ratio_is_not_one,
    kl_is_negative,
    too_good_too_soon,
    gradients_explode,
    labels_follow_nothing,
    nothing_is_learned,
    both_fall,
]
NOTES = {both_fall}


def diagnose(log: Log) -> list[Finding]:
    """Every rule that fires, most suspicious first."""
    said = [(rule, rule(log)) for rule in RULES]
    return [Finding(r.__name__.replace("_", " "), s, r in NOTES) for r, s in said if s]


def _is_still(log: Log) -> bool:
    """No margin ever differs from 0, and the loss stays at ln 2."""
    losses, margins = log.values("loss"), log.values("rewards/margins")
    still = log.is_dpo and len(losses) > 2 and max(map(abs, margins), default=1) == 0
    return still and max(losses) - min(losses) < EXACT


def _has_its_own_reference(log: Log) -> bool:
    """The settings name a reference other than the model, so nothing need start at margin 0."""
    return log.settings.get("reference") not in (None, log.settings.get("model"))


def _not_zero_at_the_start(log: Log) -> list[str]:
    """The rewards of the first step that are not 0, in words."""
    if _has_its_own_reference(log):
        return []
    starts = {side: log.start(f"rewards/{side}") for side in SIDES}
    return [f"{n} {v:.4f}" for n, v in starts.items() if v is not None and abs(v) > ROUNDING]


def _below_the_bound(log: Log) -> list[dict]:
    """Rows whose loss is lower than the loss of their average margin."""
    if log.loss_name not in CONVEX or log.loss_at(0.0, 0.0) is None:
        return []
    bounds = [log.loss_at(row["rewards/margins"], 0.0) for row in log.complete]
    return [
        row
        for row, low in zip(log.complete, bounds, strict=True)
        if row["loss"] < low - ROUNDING * (1 + abs(low))
    ]


def _slope(x: list[float], y: list[float]) -> tuple[float, float]:
    """Slope of y on x by least squares, and its standard error."""
    spread = math.fsum((a - fmean(x)) ** 2 for a in x)
    if spread == 0:
        return 0.0, math.inf
    slope = math.fsum((a - fmean(x)) * b for a, b in zip(x, y, strict=True)) / spread
    left = [b - slope * a for a, b in zip(x, y, strict=True)]
    return slope, stdev(left) * math.sqrt((len(x) - 1) / (len(x) - 2) / spread)


def _head(values: list[float]) -> float:
    return fmean(values[: max(1, len(values) // 8)])


def _tail(values: list[float]) -> float:
    return fmean(values[-max(1, len(values) // 4) :])
