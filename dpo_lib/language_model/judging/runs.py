"""What is said of a run: its log, its samples and its settings, read and put into words."""

import json
import shlex
import statistics
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from dpo_lib.language_model import settings as defaults
from dpo_lib.language_model.judging.curves import PANELS
from dpo_lib.language_model.judging.doctor.diagnosis import lines as diagnosis
from dpo_lib.language_model.judging.training_log import Log, is_number, read_logs

STAGES = {
    "SFT": defaults.SFTSettings,
    "Reward": defaults.RewardSettings,
    "DPO": defaults.DPOSettings,
    "KTO": defaults.KTOSettings,
    "OnlineDPO": defaults.OnlineDPOSettings,
    "PPO": defaults.PPOSettings,
}
FIGURES = {name: title for title, names in PANELS for name in names}
# Figures of which the best is worth a look; the least KL is that of the start.
BEST = ("loss", "rewards/margins", "margin", "rewards/accuracies", "accuracy", "objective/scores")
OVERVIEW = ("run", "stage", "model", "data", "steps", "held-out loss", "held-out reward", "doctor")


@dataclass(frozen=True)
class Run:
    """A run's folder, read; what it does not have is empty."""

    name: str
    log: Log
    samples: list[dict]
    timing: list[dict]

    @property
    def settings(self) -> dict:
        return self.log.settings

    @property
    def diagnosis(self) -> list[str]:
        """What the doctor says."""
        return diagnosis(self.log)

    @property
    def verdict(self) -> str:
        """What the doctor says first, "nothing found" or the rule that fired."""
        return ": ".join(self.diagnosis[0].split(": ")[:2])


def read_runs(paths: list[str]) -> list[Run]:
    """Read runs: folders of ours or TRL's, or logs.

    Raises:
        ValueError: in one line, if one has no log, or two have one name.
    """
    runs = []
    for (name, log), path in zip(read_logs(paths).items(), map(Path, paths), strict=True):
        folder = path if path.is_dir() else path.parent
        samples, timing = (_objects(folder / f"{file}.jsonl") for file in ("samples", "timing"))
        runs.append(Run(name, log, samples, timing))
    return runs


def _objects(path: Path) -> list[dict]:
    """The objects of a file of JSON lines, which need not be there."""
    if not path.is_file():
        return []
    whole, found = path.read_bytes().rpartition(b"\n")[0], []  # a killed run may leave half a line
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            found.append(json.loads(line.decode()))
        except (ValueError, RecursionError):
            raise ValueError(f"{path}:{number}: not JSON; move the file to go without") from None
    return [row for row in found if isinstance(row, dict)]


def sentence(run: Run) -> str:
    """What was trained on what."""
    given, about = run.settings, _dictionary(run.settings.get("about"))
    last = run.log.rows[-1]["step"]
    if not given:
        return f"A log of {last:,} steps, with no settings.json beside it."
    words = [f"{given.get('stage')} from {given.get('model')} on {given.get('data')}"]
    if "items" in about:
        tokens = f" of {_count(about['tokens'])} tokens" if about.get("tokens") else ""
        words.append(f"{_count(about['items'])} items{tokens}")
    if "parameters" in about:
        of = f"{_count(about.get('trained'))} of {_count(about['parameters'])}"
        words.append(f"{of} parameters trained")
    if "device" in about:
        words.append(f"on {about['device']}, computed in {about.get('computes in')}")
    words.append(f"{last:,} of {_count(given.get('steps'))} steps of {given.get('batch_size')}")
    if given.get("eval_data"):
        words.append(f"watched on {given['eval_data']}")
    if given.get("metric_for_best_model"):
        words.append(f"kept as it was at its best {given['metric_for_best_model']}")
    return ", ".join(words) + "."


def overview(run: Run) -> list[str]:
    """The cells under `OVERVIEW`, after the name."""
    given = [_text(run.settings.get(name)) for name in ("stage", "model", "data")]
    ends = []
    for name in ("loss", "objective/scores"):
        values = [number(value) for _, value in run.log.held_out(name)]
        ends.append(" to ".join([values[0], values[-1]]) if values else "–")
    return [*given, f"{run.log.rows[-1]['step']:,}", *ends, run.verdict]


def outcome(run: Run) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: held-out figures at the start, at the end and at their best.

    Training's own where nothing was held out.
    """
    held_out, before = run.log.measured, "eval_"
    rows = held_out or run.log.rows
    names = [f"{before if held_out else ''}{name}" for name in FIGURES]
    series = {name: Log(rows).series(name) for name in names}
    steps = [step for points in series.values() for step, _ in points] or [0]
    ends = [min(steps), max(steps)]
    table = []
    for name, points in series.items():
        if points:
            plain = name.removeprefix(before)
            at_ends = [_at(points, step) for step in ends]
            table.append([FIGURES[plain], *at_ends, *([_best(plain, points)] if held_out else [])])
    head = ["held out" if held_out else "in training", *(f"step {step:,}" for step in ends)]
    return [*head, *(["best"] if held_out else [])], table


def _at(points: list[tuple[int, float]], step: int) -> str:
    return next((number(value) for at, value in points if at == step), "–")


def _best(name: str, points: list[tuple[int, float]]) -> str:
    points = [(step, value) for step, value in points if value == value]  # a NaN is never the best
    if name not in BEST or not points:
        return "–"
    better = min if name in defaults.LOWER_IS_BETTER else max
    step, value = better(points, key=lambda point: point[1])
    return f"{number(value)} at step {step:,}"


def samples(run: Run) -> list[dict]:
    """The same prompts' completions at the first measurement and at the last.

    Returns:
        "prompt", "before" and "after", each with "text" and "said"; "before" is None where the
        run has one measurement only.
    """
    rows = [row for row in run.samples if isinstance(row.get("step"), int) and "prompt" in row]
    if not rows:
        return []
    steps = [min(row["step"] for row in rows), max(row["step"] for row in rows)]
    first, last = ([row for row in rows if row["step"] == step] for step in steps)
    waiting: dict[str, list[dict]] = {}
    for row in first if steps[0] < steps[1] else []:
        waiting.setdefault(str(row["prompt"]), []).append(row)
    pairs = []
    for row in last:
        others = waiting.get(str(row["prompt"]))
        before = _sample(others.pop(0)) if others else None
        pairs.append({"prompt": str(row["prompt"]), "before": before, "after": _sample(row)})
    return pairs


def _sample(row: dict) -> dict:
    said = [f"step {row['step']:,}"]
    said += [f"reward {number(row['reward'])}"] if is_number(row.get("reward")) else []
    said += [f"KL {number(row['kl'])} nats"] if is_number(row.get("kl")) else []
    said += ["cut at the limit"] if row.get("ended") is False else []
    return {"text": str(row.get("completion", "")), "said": ", ".join(said)}


def settings(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and default; those that differ come first."""
    kind = STAGES.get(run.settings.get("stage"))
    default = {field.name: field.default for field in fields(kind)} if kind else {}
    given = {name: value for name, value in run.settings.items() if name in default}
    names = sorted(given, key=lambda name: given[name] == default[name])
    return [(name, _text(given[name]), _text(default[name])) for name in names]


def surroundings(run: Run) -> list[tuple[str, str]]:
    """Name and value of what the last bits depend on: versions, hashes; and what it took."""
    seconds, speeds = (
        [row[name] for row in run.timing if is_number(row.get(name))]
        for name in ("seconds", "tokens_per_second")
    )
    machine = _dictionary(run.settings.get("machine"))
    rows = [(name, _text(value)) for name, value in machine.items()]
    rows += [(name, _text(v)) for name, v in run.settings.items() if name.endswith(" (hash)")]
    rows += [("time in steps", f"{sum(seconds):,.0f} s")] if seconds else []
    rows += [("speed, median", f"{statistics.median(speeds):,.0f} tokens/s")] if speeds else []
    return rows


def command(run: Run) -> str:
    """The command that repeats the run, quoted for a shell; "" where it was not kept."""
    words = run.settings.get("command")
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        return ""
    program, *arguments = words
    processes = _dictionary(run.settings.get("machine")).get("processes", 1)
    if is_number(processes) and processes > 1:
        begin = ["accelerate", "launch", "--num_processes", str(processes), "-m", "dpo_lib"]
    else:
        inside = Path(program).parts[-2:] == ("dpo_lib", "__main__.py")
        begin = ["dpo"] if inside or Path(program).stem == "dpo" else ["python", program]
    return shlex.join([*begin, *arguments])


def number(value: float) -> str:
    """A figure of the log as a person reads it."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _count(value: object) -> str:
    return f"{value:,}" if is_number(value) else str(value)


def _text(value: object) -> str:
    if value is None or value is MISSING:
        return "none" if value is None else "must be given"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _dictionary(value: object) -> dict:
    return value if isinstance(value, dict) else {}
