"""The reference's log-probabilities of a run's data, computed once and kept in the run's folder.

The reference is frozen and the data do not change, so no step needs to ask it again. Scores hold
for what they were computed from and for nothing else: each of those things is named in the file,
and if one is another now, the data are scored again and a line says which it was.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.files import discard, whole
from dpo_lib.language_model.settings import Settings, TrainingError
from dpo_lib.language_model.training.parallel.processes import micro_batches, processes
from dpo_lib.language_model.training.progress import counted

FILE = "reference.safetensors"
MASK = "every token of a completion with its EOS, summed"  # what a score counts
Score = Callable[[list[int]], Iterator[tuple[list[int], Tensor]]]  # items -> parts, (n, 2) each


class ReferenceScores:
    """log pi_ref of both answers of every item that a run meets, nats: of each pair, say.

    They are computed in the micro-batches and parts in which the first epoch meets the pairs: a
    policy with the reference's weights then gives the same bits, and the margins of the first
    step are exactly 0 on every device.

    Args:
        settings: of the run, `steps` filled in.
        items: of the data, two answers each.
        fingerprint: hashes; those of "data" and "reference" are used.
        dtype: of the scores, float32 or better.
    """

    def __init__(
        self, settings: Settings, items: int, fingerprint: dict[str, str], dtype: torch.dtype
    ):
        self.settings, self.items = settings, items
        self.path = Path(settings.out) / FILE if settings.out else None  # None keeps nothing
        order = ("seed", "batch_size", "accumulate")
        batches = {name: getattr(settings, name) for name in order}
        self.follow_from = {  # name in a message -> what the scores depend on
            "data": fingerprint["data"],
            "model": fingerprint["reference"],
            "mask": MASK,
            "precision": f"{settings.dtype}, {dtype}",
            "batches": f"{batches | {'processes': processes().count}}",
        }
        self.logps = torch.full((items, 2), torch.nan, dtype=dtype)
        self.asked = False  # whether the file has been looked at
        self.scored = 0  # the step up to which the reference has scored all that is met
        self.kept = False  # whether it gave scores, maybe of another machine

    @property
    def complete(self) -> bool:
        """Whether every pair has been scored, so that the reference is not needed any more."""
        return not self.logps.isnan().any()

    def missing(self, last: int) -> list[list[int]]:
        """The batches of steps 1 to `last`, of the first epoch, that have not been scored."""
        settings = self.settings
        steps = range(1, min(last, math.ceil(self.items / settings.batch_size)) + 1)
        batches = [batch_indices(settings.seed, n, settings.batch_size, self.items) for n in steps]
        unknown = self.logps.isnan().any(-1)
        return [batch for batch in batches if unknown[batch].any()]

    @torch.no_grad()
    def up_to(self, last: int, score: Score) -> Tensor:
        """The scores of all pairs that steps 1 to `last` meet, (items, 2); NaN for the others.

        Args:
            score: asks the reference.
        """
        group = processes()
        if not self.asked:
            self.asked = True
            found = group.gather(self._load() if group.main else None)[0]
            self.kept = found is not None
            self.logps = found if self.kept else self.logps
        if batches := self.missing(last):
            batches = counted(batches, "the reference scores the data", group.main)
            self.logps = score_batches(self.logps, batches, score, self.settings.accumulate)
            if group.main and self.path is not None:
                save_scores(self.path, self.follow_from, self.logps)
        return self.logps

    def _load(self) -> Tensor | None:
        """The file's scores, if they hold; else a line that says why not."""
        if self.path is None or not self.path.exists():
            return None
        logps, stale = load_scores(self.path, self.follow_from)
        if logps is None:
            why = f"of another {', '.join(stale)}" if stale else "damaged"
            print(f"{self.path}: not used, it is {why}; scoring again", file=sys.stderr)
        return logps


@torch.no_grad()
def score_batches(
    logps: Tensor, batches: Iterable[list[int]], score: Score, accumulate: int
) -> Tensor:
    """Fill in the rows of these batches, asked for in the pieces in which steps meet them.

    Args:
        logps: (items, 2), on the CPU; NaN where nothing is known.
        score: asks the reference for the items of a piece.

    Returns:
        what all processes have found.
    """
    group = processes()
    for batch in batches:
        for piece in micro_batches(batch, accumulate, group):
            for part, found in score(piece):
                logps[part] = found.cpu()
    for others in group.gather(logps):
        logps = logps.where(~logps.isnan(), others)
    return logps


def ask_reference(stage, step: int) -> None:
    """Have the reference score what a stage meets in steps 1 to `step`, and its held-out rows.

    It never changes, so once is enough; it is let go when there is nothing left to ask it.

    Args:
        stage: with `scores`, `reference`, `policy`, `logps` and `score_held_out`; it gets
            `ref_logps`, shape (items, 2), and `held_out_ref_logps`.
    """
    last = max(step, stage.settings.steps)
    if last <= stage.scores.scored:
        return
    scores = stage.scores.up_to(last, partial(stage.logps, stage.reference))
    stage.ref_logps = scores.to(stage.policy.device)
    if stage.reference is not None:
        stage.held_out_ref_logps = stage.score_held_out(stage.reference)
    stage.scores.scored = last
    if stage.scores.complete:
        stage.reference = None


def save_scores(path: Path, follow_from: dict[str, str], logps: Tensor) -> None:
    """Write log-probabilities with all they depend on, whole or not at all."""
    try:
        if path.is_dir():  # damaged beyond `load_scores`
            discard(path)
        with whole(path) as [scratch]:
            save_file({"logps": logps}, scratch, metadata=_signed(follow_from, logps))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"{path}: cannot save: {reason}") from None


def load_scores(path: Path, follow_from: dict[str, str]) -> tuple[Tensor | None, list[str]]:
    """What `save_scores` wrote, if it follows from the same things.

    Returns:
        the scores, or None; and the names of what is another now: none if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found, logps = file.metadata(), file.get_tensor("logps")
        written = json.loads(found["key"])
        digest = written.pop("sha256")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        return None, []
    if digest != _sha256(logps):
        return None, []
    stale = [name for name in follow_from if written.get(name) != follow_from[name]]
    return (None, stale) if stale or written.keys() != follow_from.keys() else (logps, [])


def _signed(follow_from: dict[str, str], logps: Tensor) -> dict[str, str]:
    """All that the scores depend on and their SHA-256, as one text: safetensors would shuffle."""
    return {"key": json.dumps(follow_from | {"sha256": _sha256(logps)}, sort_keys=True)}


def _sha256(logps: Tensor) -> str:
    return hashlib.sha256(logps.contiguous().view(torch.uint8).numpy()).hexdigest()
