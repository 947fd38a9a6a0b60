"""The book: seconds to build it from an empty cache and again, size of pages, slider step.

Run from the repository's root. Prints a Markdown table and renews _ext/seconds.json, from which
`make book` takes the order of the chapters and the time left. The build happens in a copy. With
`--tests` all of `make test` is timed there too, its own execution of the chapters included.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page import WIDTHS, steps

ROOT = Path(__file__).resolve().parents[1]
SECONDS = ROOT / "_ext/seconds.json"
sys.path.insert(0, str(ROOT / "_ext"))
from execution import Chapters  # noqa: E402


def seconds(tree: Path, *command: str) -> float:
    """Seconds of one run of Python in the tree."""
    start = time.perf_counter()
    result = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stdout[-2000:] + result.stderr[-2000:])
    return time.perf_counter() - start


def tests(tree: Path) -> float:
    """Seconds of `make test` in a tree whose chapters were not executed yet."""
    shutil.rmtree(tree / "_build")
    strict = seconds(tree, "scripts/build.py", "--strict")
    return strict + seconds(tree, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadgroup")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "book"
        shutil.copytree(
            ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", ".*_cache", "_build")
        )
        cold, warm = (seconds(tree, "scripts/build.py") for _ in range(2))
        kept = Chapters(tree)
        chapters = {path.stem: kept.about(path)["seconds"] for path in kept.paths}
        pages = sorted((tree / "_build/html/book").glob("*.html"))
        sizes = {page.stem: page.stat().st_size / 1e6 for page in pages}
        moves = [time for _, times in steps(pages, WIDTHS["desk"]) for time in times]
        tested = tests(tree) if "--tests" in sys.argv else None
    SECONDS.write_text(json.dumps(dict(sorted(chapters.items())), indent=1) + "\n")
    slowest, largest = max(chapters, key=chapters.get), max(sizes, key=sizes.get)
    print("| measured | value | limit |")
    print("|---|---:|---:|")
    print(f"| build from an empty cache | {cold:.0f} s | 300 s |")
    print(f"| slowest chapter ({slowest}) | {chapters[slowest]:.0f} s | 120 s |")
    print(f"| build with nothing changed | {warm:.1f} s | 10 s |")
    if tested is not None:
        print(f"| `make test` from nothing | {tested / 60:.1f} min | 20 min |")
    print(f"| largest page ({largest}) | {sizes[largest]:.2f} MB | 1.5 MB |")
    print(f"| slider step, median of {len(moves)} | {statistics.median(moves):.1f} ms | |")
    print(f"| slider step, slowest | {max(moves):.1f} ms | 16 ms |")


if __name__ == "__main__":
    main()
