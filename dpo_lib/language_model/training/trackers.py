"""Copies of the log for trackers, through accelerate; `metrics.jsonl` stays the truth."""

from collections.abc import Callable
from pathlib import Path

import torch

from dpo_lib.language_model.settings import TrainingError


def trackers_of(report_to: str | None) -> list[str]:
    """The names in `report_to`, "tensorboard" or "tensorboard,wandb".

    Raises:
        TrainingError: accelerate does not know one, or it is not installed.
    """
    wanted = [name.strip() for name in (report_to or "").split(",") if name.strip()]
    if not wanted:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known, there = sorted(map(str, LOGGER_TYPE_TO_CLASS)), {*map(str, get_available_trackers())}
    for name in wanted:
        if name not in known:
            raise TrainingError(f"report_to must be of {', '.join(known)}, got {name}")
        if name not in there:
            raise TrainingError(f"report_to {name}: not installed; pip install {name}")
    return wanted


class Trackers:
    """Trackers of one run; if one fails they are left, and the run goes on.

    Args:
        wanted: what `trackers_of` gave; an empty list tracks nothing.
        run: the run's folder; those that write files do it in its `trackers`.
        config: what the run was started with, name -> text or number.
        note: called with the line that says why they were left.

    Raises:
        TrainingError: one cannot start.
    """

    def __init__(self, wanted: list[str], run: Path, config: dict, note: Callable[[str], None]):
        self.note, self.trackers = note, []
        if not wanted:
            return
        from accelerate import Accelerator

        config = {name: value for name, value in config.items() if value is not None}
        try:
            own = Accelerator(
                cpu=not torch.cuda.is_available(), log_with=wanted, project_dir=run / "trackers"
            )
            own.init_trackers("dpo", config=config)
        except Exception as error:  # each tracker raises kinds of its own
            raise TrainingError(f"report_to {', '.join(wanted)}: {_reason(error)}") from None
        self.trackers = own.trackers

    def log(self, values: dict[str, float]) -> None:
        """Pass a line of the log on."""
        numbers = {name: value for name, value in values.items() if name != "step"}
        self._each(lambda tracker: tracker.log(numbers, step=values["step"]))

    def finish(self) -> None:
        """Close them; not by accelerate's `end_training`, which parts the processes too."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, act: Callable) -> None:
        try:
            for tracker in self.trackers:
                act(tracker)
        except Exception as error:
            self.note(f"nothing is tracked from here on: {_reason(error)}")
            self.trackers = []


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
