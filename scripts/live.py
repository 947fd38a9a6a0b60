"""Fetch what runs Python in the book's pages: `python3 scripts/live.py`, once.

Pyodide comes from npm, sympy and mpmath from the package index, each in one exact version whose
bytes are checked. They go to _live/, 21 MB, and the build puts them beside the pages. Only the
standard library is used, so that no environment is needed.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "_live"
PYODIDE = "pyodide@314.0.7"
WHEELS = ["sympy==1.14.0", "mpmath==1.3.0"]
HASHES = {
    "pyodide-314.0.7.tgz": "66b7949e5a0cba2250b586d7e368bf12fb482800748d182c4618254b685ffaa0",
    "sympy-1.14.0-py3-none-any.whl": (
        "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5"
    ),
    "mpmath-1.3.0-py3-none-any.whl": (
        "a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c"
    ),
}
KEPT = [  # of Pyodide; package.json names its licence and where its source is
    *("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip"),
    *("pyodide-lock.json", "package.json"),
]
NOTICE = """\
Third-party software in this folder, unchanged:

- Pyodide 314.0.7 (pyodide.*), Mozilla Public License 2.0. package.json names its repository,
  where its source is.
- CPython 3.14 (python_stdlib.zip, pyodide.asm.wasm), Python Software Foundation License 2.
- sympy 1.14.0 and mpmath 1.3.0, BSD 3-Clause; the texts are in their wheels.
"""


def run(what: str, *command: str) -> None:
    """Run a command quietly; stop with one sentence if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        sys.exit(f"{what} was not fetched: {said[-1]}")


def checked(file: Path) -> Path:
    """The file, if it is the one that is meant."""
    if hashlib.sha256(file.read_bytes()).hexdigest() != HASHES[file.name]:
        sys.exit(f"{file.name} is not the file that scripts/live.py knows: its hash differs")
    return file


def fetch(folder: Path) -> None:
    """Put the archive of Pyodide and the wheels into a folder."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is missing: install it (Debian, Ubuntu: apt install npm) and try again")
    run("Pyodide", npm, "pack", PYODIDE, "--silent", "--pack-destination", str(folder))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    run("sympy", *pip, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), *WHEELS)


def unpack(folder: Path, target: Path) -> None:
    """Check what was fetched, and keep of it what a browser needs."""
    archive, *wheels = (checked(folder / name) for name in HASHES)
    target.mkdir()
    with tarfile.open(archive) as packed:
        for name in KEPT:
            (target / name).write_bytes(packed.extractfile(f"package/{name}").read())
    for wheel in wheels:
        shutil.copy(wheel, target)
    (target / "NOTICE.txt").write_text(NOTICE)


def main() -> None:
    made = json.dumps([HASHES, KEPT, NOTICE])
    stamp = LIVE / "made.json"
    if stamp.exists() and stamp.read_text() == made:
        return
    print("Fetching Python for the pages into _live, once: 13 MB, 21 MB unpacked ...", flush=True)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix="_live-") as folder:
        fetch(Path(folder))
        unpack(Path(folder), Path(folder, "live"))
        shutil.rmtree(LIVE, ignore_errors=True)
        shutil.move(Path(folder, "live"), LIVE)
    stamp.write_text(made)  # last: half a folder is fetched again


if __name__ == "__main__":
    main()
