"""A run's folder: what it was started with, its log, its checkpoints, its model.

    RUN/settings.json    settings, command, hashes, versions, machine, what the run does
    RUN/metrics.jsonl    one JSON object for each step; the same bytes whatever was killed
    RUN/samples.jsonl    completions of held-out prompts as text, where --samples asks for them
    RUN/pairs.jsonl      what an online stage drew and had judged, as rows that `dpo dpo` reads
    RUN/timing.jsonl     seconds and tokens a second, which are never the same twice
    RUN/trackers/        what a tracker writes, where --report-to names one that writes files
    RUN/checkpoints/     the newest two, and the best by --metric-for-best-model
    RUN/model/           the trained model, when the run is finished
    RUN/report.html      what came of it, by the commands of `dpo`

A folder belongs to one run: another is never mixed into it, and two processes never share it.
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from dpo_lib.language_model import files
from dpo_lib.language_model.training import checkpoint

try:
    import fcntl
except ImportError:  # Windows: no lock, everything else holds
    fcntl = None
MAY_DIFFER = {
    "out",
    "resume",
    "save_every",
    "log_every",
    "report_to",
}  # they change no weight and no log line
LOCK, SETTINGS, TIMING = ".lock", "settings.json", "timing.jsonl"
METRICS, SAMPLES, PAIRS = "metrics.jsonl", "samples.jsonl", "pairs.jsonl"


class RunError(ValueError):
    """Why a run cannot start, go on or save, in one line."""


class RunFolder:
    """The folder of one run. With several processes, only the main one writes.

    Args:
        path: RUN; made here, and refused if it is another run's.
        settings: a dataclass; every field but `MAY_DIFFER` is fixed for the run.
        facts: further JSON to hold fixed, name -> value: the stage, the hashes.
        resume: go on where a killed run stopped; a folder that is not there is started.
        main: whether this process writes.
        about: what the run does, kept as it was when the run began.
        keeps: names of further files of JSON lines that the run writes.
    """

    def __init__(
        self,
        path: Path,
        settings,
        facts: dict,
        resume: bool,
        main: bool = True,
        about: dict | None = None,
        keeps: Iterable[str] = (),
    ):
        self.path, self.main, self.notes = Path(path), main, []
        self.exact = (METRICS, *keeps)  # cut back to a checkpoint on resume
        self._files, self._lock = {}, None
        if main:
            try:
                self._open(_fixed(settings), facts, about, resume)
            except OSError as error:
                raise RunError(f"{path}: {error.strerror or error}") from None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        for file in (*self._files.values(), self._lock):
            if file is not None:
                file.close()

    def load(self) -> checkpoint.Checkpoint | None:
        """The newest complete checkpoint; the log is cut back to it."""
        found = checkpoint.load(self.path)
        self.notes += [f"passed over {reason}" for reason in (found.passed_over if found else ())]
        if self.main:
            self._cut_back(found.extras["sizes"] if found else {})
        return found

    def log(
        self, record: dict, timing: dict | None = None, rows: dict[str, list[dict]] | None = None
    ) -> None:
        """Add a step's lines, or a measurement's; `rows` are those of other files, by name.

        Raises RunError when the disk is full.
        """
        if self.main:
            lines = {METRICS: [record], TIMING: [timing] if timing else []} | (rows or {})
            try:
                for name, objects in lines.items():
                    text = "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in objects)
                    self._files[name].write(text.encode())
                    self._files[name].flush()
            except OSError as error:
                raise RunError(f"{self.path}: cannot write the log: {error.strerror}") from None

    def save(
        self, step: int, tensors: dict[str, Tensor], extras: dict, best: int | None = None
    ) -> None:
        """Save a checkpoint, after the log lines that lead to it are on the disk.

        Args:
            best: the step whose checkpoint is kept beside the newest.
        """
        if self.main:
            try:
                for name in self.exact:
                    os.fsync(self._files[name].fileno())
            except OSError as error:
                raise RunError(f"{self.path}: cannot write the log: {error.strerror}") from None
            sizes = {name: (self.path / name).stat().st_size for name in self.exact}
            checkpoint.save(self.path, step, tensors, {**extras, "sizes": sizes}, also=best)

    def finish(self, save: Callable[[Path], None]) -> Path:
        """RUN/model, whole or not there; one that is there already is left alone."""
        final = self.path / "model"
        if self.main and not final.exists():
            try:
                with files.whole(final) as [scratch]:
                    save(scratch)
            except (OSError, SafetensorError) as error:
                reason = getattr(error, "strerror", None) or error
                raise RunError(f"{final}: cannot save: {reason}") from None
        return final

    def require_space(self, needed: int) -> None:
        """Raise RunError before the first step rather than at the hundredth."""
        if self.main and (free := shutil.disk_usage(self.path).free) < needed:
            raise RunError(
                f"{self.path}: checkpoints need {needed >> 20} MiB, the disk has {free >> 20} MiB"
            )

    def _open(self, fixed: dict, facts: dict, about: dict | None, resume: bool) -> None:
        _refuse_links(self.path)
        present = sorted(os.listdir(self.path)) if self.path.exists() else []
        if present and not resume:
            raise RunError(f"{self.path} exists already: add --resume, or choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        for folder in (self.path, self.path / "checkpoints"):
            files.remove_leftovers(folder)
        if (self.path / SETTINGS).exists():
            self._compare(fixed | facts)
        elif any(name != LOCK and not name.startswith(files.TEMPORARY) for name in present):
            raise RunError(f"{self.path} is not the folder of a run: it has no {SETTINGS}")
        else:
            if resume:
                self.notes.append(f"{self.path} holds no run yet: starting from the first step")
            also = {"command": sys.argv, "machine": machine(), "about": about}
            files.write_json(self.path / SETTINGS, fixed | facts | also)
        for name in (*self.exact, TIMING):
            self._files[name] = open(self.path / name, "ab")  # noqa: SIM115 (closed in __exit__)

    def _compare(self, fixed: dict) -> None:
        try:
            before = dict(json.loads((self.path / SETTINGS).read_text()))
            was = dict(before.pop("machine"))
            _ = before.pop("command"), before.pop("about", None)
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{self.path / SETTINGS}: cannot be read") from None
        differences = _differences(before, fixed)
        if differences:
            raise RunError(f"{self.path}: --resume with other settings: {differences}")
        if changed := _differences(was, machine()):
            self.notes.append(f"not the same machine, so not the same last bits: {changed}")

    def _cut_back(self, sizes: dict[str, int]) -> None:
        for name in self.exact:
            have, size = (self.path / name).stat().st_size, sizes.get(name, 0)
            if have < size:
                raise RunError(f"{self.path / name}: {have} bytes, the checkpoint has seen {size}")
            self._files[name].truncate(size)


def machine() -> dict:
    """What the last bits of a result depend on."""
    names = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "dpo-lib")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "gpu": gpu,
        **{name: version for name in names if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fixed(settings) -> dict:
    kept = {key: value for key, value in asdict(settings).items() if key not in MAY_DIFFER}
    return json.loads(json.dumps(kept, default=str))


def _differences(before: dict, now: dict) -> str:
    """ "lr 1e-06 -> 2e-06, seed 0 -> 1", or nothing."""
    keys = sorted(before.keys() | now.keys())
    changed = [key for key in keys if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed)


def _refuse_links(path: Path) -> None:
    """A link inside a run's folder would lead its writes out of it."""
    for entry in sorted(path.iterdir()) if path.exists() else []:
        if entry.is_symlink():
            raise RunError(f"{entry}: a symbolic link is not followed")


def _lock(path: Path):
    """Hold the folder for this process; the system lets go when the process ends, however."""
    file = open(path / LOCK, "w")  # noqa: SIM115 (closed with the run)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunError(f"{path}: another process is training in it") from None
    return file
