"""Try the newest version of everything inside pyproject.toml's bounds: `python scripts/newest.py`.

Prints what is newer than the lock, runs the tests with deprecation warnings as errors, and builds
the book with every warning an error. What fails is run again in the locked environment with one
package at a time made newer, so that the report says which package broke what.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from environment import LIST, LOG, PROJECT, ROOT, asked_for

NEWEST, BLAME = ROOT / ".venv-newest", ROOT / ".venv-blame"
TESTS = ["-m", "pytest", "-q", "-n", "auto", "--dist", "loadgroup", "-rfE"]
TESTS += ["-W", "error::DeprecationWarning", "-W", "error::FutureWarning"]
TESTS += [
    "--deselect",
    "tests/test_environment.py::test_what_is_installed_here_is_what_the_lock_says",
]
BOOK = "the book"


def name_of(requirement: str) -> str:
    """`Jupyter_Book<2  # why` is jupyter-book."""
    return re.split(r"[\s<>=!~;#\[]", requirement.strip())[0].lower().replace("_", "-")


def install(folder: Path, *wanted: str) -> Path:
    """Make an environment anew, or add to it; its Python."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*pip, *wanted], cwd=ROOT, check=True)
    return python


def newest_requirements() -> list[str]:
    """The list without the lock, and without pins of what pyproject.toml bounds itself."""
    bounded = {name_of(line) for line in asked_for(PROJECT)}
    return [line for line in asked_for(LIST) if line[0] != "-" and name_of(line) not in bounded]


def versions(python: Path) -> dict[str, str]:
    listing = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    found = json.loads(subprocess.check_output(listing))
    return {name_of(item["name"]): item["version"] for item in found}


def failures(python: Path, what: list[str]) -> list[str]:
    """Which of some tests, and of the book, fail in an environment; all tests if none is named."""
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    failed, tests = [], [test for test in what if test != BOOK]
    if tests or not what:
        command = [python, *TESTS, *tests]
        text = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ).stdout
        LOG.with_name("newest.log").open("a").write(text)
        told = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", text, re.MULTILINE)
        failed = [test for test, why in told if "the book does not build" not in why]
        if not failed and not re.search(r"\d+ passed", text):
            failed = tests or ["tests"]
    if BOOK in what or not what:
        build = subprocess.run([python, "scripts/build.py", "--strict"], cwd=ROOT, env=environment)
        failed += [BOOK] if build.returncode else []
    return failed


def main() -> int:
    LOG.parent.mkdir(exist_ok=True)
    locked = versions(ROOT / ".venv/bin/python")
    python = install(NEWEST, "--upgrade-strategy", "eager", "-e", ".[language-model,lora]",
                     *newest_requirements())  # fmt: skip
    newest = versions(python)
    changed = {name: new for name, new in newest.items() if locked.get(name, new) != new}
    print("| package | locked | newest |", "|---|---|---|", sep="\n")
    print(*(f"| {name} | {locked[name]} | {new} |" for name, new in changed.items()), sep="\n")
    broken = failures(python, [])
    if not broken:
        print("\nnothing breaks")
        return 0
    print("\n| broken | by |", "|---|---|", sep="\n")
    ours = {name_of(line) for line in (*asked_for(LIST), *asked_for(PROJECT))}
    blamed: dict[str, list[str]] = {test: [] for test in broken}
    for name in sorted(ours & changed.keys()):
        shutil.rmtree(BLAME, ignore_errors=True)
        install(BLAME, "-r", LIST.name)
        one = install(BLAME, f"{name}=={changed[name]}")
        for test in failures(one, broken):
            blamed.setdefault(test, []).append(f"{name} {changed[name]}")
    for test, packages in blamed.items():
        print(f"| {test} | {', '.join(packages) or 'no single package, or the locked ones too'} |")
    return 1


if __name__ == "__main__":
    sys.exit(main())
