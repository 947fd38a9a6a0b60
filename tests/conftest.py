"""The book's sources, the built book, and a browser that looks at it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from playwright.sync_api import sync_playwright

os.environ["OMP_NUM_THREADS"] = "1"  # the tables are tiny: threads would wait for each other
ROOT = Path(__file__).parents[1]
URL = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
SOURCES = [TOC["root"]] + [page["file"] for part in TOC["parts"] for page in part["chapters"]]
NOTEBOOKS = sorted(ROOT.glob("book/*.ipynb"))


def pytest_collection_modifyitems(items):
    for item in items:
        if "built_book" in getattr(item, "fixturenames", ()):
            item.add_marker("book")


def build(root: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """Do what `make build` does, in the tree at root; what it says is in the result's stdout."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts/build.py", *options],
        cwd=root,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build_or_fail(root: Path, **environment: str) -> Path:
    """Build the tree at root without a warning, and return the folder of its pages."""
    result = build(root, "--strict", **environment)
    if result.returncode != 0:
        pytest.fail(f"the book does not build:\n{result.stdout[-4000:]}", pytrace=False)
    return root / "_build/html"


@pytest.fixture(scope="session")
def built_book(testrun_uid) -> Path:
    """Folder of the book's pages: one build for all the processes that run tests."""
    (ROOT / "_build").mkdir(exist_ok=True)
    built_for = ROOT / "_build/tested"
    with FileLock(f"{built_for}.lock"):
        if not built_for.exists() or built_for.read_text() != testrun_uid:
            build_or_fail(ROOT)
            built_for.write_text(testrun_uid)
    return ROOT / "_build/html"


@pytest.fixture(scope="session")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("no browser: install chromium, or set CHROMIUM to its path")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # root cannot have a sandbox
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()
