"""Build the book: execute what must be, side by side, then write the pages.

`python scripts/build.py` ends with a book whatever chapters and libraries warn about, and says
what it was. With `--strict` every warning is an error and the worked solutions are run, as the
tests want it; `--serve` shows the book. Sphinx's own words go to _build/build.log.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EXTENSION = Path(__file__).resolve().parents[1] / "_ext"
sys.path.insert(0, str(EXTENSION))
from address import repository_url  # noqa: E402
from execution import ChapterFailed, Chapters, execute_all, fingerprint, prepare  # noqa: E402

# What each chapter takes on one core; benchmarks/book.py measures it. Only order and time left
# depend on it.
SECONDS = json.loads((EXTENSION / "seconds.json").read_text())
PAGES = 15  # seconds to write them


class Display:
    """One line that says what runs and how long it may take; without a terminal, a line for each
    chapter that is done."""

    def __init__(self, console: Console, chapters: list[Path], jobs: int):
        self.console, self.jobs = console, jobs
        self.waiting = {path.stem: SECONDS.get(path.stem, 10.0) for path in chapters}
        self.running: dict[str, float] = {}
        self.expected = self.taken = 1.0
        columns = ["{task.completed} of {task.total} chapters", "{task.description}"]
        self.bar = Progress(
            BarColumn(20), *map(TextColumn, columns), console=console, transient=True
        )
        self.task = self.bar.add_task("", total=len(chapters))

    def tell(self, event: str, chapter: Path) -> None:
        name, now = chapter.stem, time.perf_counter()
        if event == "started":
            self.running[name] = now
        else:
            seconds = now - self.running.pop(name)
            self.expected, self.taken = self.expected + self.waiting.pop(name), self.taken + seconds
            self.bar.advance(self.task)
            if not self.console.is_terminal or event == "failed":
                self.console.print(f"{name} {event} after {seconds:.0f} s", highlight=False)
        self.bar.update(self.task, description=self._description(now))

    def _description(self, now: float) -> str:
        """The time left as if the rest went at the pace of what is done."""
        spent = sum(now - since for since in self.running.values())
        rest = sum(self.waiting.values()) * self.taken / self.expected - spent
        minutes = max(rest, 0) / self.jobs + PAGES
        left = f"{minutes / 60:.0f} min" if minutes > 90 else f"{max(10, round(minutes, -1)):.0f} s"
        return f"about {left} left · {', '.join(self.running)}"


def execute(console: Console, chapters: Chapters, strict: bool) -> None:
    """Execute the chapters that must be, the longest first."""
    jobs = os.cpu_count() or 1
    stale = chapters.stale(strict)
    stale.sort(key=lambda path: -SECONDS.get(path.stem, 10.0))
    if stale:
        display = Display(console, stale, jobs)
        with display.bar:
            execute_all(chapters, stale, strict, jobs, display.tell)


def state_of(root: Path, chapters: Chapters) -> str:
    """Hash of all that the pages can depend on: the tree, the versions, the address."""
    tree = (here for here in root.iterdir() if here.name[0] != "." and here.name != "_build")
    files = (file for here in tree for file in ([here] if here.is_file() else here.rglob("*")))
    files = sorted(f for f in files if f.is_file() and "__pycache__" not in f.parts)
    parts = (part for file in files for part in (str(file).encode(), file.read_bytes()))
    address = f"{repository_url(root)} {os.environ.get('GITHUB_REF_NAME')}"
    return fingerprint(*parts, chapters.environment.encode(), address.encode())


def write_pages(root: Path, strict: bool) -> tuple[int, list[str]]:
    """Run Jupyter Book with its output in the log; its exit code and what it warned of."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-n", "--keep-going"]
    log = root / "_build/build.log"
    with log.open("w") as file:
        options = ["-W"] if strict else []
        code = subprocess.run(
            [*command, *options], cwd=root, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    text = re.sub(r"\x1b\[[\d;]*m", "", log.read_text())
    return code, re.findall(
        r"^.*(?:WARNING|ERROR|CRITICAL|Exception|Error): .*", text, re.MULTILINE
    )


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each request."""

    def log_message(self, *arguments):
        pass


def serve(folder: Path) -> None:
    """Serve a folder to this machine until Ctrl-C, on port 8000 or the next free one."""
    handler = partial(Quiet, directory=folder)
    for port in range(8000, 8100):
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            continue
        print(f"the book is at http://127.0.0.1:{port} (Ctrl-C stops it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
    sys.exit("no port from 8000 to 8099 is free: open _build/html/index.html from disk")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument("--serve", action="store_true", help="serve the book afterwards")
    given = parser.parse_args()
    strict, root, console = given.strict, Path.cwd(), Console(stderr=True)
    prepare(root)
    (root / "_build").mkdir(exist_ok=True)
    try:
        chapters, clean = Chapters(root), root / "_build/clean"
        execute(console, chapters, strict)
        code, warnings, state = 0, [], state_of(root, chapters)
        if not clean.exists() or clean.read_text() != state or not (root / "_build/html").exists():
            clean.unlink(missing_ok=True)
            with console.status("writing the pages"):
                code, warnings = write_pages(root, strict)
            if code == 0 and not warnings:
                clean.write_text(state)
    except ChapterFailed as error:
        (root / "_build/build.log").write_text(str(error))
        print(error, "no book: a chapter does not run (also in _build/build.log)", sep="\n\n")
        return 1
    except KeyboardInterrupt:
        print("interrupted: chapters that were finished will not be executed again")
        return 130
    print(*warnings[:20], sep="\n", end="\n" * bool(warnings))
    if code != 0:
        print("no book: see _build/build.log")
    elif warnings:
        print("the book stands in spite of that; _build/build.log has all of it")
    if code == 0 and given.serve:
        serve(root / "_build/html")
    return code


if __name__ == "__main__":
    sys.exit(main())
