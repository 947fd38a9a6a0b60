"""A stage trained in memory: its log and nothing else."""

from dpo_lib.language_model.judging.training_log import Log
from dpo_lib.language_model.training.learner import Learner
from dpo_lib.language_model.training.stage import Stage


class Careless(Learner):
    """The library's own steps, but a NaN stops nothing, and a stage may choose its own rate."""

    def check(self, step: int, bad: list[int], grad_norm: float) -> None:
        """Go on, whatever the numbers are."""

    def rate(self, step: int) -> float:
        """The stage's own learning rate, if it has one."""
        own = getattr(self.stage, "rate", super().rate)
        return own(step)


def record(stage: Stage) -> Log:
    """Train a stage to its last step and return its log, without files and checkpoints.

    A stage of the zoo says which steps are taken and what becomes of the lines; of any other,
    these are the lines that `training.train` writes.
    """
    learner = Careless(stage)
    learner.start(None)
    steps = getattr(stage, "steps", lambda: range(1, stage.settings.steps + 1))
    row = getattr(stage, "row", dict)
    rows, measured = [], _measure(learner, 0)
    for step in steps():
        rows.append(row(learner.update(step)))
        measured += _measure(learner, step)
    return Log(rows, vars(stage.settings), measured)


def _measure(learner: Learner, step: int) -> list[dict]:
    """The line of held-out items after a step, if one is due."""
    due = learner.measuring.due(step)
    return [{"step": step, **learner.stage.evaluate().figures}] if due else []
