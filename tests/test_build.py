"""What the build promises: it fails loudly, is never stale, repeats exactly, and stands alone."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from address import repository_url
from conftest import NOTEBOOKS, ROOT, URL, build, build_or_fail
from execution import Chapters


def tiny_book(root: Path, code: str) -> Path:
    """This book's machinery around a single page with a single code cell."""
    for name in ("_ext", "assets", "dpo_lib"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    cells = [nbformat.v4.new_markdown_cell("# Page"), nbformat.v4.new_code_cell(code)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "page.ipynb")
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_cell_that_raises_fails_every_build_until_it_is_mended(tmp_path):
    tiny_book(tmp_path, "1 / 0")
    for _ in range(2):  # Sphinx by itself forgets the failure and passes the second time
        result = build(tmp_path)
        assert result.returncode != 0
        assert "ZeroDivisionError" in result.stdout


def test_a_line_that_is_printed_in_pieces_stays_one_line(tmp_path):
    pause = 'import time; print("one", end=" ", flush=True); time.sleep(1); print("line")'
    tiny_book(tmp_path, pause)
    assert "one line\n" in (build_or_fail(tmp_path) / "page.html").read_text()


def test_a_broken_docstring_fails_every_build_until_it_is_mended(tmp_path):
    tiny_book(tmp_path, "1 + 1")
    (tmp_path / "book").mkdir()
    (tmp_path / "book/api.md").write_text(
        "# API\n\n```{eval-rst}\n.. automodule:: dpo_lib\n   :members:\n```\n"
    )
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: page\nchapters:\n  - file: book/api\n"
    )
    library = tmp_path / "dpo_lib/__init__.py"
    for text, passes in [("Fine.", True), (":func:`nowhere`", False), (":func:`nowhere`", False)]:
        library.write_text(f'"""{text}"""\n')
        result = build(tmp_path, "--strict")
        assert (result.returncode == 0) == passes, result.stdout[-2000:]
    library.write_text('"""Mended."""\n')
    assert "Mended." in (build_or_fail(tmp_path) / "book/api.html").read_text()


def test_a_chapter_runs_again_when_what_it_imports_changes_and_only_then(tmp_path):
    tiny_book(tmp_path, "import time\n\nimport dpo_lib.used\n\nprint(time.time_ns())")
    used, other, package = (tmp_path / f"dpo_lib/{n}.py" for n in ("used", "other", "__init__"))

    def shown(path: Path, text: str) -> str:
        path.write_text(text)
        page = (build_or_fail(tmp_path) / "page.html").read_text()
        return re.search(r"\b\d{19}\b", page)[0]

    package.write_text("")
    first = shown(used, "answer = 41\n")
    assert shown(used, "answer = 41\n") == first
    assert shown(other, "nobody = 'imports this'\n") == first
    second = shown(used, "answer = 42\n")
    assert second != first
    assert shown(package, "# every chapter imports it\n") != second


def test_a_chapter_that_starts_processes_depends_on_the_whole_library(tmp_path):
    tiny_book(tmp_path, "import subprocess\n\n# nothing of dpo_lib is imported here")
    build_or_fail(tmp_path)
    chapters = Chapters(tmp_path)
    assert chapters.stale() == []
    (tmp_path / "dpo_lib/__main__.py").write_text("# changed\n")
    assert chapters.stale() == chapters.paths


def test_half_an_executed_chapter_is_executed_again(tmp_path):
    tiny_book(tmp_path, "print('whole')")
    build_or_fail(tmp_path)
    kept = Chapters(tmp_path).kept(tmp_path / "page.ipynb")
    kept.write_bytes(kept.read_bytes()[:200])
    assert "whole" in (build_or_fail(tmp_path) / "page.html").read_text()


def test_what_a_library_writes_to_stderr_is_kept_out_of_the_page_and_reported(tmp_path):
    tiny_book(tmp_path, "import sys\n\nprint('deprecated', file=sys.stderr)\nprint('result')")
    for _ in range(2):
        result = build(tmp_path)
        assert result.returncode == 0, result.stdout
        assert "stderr, kept out of the page: deprecated" in result.stdout
        page = (tmp_path / "_build/html/page.html").read_text()
        assert "result" in page and ">deprecated" not in page
    strict = build(tmp_path, "--strict")
    assert strict.returncode != 0 and "deprecated" in strict.stdout


def test_a_solution_that_fails_is_told_and_changes_no_page(tmp_path):
    tiny_book(tmp_path, "answer = 1")
    book = nbformat.read(tmp_path / "page.ipynb", 4)
    for code in ("answer += 1", "assert answer == 3"):
        text = f"<details><summary>Solution</summary>\n\n```python\n{code}\n```\n\n</details>"
        book.cells.append(nbformat.v4.new_markdown_cell(text))
    book.cells.append(nbformat.v4.new_code_cell("print(f'answer {answer}')"))
    nbformat.write(book, tmp_path / "page.ipynb")
    assert "answer 1" in (build_or_fail(tmp_path) / "page.html").read_text()
    about = Chapters(tmp_path).about(tmp_path / "page.ipynb")
    assert about["solutions"] == [None, "AssertionError: "]


def test_a_changed_style_sheet_reaches_the_built_book(tmp_path):
    tiny_book(tmp_path, "1 + 1")
    before = (build_or_fail(tmp_path) / "page.html").read_text()
    with (tmp_path / "assets/book.css").open("a") as style:
        style.write("p { color: red }\n")
    html = build_or_fail(tmp_path)
    assert (html / "_static/book.css").read_text().endswith("p { color: red }\n")
    assert (html / "page.html").read_text() != before, "browsers would keep the old style sheet"


@pytest.fixture(scope="module")
def second_book(built_book, tmp_path_factory):
    """The same book built in another folder; the quick chapters are executed anew there."""
    copy = tmp_path_factory.mktemp("second") / "copy"
    ignored = shutil.ignore_patterns(".*", "_build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(ROOT / "_build/executed", copy / "_build/executed")
    chapters, seconds = Chapters(copy), 0.0
    for path in sorted(chapters.paths, key=lambda path: chapters.about(path)["seconds"]):
        if (seconds := seconds + chapters.about(path)["seconds"]) > 60:
            break
        chapters.kept(path).unlink()
    slug = (repository_url(ROOT) or URL).removeprefix("https://github.com/")
    return build_or_fail(copy, GITHUB_REPOSITORY=slug)


@pytest.mark.xdist_group("second book")
def test_two_builds_are_equal_byte_for_byte(built_book, second_book):
    first, second = files(built_book), files(second_book)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_code_cell_was_executed(built_book, path):
    kept, page = (
        nbformat.read(built_book.parent / folder / "book" / path.name, 4)
        for folder in ("executed", "jupyter_execute")
    )
    counts, shown = (
        [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
        for book in (kept, page)
    )
    written = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert counts == list(range(1, 1 + len(written)))
    assert shown == sorted(set(shown)) and shown[-1] == counts[-1]  # folded neighbours are one


def test_no_page_is_heavier_than_one_and_a_half_megabytes(built_book):
    sizes = {path.name: path.stat().st_size for path in built_book.rglob("*.html")}
    assert {name: size for name, size in sizes.items() if size > 1_500_000} == {}


def test_nothing_is_loaded_from_another_machine(built_book):
    loads = r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=.?(?:https?:)?//"
    links = r"<link\b[^>]*\bhref=.?(?:https?:)?//"
    styles = r"(?:url\(|@import )['\"]?(?:https?:)?//"
    for name, content in files(built_book).items():
        if name.endswith((".html", ".css")):
            found = re.findall(f"{loads}|{links}|{styles}", content.decode())
            assert found == [], name


def test_no_page_names_the_machine_it_was_built_on(built_book):
    home = f"{Path.home()}{os.sep}"
    for page in built_book.rglob("*.html"):
        text = page.read_text()
        for trace in (str(ROOT), home, "ipykernel_", "site-packages"):
            assert trace not in text, f"{trace} in {page.name}"


def test_a_busy_port_is_no_reason_not_to_show_the_book(tmp_path):
    tiny_book(tmp_path, "1 + 1")
    with socket.socket() as busy:
        with suppress(OSError):  # then somebody else has it
            busy.bind(("127.0.0.1", 8000))
            busy.listen()
        command = [sys.executable, ROOT / "scripts/build.py", "--serve"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        try:
            address = re.search(r"http://127\.0\.0\.1:(?!8000)\d+", process.stdout.readline())[0]
            page = urllib.request.urlopen(f"{address}/page.html").read()
        finally:
            process.send_signal(signal.SIGINT)
    assert b"1 + 1" in re.sub(rb"<[^>]*>", b"", page)
    assert process.wait(timeout=30) == 0


def test_an_interrupted_build_keeps_what_was_finished(tmp_path):
    tiny_book(tmp_path, "import time\n\ntime.sleep(100)")
    quick = (tmp_path / "page.ipynb").read_text().replace("time.sleep(100)", "time.sleep(0)")
    (tmp_path / "quick.ipynb").write_text(quick)
    toc = "format: jb-book\nroot: page\nchapters:\n  - file: quick\n"
    (tmp_path / "_toc.yml").write_text(toc)
    chapters = Chapters(tmp_path)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    command = [sys.executable, ROOT / "scripts/build.py"]
    process = subprocess.Popen(command, cwd=tmp_path, **streams)
    while not chapters.kept(tmp_path / "quick.ipynb").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and said.startswith("interrupted: ")
    assert chapters.stale() == [tmp_path / "page.ipynb"]
