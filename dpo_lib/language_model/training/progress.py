"""What a person sees of a run: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator, Sequence

QUIET = 10.0  # seconds without a word
# name in the log -> name on the bar
SHOWN = {
    "loss": "loss",
    "rewards/margins": "margin",
    "margin": "margin",
    "rewards/accuracies": "accuracy",
    "accuracy": "accuracy",
    "objective/kl": "kl",
    "objective/scores": "reward",
    "completions/mean_length": "length",
    "completions/ended": "ended",
}


class Progress:
    """Steps done, a few figures, tokens a second, time left; on standard error.

    Args:
        settings: `steps` and `log_every` count here.
        done, tokens: steps taken and tokens seen before.
        notes: lines to show first.
        show: False is silent, for all processes but one.
    """

    def __init__(self, settings, done: int, tokens: int, notes: list[str], show: bool = True):
        self.steps, self.every, self.show = settings.steps, settings.log_every, show
        self.began = self.last = time.perf_counter()
        self.first, self.tokens, self.bar = done, tokens, None
        for line in [*notes, *([f"going on from step {done} of {self.steps}"] if done else [])]:
            self.note(line)
        if show and sys.stderr.isatty():
            self.bar = _rich_bar(self.steps, done)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

    def note(self, line: str) -> None:
        """One line that stays."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False)
        elif self.show:
            print(line, file=sys.stderr, flush=True)

    def measured(self, step: int, found: dict[str, float]) -> None:
        """Say what held-out items gave; the time that it took is no step's."""
        self.note(f"held out after step {step}:  " + "  ".join(_figures(found, "eval_")))
        now = time.perf_counter()
        self.began, self.last = self.began + now - self.last, now

    def advance(self, record: dict) -> dict:
        """Show one step's record; returns its wall-clock figures for timing.jsonl."""
        now = time.perf_counter()
        timing = {"step": record["step"], "seconds": now - self.last}
        if "num_tokens" in record:
            timing["tokens_per_second"] = (record["num_tokens"] - self.tokens) / timing["seconds"]
            self.tokens = record["num_tokens"]
        self.last = now
        if self.bar is not None:
            self.bar.update(
                self.bar.tasks[0].id, completed=record["step"], text=_text(record, timing)
            )
        elif record["step"] % self.every == 0 or record["step"] in (self.first + 1, self.steps):
            left = (
                (self.steps - record["step"]) * (now - self.began) / (record["step"] - self.first)
            )
            where = f"step {record['step']}/{self.steps}"
            self.note(f"{where}  {_text(record, timing)}  {_clock(left)} left")
        return timing


def counted(items: Sequence, what: str, show: bool = True) -> Iterator:
    """The items, and now and then a line that says how many are done."""
    last = time.perf_counter()
    for done, item in enumerate(items):
        if show and time.perf_counter() - last > QUIET:
            print(f"{what}: {done / len(items):.0%}", file=sys.stderr, flush=True)
            last = time.perf_counter()
        yield item


def _figures(record: dict, prefix: str = "") -> list[str]:
    named = {f"{prefix}{name}": label for name, label in SHOWN.items()}
    return [f"{label} {record[name]:.4g}" for name, label in named.items() if name in record]


def _text(record: dict, timing: dict) -> str:
    shown = _figures(record)
    if timing.get("tokens_per_second"):
        shown.append(f"{timing['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(shown)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _rich_bar(steps: int, done: int):
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    bar.add_task("train", total=steps, completed=done, text="")
    bar.start()
    return bar
