"""Every rule, the most suspicious first, and what they say of a log."""

from collections.abc import Callable
from dataclasses import dataclass

from dpo_lib.language_model.judging.doctor import broken_run, learning, loss, ppo, reference
from dpo_lib.language_model.judging.doctor.remedies import NEXT
from dpo_lib.language_model.judging.training_log import Log

Rule = Callable[[Log], str | None]
RULES: list[Rule] = [
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
    learning.one_side_is_shorter,
    loss.loss_follows_a_larger_margin,
    loss.loss_follows_a_smaller_margin,
    reference.reference_moves,
    loss.logps_are_averages,
    ppo.ratio_is_not_one,
    ppo.kl_is_negative,
    learning.labels_follow_nothing,
    learning.held_out_loss_rises,
    learning.pairs_are_known_by_heart,
    learning.too_good_too_soon,
    broken_run.gradients_explode,
    learning.nothing_is_learned,
    reference.rounding_at_the_start,
    learning.accuracy_may_be_memory,
    learning.both_fall,
]
NOTES = {reference.rounding_at_the_start, learning.accuracy_may_be_memory, learning.both_fall}

# What a rule can see by reason of another's bug alone: it is silent where that one has spoken.
_NO_UPDATE = {
    broken_run.learning_rate_is_zero,
    broken_run.nothing_moves,
    reference.reference_is_the_policy,
}
_OTHER_SCORES = {
    reference.reference_scores_belong_to_other_pairs,
    reference.policy_is_scored_with_noise,
    reference.reference_is_another_model,
}
_MEMORY = {learning.held_out_loss_rises, learning.pairs_are_known_by_heart}
_WRONG_WAY = {loss.training_goes_uphill, learning.language_is_lost}
_SWAPPED = {loss.chosen_and_rejected_are_swapped}
FOLLOWS: dict[Rule, set[Rule]] = {
    reference.policy_is_scored_with_noise: {reference.reference_scores_belong_to_other_pairs},
    reference.reference_is_another_model: _OTHER_SCORES - {reference.reference_is_another_model},
    reference.reference_moves: {reference.reference_is_the_policy},
    loss.first_loss_is_wrong: _OTHER_SCORES | {loss.loss_is_summed},
    loss.loss_falls_while_accuracy_falls: _SWAPPED,
    loss.loss_follows_a_larger_margin: _SWAPPED,
    loss.loss_follows_a_smaller_margin: {learning.language_is_lost},
    learning.labels_follow_nothing: _OTHER_SCORES | _WRONG_WAY,
    learning.held_out_loss_rises: _OTHER_SCORES | _WRONG_WAY | {learning.labels_follow_nothing},
    learning.pairs_are_known_by_heart: {learning.one_side_is_shorter, learning.held_out_loss_rises},
    learning.too_good_too_soon: {learning.one_side_is_shorter, *_MEMORY},
    learning.nothing_is_learned: _NO_UPDATE,
    learning.accuracy_may_be_memory: _MEMORY,
}
ENOUGH = 20  # rows: all rules wait for at most so many but one, which waits for 40


@dataclass(frozen=True)
class Finding:
    """One suspect: the rule's name and what it saw; a note is worth knowing, not a bug."""

    rule: str
    sentence: str
    note: bool = False

    @property
    def next(self) -> str:
        """What to do first, in a sentence."""
        return NEXT[self.rule]

    def __str__(self) -> str:
        return f"{'note' if self.note else 'suspect'}: {self.rule}: {self.sentence}"


def diagnose(log: Log) -> list[Finding]:
    """Every rule that fires and says more than one before it, most suspicious first."""
    said = {rule: sentence for rule in RULES if (sentence := rule(log))}
    return [
        Finding(rule.__name__.replace("_", " "), sentence, rule in NOTES)
        for rule, sentence in said.items()
        if not FOLLOWS.get(rule, set()) & said.keys()
    ]


def lines(log: Log) -> list[str]:
    """What a person reads: suspects, or that there is none, or that nobody could tell; notes.

    After each suspect and note comes a line with what to do next.
    """
    told: dict[bool, list[str]] = {True: [], False: []}
    for finding in diagnose(log):
        told[finding.note] += [str(finding), f"  next: {finding.next}"]
    suspects, notes = told[False], told[True]
    rows = f"{len(log.rows)} rows, steps {log.rows[0]['step']} to {log.rows[-1]['step']}"
    if not suspects and len(log.rows) < ENOUGH:
        suspects = [f"too short to judge: most rules wait for 8 to {ENOUGH} rows"]
    return [*(suspects or ["nothing found"]), *notes, rows]
