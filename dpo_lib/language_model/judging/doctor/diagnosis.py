"""Every rule, the most suspicious first, and what they say of a log."""

from collections.abc import Callable
from dataclasses import dataclass

from dpo_lib.language_model.judging.doctor import broken_run, learning, loss, ppo, reference
from dpo_lib.language_model.judging.training_log import Log

RULES: list[Callable[[Log], str | None]] = [
    broken_run.not_finite,
    broken_run.steps_are_broken,
    broken_run.learning_rate_is_zero,
    broken_run.nothing_moves,
    reference.reference_is_the_policy,
    loss.loss_is_summed,
    reference.reference_scores_belong_to_other_pairs,
    reference.policy_is_scored_with_noise,
    reference.reference_is_another_model,
    loss.first_loss_is_wrong,
    loss.chosen_and_rejected_are_swapped,
    loss.loss_falls_while_accuracy_falls,
    loss.training_goes_uphill,
    learning.language_is_lost,
    loss.loss_follows_a_larger_margin,
    loss.loss_follows_a_smaller_margin,
    reference.reference_moves,
    loss.logps_are_averages,
    ppo.ratio_is_not_one,
    ppo.kl_is_negative,
    learning.too_good_too_soon,
    broken_run.gradients_explode,
    learning.labels_follow_nothing,
    learning.nothing_is_learned,
    learning.both_fall,
]
NOTES = {learning.both_fall}
ENOUGH = 20  # rows: all rules wait for at most so many but one, which waits for 40


@dataclass(frozen=True)
class Finding:
    """One suspect: the rule's name and what it saw; a note is worth knowing, not a bug."""

    rule: str
    sentence: str
    note: bool = False

    def __str__(self) -> str:
        return f"{'note' if self.note else 'suspect'}: {self.rule}: {self.sentence}"


def diagnose(log: Log) -> list[Finding]:
    """Every rule that fires, most suspicious first."""
    said = [(rule, rule(log)) for rule in RULES]
    return [Finding(r.__name__.replace("_", " "), s, r in NOTES) for r, s in said if s]


def lines(log: Log) -> list[str]:
    """What a person reads: suspects, or that there is none, or that nobody could tell; notes."""
    findings = diagnose(log)
    suspects = [str(finding) for finding in findings if not finding.note]
    notes = [str(finding) for finding in findings if finding.note]
    rows = f"{len(log.rows)} rows, steps {log.rows[0]['step']} to {log.rows[-1]['step']}"
    if not suspects and len(log.rows) < ENOUGH:
        suspects = [f"too short to judge: most rules wait for 8 to {ENOUGH} rows"]
    return [*(suspects or ["nothing found"]), *notes, rows]
