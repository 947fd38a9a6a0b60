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
    rows = [row(learner.update(step)) for step in steps()]
    return Log(rows, vars(stage.settings))
