"""The book: seconds to build it from an empty cache and again, size of pages, slider step.

Run from the repository's root. Prints a Markdown table and renews _ext/seconds.json, from which
`make book` takes the order of the chapters and the time left. The build happens in a copy. With
`--tests` all of `make test` is timed there too, its own execution of the chapters included.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SECONDS = ROOT / "_ext/seconds.json"
sys.path.insert(0, str(ROOT / "_ext"))
from execution import Chapters  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SLIDER_STEPS = """() => [...document.querySelectorAll(".dpo-slider input")].flatMap(input =>
  [...Array(Number(input.max) + 1).keys()].map(value => {
    const start = performance.now();
    input.value = value;
    input.dispatchEvent(new Event("input"));
    input.parentElement.parentElement.getBoundingClientRect();  // forces the layout
    return performance.now() - start;
  }))"""


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


def slider_steps(pages: list[Path]) -> list[float]:
    """Milliseconds from the input event to the finished layout, for each slider position.

    The median of five passes: a single one would time the machine's other work too.
    """
    options = {"args": ["--no-sandbox"], "executable_path": os.environ.get("CHROMIUM", CHROMIUM)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        page, steps = browser.new_page(), []
        for path in pages:
            page.goto(path.as_uri())
            page.evaluate("window.MathJax?.startup.promise")  # or its typesetting is timed too
            page.wait_for_timeout(500)
            passes = [page.evaluate(SLIDER_STEPS) for _ in range(5)]
            steps += map(statistics.median, zip(*passes, strict=True))
        browser.close()
    return steps


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
        steps = slider_steps(pages)
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
    print(
        f"| slider step, median of {len(steps)} positions | {statistics.median(steps):.1f} ms | |"
    )
    print(f"| slider step, slowest position | {max(steps):.1f} ms | 16 ms |")


if __name__ == "__main__":
    main()
