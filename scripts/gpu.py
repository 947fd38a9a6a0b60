"""What a GPU makes of the library, in one command and one file: `python scripts/gpu.py`.

For a machine with one card, torch, transformers and no network; under nine minutes. What is missing
there travels as wheels in a folder: `pip download -d FOLDER cyclopts accelerate peft pytest trl`,
for its Python and system; those of packages that it has are left alone.

    python scripts/gpu.py --wheels FOLDER       writes gpu.json into dpo_lib/results
    python scripts/gpu.py --dry-run             the same code at a small size on a CPU, 2 minutes

Agreement with the CPU, the tests that need a GPU, seconds and memory of a DPO step beside a plain
one and TRL's, then gpt2-random from SFT to DPO at two betas: chapter 18 draws the file. Each
section is a process of its own with a time limit; one that fails, or for which no time is left,
says so. The sides of a comparison run one after the other, on a card that nobody else uses.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "dpo_lib" / "results" / "gpu.json"
# Name -> seconds without which it is not begun, and its limit.
SECTIONS = {"about": (0, 60), "agreement": (40, 100), "tests": (40, 100)}
SIDES = ("ours, bf16", "TRL default, bf16", "plain, bf16", "ours, LoRA, bf16")
SECTIONS |= {name: (25, 75) for name in SIDES}
NEEDS = {"TRL": "trl", "LoRA": "peft"}  # word in a section's name -> package that may be missing
SECTIONS |= {"train": (100, 260)}
# On a card only, if there is time: the goals do not need them.
MORE = {name: (25, 60) for name in ("ours", "plain", "ours, bf16, in a loop", "TRL best, bf16")}


def in_new_process(name: str, limit: float, dry_run: bool, environment: dict) -> dict:
    """One section's answer, or why there is none."""
    command = [sys.executable, ROOT / "benchmarks/on_gpu.py", name, *["--dry-run"] * dry_run]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            answer, _ = process.communicate(timeout=limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with the compiler's workers
            if isinstance(error, subprocess.TimeoutExpired):
                return {"failed": f"not done after {limit:.0f} s"}
            raise
        said.seek(0)
        last = [line for line in said.read().splitlines() if line.strip()][-1:]
    if process.returncode:
        return {"failed": (last or [f"exit code {process.returncode}"])[0][:300]}
    return json.loads(answer.splitlines()[-1])


def goals(found: dict) -> dict:
    """What one H100 shall reach, and what was reached; None without the numbers."""
    ours, trl = found.get("ours, bf16", {}), found.get("TRL default, bf16", {})

    def over(key: str) -> float | None:
        return ours[key] / trl[key] if key in ours and key in trl else None

    reached = {"tokens_per_second": (ours.get("tokens_per_second"), ">=", 400_000)}
    reached |= {"tokens_per_second / TRL's": (over("tokens_per_second"), ">=", 2)}
    reached |= {"peak_mib / TRL's": (over("peak_mib"), "<=", 0.6)}
    return {
        name: {"value": v, "goal": f"{sign} {goal}", "met": v and (v >= goal) == (sign == ">=")}
        for name, (v, sign, goal) in reached.items()
    }


def main(given: list[str] | None = None, section=in_new_process) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9, help="in all")
    parser.add_argument("--out", type=Path, help="JSON file, instead of the one of chapter 18")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of what is missing here")
    parser.add_argument("--dry-run", action="store_true", help="small, on a CPU")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.wheels and not list(arguments.wheels.glob("*.whl")):
            return mistake(f"--wheels {arguments.wheels}: there are no wheels in it")
        for wheel in sorted(arguments.wheels.glob("*.whl")) if arguments.wheels else ():
            if not is_here(wheel.name.split("-")[0]):
                zipfile.ZipFile(wheel).extractall(folder)
        sys.path[:0] = [str(ROOT), folder]
        path = os.pathsep.join([str(ROOT), folder, os.environ.get("PYTHONPATH", "")])
        return measure(arguments, section, os.environ | {"PYTHONPATH": path.strip(os.pathsep)})


def is_here(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def mistake(line: str) -> int:
    print(f"gpu.py: {line}", file=sys.stderr)
    return 2


def measure(arguments, section, environment: dict) -> int:
    """Section after section; the file is whole after each."""
    from dpo_lib.language_model.files import write_json
    from dpo_lib.results.stored import signed

    dry_run, out = arguments.dry_run, arguments.out or OUT
    if dry_run:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
        out = arguments.out or Path(tempfile.mkdtemp()) / OUT.name
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return mistake(f"--out {out}: {error.strerror}")
    end, found = time.monotonic() + 60 * arguments.minutes - 5, {}  # 5 to write and to end
    for name, (needed, limit) in (SECTIONS if dry_run else SECTIONS | MORE).items():
        started = time.monotonic()
        if (left := end - started) < needed:
            found[name] = {"skipped": f"{left:.0f} s are left, and it takes {needed}"}
        elif missing := [p for word, p in NEEDS.items() if word in name and not find_spec(p)]:
            found[name] = {"skipped": f"{missing[0]} is not here"}
        else:
            found[name] = section(name, min(limit, left), dry_run, environment)
        took = time.monotonic() - started
        print(f"# {name}: {took:.0f} s {json.dumps(found[name])[:300]}", flush=True)
        if name == "about" and "failed" in found[name]:
            return mistake(found[name]["failed"])
        if not dry_run and not found["about"]["machine"]["gpu"]:
            return mistake("no CUDA device: run it where there is one, or with --dry-run")
        result = {"command": "python scripts/gpu.py", "dry_run": dry_run} | found
        write_json(out, signed(result | {"goals": goals(found)}))
    print(out)
    return int(any(part.get("failed") or part.get("holds") is False for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
