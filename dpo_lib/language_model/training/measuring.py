"""Held-out figures: when they are measured, which measurement was the best, when to stop for it."""

import math

from dpo_lib.language_model.settings import LOWER_IS_BETTER, Settings, TrainingError


class Measuring:
    """What a run knows of its measurements; a checkpoint holds it.

    Args:
        settings: of any stage; one without `eval_data` measures nothing.
    """

    def __init__(self, settings: Settings):
        self.wanted = getattr(settings, "eval_data", None) is not None
        self.last = settings.steps
        self.every = getattr(settings, "eval_every", None) or max(1, (self.last or 1) // 10)
        self.metric = getattr(settings, "metric_for_best_model", None)
        self.patience = getattr(settings, "early_stopping_patience", None)
        self.best_step: int | None = None
        self.best = -math.inf  # the figure, its sign turned where lower is better
        self.since = 0  # measurements after the best one

    def due(self, step: int) -> bool:
        """Before the first step, every so often, and after the last."""
        return self.wanted and (step % self.every == 0 or step == self.last)

    def take(self, step: int, figures: dict[str, float]) -> bool:
        """Whether these figures are the best so far; a number that is not finite never is.

        Raises:
            TrainingError: the metric is none of the figures, with their names.
        """
        if self.metric is None:
            return False
        known = {name.removeprefix("eval_"): value for name, value in figures.items()}
        if self.metric not in known:
            raise TrainingError(
                f"metric_for_best_model {self.metric} is not measured here; measured are "
                f"{', '.join(known)}"
            )
        value = -known[self.metric] if self.metric in LOWER_IS_BETTER else known[self.metric]
        better = math.isfinite(value) and value > self.best
        self.best_step, self.best = (step, value) if better else (self.best_step, self.best)
        self.since = 0 if better else self.since + 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether there was no better measurement for so long that the run ends."""
        return self.patience is not None and self.since >= self.patience

    def state(self) -> dict:
        """What the next measurement is compared with, as JSON."""
        best = None if self.best_step is None else self.best
        return {"step": self.best_step, "best": best, "since": self.since}

    def load_state(self, state: dict) -> None:
        """Take back what `state` gave."""
        self.best_step, self.since = state["step"], state["since"]
        self.best = -math.inf if state["best"] is None else state["best"]

    def said(self) -> str:
        """The best measurement, for a person."""
        value = -self.best if self.metric in LOWER_IS_BETTER else self.best
        return f"step {self.best_step}, held-out {self.metric} {value:.4g}"
