"""Read a training log and name the likely bugs, the most suspicious first.

A rule is a function from a `Log` to one sentence with the numbers it saw, or None. The log is our
`metrics.jsonl`, a run folder that holds one, or TRL's `trainer_state.json` / log history; both
use TRL's names. `RULES` is the whole knowledge, in order of suspicion: add a function to it.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean, median, stdev

LN2 = math.log(2)
STARTS_AT_LN2 = {"sigmoid", "cdpo", "robust"}  # dpo_lib.variants
EXACT = 1e-6  # what two equal float32 computations may differ by
ROUNDING = 5e-3  # bf16 and averages over a batch


@dataclass(frozen=True)
class Log:
    """Rows of training metrics in the order written, and the settings of the run if known."""

    rows: list[dict]
    settings: dict = field(default_factory=dict)

    def series(self, *names: str) -> list[tuple[int, float]]:
        """(step, value) of the first of `names` that the log has; NaN and infinities included."""
        for name in names:
            found = [(r["step"], r[name]) for r in self.rows if _is_number(r.get(name))]
            if found:
                return found
        return []

    def values(self, *names: str) -> list[float]:
        """The finite values of `series`."""
        return [value for _, value in self.series(*names) if math.isfinite(value)]

    def start(self, *names: str) -> float | None:
        """The value before the first update, if the log has that row (steps count from 0 or 1)."""
        series = self.series(*names)
        return series[0][1] if series and series[0][0] <= 1 else None

    @property
    def is_dpo(self) -> bool:
        return bool(self.series("rewards/margins") and self.series("logps/chosen"))


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
    """C1, E3: policy and reference are one object, or no completion token is scored."""
    losses, margins = log.values("loss"), log.values("rewards/margins")
    still = log.is_dpo and len(losses) > 2 and max(map(abs, margins)) == 0
    if still and max(abs(loss - LN2) for loss in losses) < EXACT:
        return (
            f"loss stays at ln 2 = {LN2:.4f} and the margin at exactly 0 for {len(losses)} rows: "
            "reference and policy share weights, completions are empty, or nothing is updated"
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


def loss_falls_while_accuracy_falls(log: Log) -> str | None:
    """D4, D7: chosen and rejected are swapped on one of the two ways."""
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


def rewards_are_not_zero_at_the_start(log: Log) -> str | None:
    """E1, E4: before the first update the policy is the reference, or it is not one."""
    if log.settings.get("reference") not in (None, log.settings.get("model")):
        return None  # a reference of one's own choice
    starts = {n: log.start(f"rewards/{n}") for n in ("chosen", "rejected")}
    far = [f"{n} {v:.4f}" for n, v in starts.items() if v is not None and abs(v) > ROUNDING]
    if far:
        return (
            f"rewards before the first update are not 0 ({', '.join(far)}): the reference is not "
            "the initial policy, or dropout or another precision separates them"
        )
    return None


def first_loss_is_not_ln2(log: Log) -> str | None:
    """E1, E4, D1: at margin 0 the loss is ln 2 whatever beta is."""
    loss = log.start("loss")
    if not log.is_dpo or loss is None or not math.isfinite(loss):
        return None
    name = str(log.settings.get("loss", log.settings.get("loss_type", "sigmoid")))
    if name in STARTS_AT_LN2 and abs(loss - LN2) > ROUNDING:
        return (
            f"first loss is {loss:.4f}, not ln 2 = {LN2:.4f}: the reference is not the initial "
            "policy, or the loss is averaged or scaled wrongly"
        )
    return None


def too_good_too_soon(log: Log) -> str | None:
    """L3, A1: duplicated rows, a label in the text, or a mask that shows the answer."""
    accuracies = dict(log.series("rewards/accuracies", "accuracy"))
    perfect = [s for s, loss in log.series("loss") if loss < 0.05 and accuracies.get(s, 0) >= 1]
    if len(perfect) >= 3 and perfect[0] <= 50 and perfect[0] < log.rows[-1]["step"]:
        return (
            f"accuracy is 1.0 and the loss below 0.05 from step {perfect[0]} on: the pairs give "
            "the label away (duplicates, a fixed length or ending, chosen always the same text)"
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
    learning_rate_is_zero,
    nothing_moves,
    loss_falls_while_accuracy_falls,
    rewards_are_not_zero_at_the_start,
    first_loss_is_not_ln2,
    ratio_is_not_one,
    kl_is_negative,
    too_good_too_soon,
    gradients_explode,
    steps_are_broken,
    nothing_is_learned,
    both_fall,
]
NOTES = {both_fall}


def diagnose(log: Log) -> list[Finding]:
    """Every rule that fires, most suspicious first."""
    said = [(rule, rule(log)) for rule in RULES]
    return [Finding(r.__name__.replace("_", " "), s, r in NOTES) for r, s in said if s]


def read_log(path: str | Path) -> Log:
    """Read a metrics file of ours or TRL's, or a run folder.

    Raises:
        ValueError: in one line, if the file is no training log.
    """
    path = Path(path)
    if path.is_dir():
        names = ("metrics.jsonl", "trainer_state.json")
        path = next((path / name for name in names if (path / name).exists()), path / names[0])
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a training log (not UTF-8 text)") from None
    rows = [row for row in _rows(text, path) if "loss" in row or "objective/kl" in row]
    rows = [row for row in rows if isinstance(row.get("step"), int)]
    if not rows:
        raise ValueError(f"{path}: not a training log (no row with a step and a loss)")
    return Log(rows, _settings(path.with_name("settings.json")))


def _rows(text: str, path: Path) -> list[dict]:
    """The objects of a JSON-lines file, of a JSON list, or of `log_history` in a JSON object."""
    try:
        whole = json.loads(text)
        whole = whole.get("log_history", [whole]) if isinstance(whole, dict) else whole
    except (ValueError, RecursionError):
        *lines, torn = text.split("\n")  # a killed run may leave half a line at the end
        lines += [torn] if torn.endswith("}") else []
        places = (f"{path}:{number}" for number in range(1, len(lines) + 1))
        whole = [_row(line, place) for line, place in zip(lines, places, strict=True) if line]
    return [row for row in whole if isinstance(row, dict)] if isinstance(whole, list) else []


def _row(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{place}: not a training log (not JSON)") from None


def _settings(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _head(values: list[float]) -> float:
    return fmean(values[: max(1, len(values) // 8)])


def _tail(values: list[float]) -> float:
    return fmean(values[-max(1, len(values) // 4) :])
