"""A training log, ours or TRL's, and what its numbers say of a run.

The log is our `metrics.jsonl`, a run folder that holds one, or TRL's `trainer_state.json` / log
history; both use TRL's names.
"""

import json
import math
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch

from dpo_lib.variants import LOSSES, choose_loss

EXACT = 1e-6  # what two equal float32 computations may differ by
NEEDED = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
          "logps/chosen", "logps/rejected")  # fmt: skip
KTO_SIDES = ("desirable", "undesirable")


@dataclass(frozen=True)
class Log:
    """Rows of training metrics in the order written, and the settings of the run if known."""

    rows: list[dict]
    settings: dict = field(default_factory=dict)
    measured: list[dict] = field(default_factory=list)  # rows of held-out items

    def series(self, *names: str) -> list[tuple[int, float]]:
        """(step, value) of the first of `names` that the log has; NaN and infinities included."""
        for name in names:
            found = [(r["step"], r[name]) for r in self.rows if is_number(r.get(name))]
            if found:
                return found
        return []

    def held_out(self, *names: str) -> list[tuple[int, float]]:
        """`series` of held-out items, whose names have `eval_` before them."""
        return Log(self.measured).series(*(f"eval_{name}" for name in names))

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

    @property
    def draws(self) -> bool:
        """Whether the run draws its own pairs, and so meets none twice (online DPO)."""
        return self.is_dpo and bool(self.series("objective/scores"))

    @property
    def is_kto(self) -> bool:
        """Whether single answers are labelled, with a reference point and no order of pairs."""
        rewarded = self.series("rewards/chosen") or self.series("rewards/rejected")
        return bool(rewarded and self.series("kl") and not self.series("rewards/accuracies"))

    @property
    def complete(self) -> list[dict]:
        """Rows with all that DPO logs, every number finite."""
        return [row for row in self.rows if all(is_finite(row.get(name)) for name in NEEDED)]

    @property
    def epochs(self) -> list[list[dict]]:
        """The rows of each epoch over the same pairs that is logged in full, step by step."""
        rows = [row for row in self.complete if is_finite(row.get("epoch"))]
        if self.draws or not rows or [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
            return []
        parts = [list(part) for _, part in groupby(rows, lambda r: math.ceil(r["epoch"] - EXACT))]
        return [part for part in parts if len(part) == len(parts[0])]

    @property
    def fresh(self) -> list[dict]:
        """Rows of the first epoch, in which each pair is scored before it is trained on.

        None of a run that draws its pairs: its policy has made them itself.
        """
        rows = [row for row in self.complete if is_finite(row.get("epoch"))]
        return [row for row in rows if row["epoch"] <= 1 + EXACT and not self.draws]

    @property
    def loss_name(self) -> str:
        """Its name in `dpo_lib.variants`, or kto; TRL's default if the settings are not known."""
        if self.is_kto:
            return "kto"
        name = self.settings.get("loss", self.settings.get("loss_type", "sigmoid"))
        return "cdpo" if name == "sigmoid" and self.settings.get("label_smoothing") else str(name)

    @property
    def divergence(self) -> str:
        """The divergence from the reference whose optimum the loss aims at."""
        return str(self.settings.get("f_divergence_type", "reverse_kl"))

    @property
    def sees_more(self) -> bool:
        """Whether the loss is known to look beyond a pair's two rewards, at lengths or as SFT."""
        loss = LOSSES.get(self.loss_name)
        return bool(self.settings.get("rpo_alpha") or (loss and loss.lengths))

    def loss_at(self, chosen: float, rejected: float) -> float | None:
        """The loss of a pair with these two rewards; None if it does not follow from them.

        KTO's is that of a batch, whose share of desirable answers is not logged. It plays no part
        where both rewards are 0 and both weights the same.
        """
        name, beta = self.loss_name, self.settings.get("beta", 1.0)
        if name == "kto":
            good, bad = (self.settings.get(f"{side}_weight", 1.0) for side in KTO_SIDES)
            known = is_number(good) and good == bad and chosen == rejected == 0
            return good / 2 if known else None
        if name not in LOSSES or "beta" not in LOSSES[name].settings or self.sees_more:
            return None
        if name in ("ipo", "sppo_hard", "discopop", "exo_pair") and "beta" not in self.settings:
            return None  # in these beta is more than the unit of the rewards
        keys = ["label_smoothing", "dpop_lambda", "f_divergence_type"]
        keys += ["f_alpha_divergence_coef"] * (self.divergence == "alpha_divergence")
        told = {key: self.settings[key] for key in keys if key in self.settings}
        loss = choose_loss(name, beta, **told)
        pair = torch.tensor([[chosen / beta, rejected / beta, 0.0, 0.0]], dtype=torch.float64)
        return loss(*pair.unbind(-1)).item()


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
    found = [row for row in _rows(text, path) if isinstance(row.get("step"), int)]
    named = {"loss", "objective/kl", "objective/scores"}
    rows = [row for row in found if named & row.keys()]
    if not rows:
        raise ValueError(f"{path}: not a training log (no row with a step and a loss)")
    measured = [row for row in found if any(name.startswith("eval_") for name in row)]
    return Log(rows, _settings(path.with_name("settings.json")), measured)


def read_logs(paths: list[str]) -> dict[str, Log]:
    """Read several logs; a run's name is the last part of its path.

    Raises:
        ValueError: as `read_log`, or if two runs have one name.
    """
    logs: dict[str, Log] = {}
    for path in paths:
        name = Path(path).resolve().name
        if name in logs:
            raise ValueError(f"two runs are called {name}: rename a folder, or take them apart")
        logs[name] = read_log(path)
    return logs


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


def is_finite(value: object) -> bool:
    """A number that is neither NaN nor infinite."""
    return is_number(value) and math.isfinite(value)


def is_number(value: object) -> bool:
    """A number of JSON, NaN and infinities included."""
    return isinstance(value, int | float) and not isinstance(value, bool)
