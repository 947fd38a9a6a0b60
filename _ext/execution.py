"""Chapters are executed here: as many at a time as there are cores, and only when they must be.

An executed chapter is kept in _build/executed, together with what its outputs depend on: its
cells, the installed versions, and the files of dpo_lib that its kernel had loaded at the end.
The worked solutions of a chapter run in its kernel after its last cell; what became of them is
kept too, for the tests.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from sphinx_external_toc.parsing import parse_toc_yaml

ABOUT = "dpo_book"  # key of our notes in an executed notebook's metadata
CELL_LIMIT = 300  # seconds for one cell
SOLUTION = re.compile(r"<details>\s*<summary>Solution.*?</details>", re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LOADED = """import json as _json, sys as _sys
_files = [getattr(module, "__file__", None) or "" for module in list(_sys.modules.values())]
print(_json.dumps([name for name in _files if "dpo_lib" in name]))"""


class ChapterFailed(Exception):
    """A chapter that does not run, with the traceback of its cell."""


def fingerprint(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def prepare(root: Path) -> None:
    """Set the environment that kernels inherit."""
    os.environ["PYTHONPATH"] = str(root)
    os.environ["DPO_BOOK_BUILD"] = "1"  # sliders then need no kernel
    os.environ["OMP_NUM_THREADS"] = "1"  # the tables are tiny: threads would wait for each other


class Chapters:
    """The notebooks that a book's _toc.yml names, and what was kept of their last executions."""

    def __init__(self, root: Path):
        self.root, self.store = root, root / "_build/executed"
        pages = (root / f"{name}.ipynb" for name in parse_toc_yaml(root / "_toc.yml"))
        self.paths = [page for page in pages if page.exists()]
        installed = {f"{d.name} {d.version}" for d in distributions() if d.name != "dpo-lib"}
        self.environment = fingerprint(sys.version.encode(), "\n".join(sorted(installed)).encode())

    def kept(self, chapter: Path) -> Path:
        """Where the last execution of a chapter is, or would be."""
        return self.store / chapter.relative_to(self.root)

    def stale(self, solutions: bool = False) -> list[Path]:
        """The chapters to execute."""
        return [path for path in self.paths if not self.is_current(path, solutions)]

    def is_current(self, chapter: Path, solutions: bool = False) -> bool:
        """Whether the kept execution is that of these cells, this library, these versions."""
        about = self.about(chapter)
        if about.get("cells") != _cells_hash(chapter, about.get("solved", False)):
            return False
        if about["environment"] != self.environment or (solutions and not about["solved"]):
            return False
        return all(self._hash(name) == known for name, known in about["files"].items())

    def about(self, chapter: Path) -> dict:
        """What is known of the kept execution; {} if there is none, or half a file."""
        try:
            return json.loads(self.kept(chapter).read_text(encoding="utf-8"))["metadata"][ABOUT]
        except (FileNotFoundError, ValueError, KeyError):
            return {}

    def with_outputs(self, chapter: Path, source: str) -> tuple[str, list[str]]:
        """A notebook's text with the kept outputs, and what its cells wrote to stderr."""
        book, kept = nbformat.reads(source, 4), nbformat.read(self.kept(chapter), 4)
        book.metadata.language_info = kept.metadata.language_info  # how Sphinx colours the code
        written = []
        for cell, executed in zip(_code(book), _code(kept), strict=True):
            errors = [out for out in executed.outputs if out.get("name") == "stderr"]
            written += [out.text for out in errors]
            cell.outputs = [out for out in executed.outputs if out not in errors]
            cell.execution_count = executed.execution_count
        return nbformat.writes(book), written

    async def execute(self, chapter: Path, solutions: bool) -> None:
        """Run a chapter in a fresh kernel and keep it.

        Raises:
            ChapterFailed: if a cell raises, or takes too long; nothing is kept then.
        """
        book, started = nbformat.read(chapter, 4), time.perf_counter()
        own = len(book.cells)
        blocks = _solutions(book) if solutions else []
        quiet = {"tags": ["raises-exception"]}
        book.cells += [nbformat.v4.new_code_cell(block, metadata=quiet) for block in blocks]
        book.cells.append(nbformat.v4.new_code_cell(LOADED))
        client = NotebookClient(
            book,
            timeout=CELL_LIMIT,
            coalesce_streams=True,  # a line that a busy kernel sends in two pieces stays one line
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],  # it warns of sockets that stay on this machine
            resources={"metadata": {"path": str(chapter.parent)}},
        )
        try:
            await client.async_execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise ChapterFailed(f"{chapter.relative_to(self.root)}: {error}") from None
        *tried, loaded = book.cells[own:]
        del book.cells[own:]
        book.metadata[ABOUT] = {
            "cells": _cells_hash(chapter, solutions),
            "environment": self.environment,
            "files": {
                name: self._hash(name)
                for name in self._depends_on(book, json.loads(loaded.outputs[0].text))
            },
            "seconds": round(time.perf_counter() - started, 1),
            "solved": solutions,
            "solutions": [_error(cell) for cell in tried],
        }
        self.kept(chapter).parent.mkdir(parents=True, exist_ok=True)
        whole = self.kept(chapter).with_suffix(".tmp")
        nbformat.write(book, whole)
        os.replace(whole, self.kept(chapter))

    def _hash(self, name: str) -> str:
        path = self.root / name
        return fingerprint(path.read_bytes()) if path.exists() else "gone"

    def _depends_on(self, book, loaded: list[str]) -> list[str]:
        """The files of dpo_lib that a kernel loaded, and the data that lie beside them.

        A chapter that starts processes may depend on all of it.
        """
        library = self.root / "dpo_lib"
        files = [Path(name).resolve() for name in loaded]
        ours = {file for file in files if library.resolve() in file.parents}
        if any("subprocess" in cell.source for cell in _code(book)):
            ours = set(library.resolve().rglob("*.py"))
        data = {
            file
            for folder in {file.parent for file in ours}
            for file in folder.iterdir()
            if file.is_file() and file.suffix not in {".py", ".pyc"}
        }
        names = [str(file.relative_to(self.root.resolve())) for file in ours | data]
        if any("check_kernel" in cell.source for cell in _code(book)):
            names += [str(file.relative_to(self.root)) for file in self.root.glob("proofs/*.v")]
            names += [shutil.which("coqc") or "/usr/bin/coqc"]  # the kernel may come later
        return sorted(names)


def _code(book) -> list:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def _solutions(book) -> list[str]:
    """The Python of the folded solutions, one text for each solution."""
    prose = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    folded = [match for text in prose for match in SOLUTION.findall(text)]
    return ["\n".join(PYTHON.findall(text)) for text in folded]


def _cells_hash(chapter: Path, solutions: bool) -> str:
    book = nbformat.read(chapter, 4)
    sources = [cell.source for cell in _code(book)] + (_solutions(book) if solutions else [])
    return fingerprint(*(source.encode() for source in sources))


def _error(cell) -> str | None:
    """The last line of a cell's exception, or None if it ran."""
    raised = [f"{out.ename}: {out.evalue}" for out in cell.outputs if out.output_type == "error"]
    return raised[0] if raised else None


def execute_all(
    chapters: Chapters,
    which: Iterable[Path],
    solutions: bool = False,
    jobs: int | None = None,
    tell: Callable[[str, Path], None] = lambda event, chapter: None,
) -> None:
    """Execute some chapters side by side, in the order given; all of them, also if one fails.

    Args:
        chapters: the book's.
        which: their paths; the longest first is fastest.
        solutions: run the worked solutions too.
        jobs: how many at a time; default: one for each core.
        tell: called with "started", "finished" or "failed" and the chapter, from another thread.

    Raises:
        ChapterFailed: with the tracebacks of all that failed.
        KeyboardInterrupt: after the kernels were shut down; what was finished is kept.
    """
    failures: list[str] = []
    # Not the main thread: nbclient would take Ctrl-C for itself there.
    loop = asyncio.new_event_loop()
    free = asyncio.Semaphore(jobs or os.cpu_count() or 1)

    async def one(chapter: Path) -> None:
        async with free:
            tell("started", chapter)
            try:
                await chapters.execute(chapter, solutions)
            except ChapterFailed as error:
                failures.append(str(error))
                tell("failed", chapter)
            else:
                tell("finished", chapter)

    async def every() -> None:
        await asyncio.gather(*map(one, which))

    task = loop.create_task(every())

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        while thread.is_alive():  # a kernel that is just starting swallows it once
            with suppress(RuntimeError):  # the loop has closed in between
                loop.call_soon_threadsafe(task.cancel)
            thread.join(timeout=2)
        raise
    if failures:
        raise ChapterFailed("\n\n".join(failures))
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        raise error
