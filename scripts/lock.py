"""Renew requirements.lock: the newest that requirements.txt and pyproject.toml allow.

`python3 scripts/lock.py`, on any Python: uv resolves for all Pythons and systems at once. There
are no hashes, for the CPU build of torch has the same version and is another file.
"""

import subprocess
import sys
import venv

from environment import LIST, LOCK, ROOT, wanted_hash

TOOL = ROOT / ".venv-lock"
HEADER = """\
# Made by `make lock` from requirements.txt and pyproject.toml; not to be edited.
# wanted: {}
# Constraints, not requirements: what a build of torch without CUDA does not need is not installed.
"""
COMPILE = [
    "pip", "compile", "--universal", "--python-version", "3.10", "--upgrade", "--quiet",
    "--no-emit-index-url", "--no-emit-find-links", "--no-header", "--strip-extras",
    "--annotation-style", "line", "--no-emit-package", "dpo-lib",
]  # fmt: skip


def main() -> None:
    if not (TOOL / "bin/uv").exists():
        venv.create(TOOL, with_pip=True, clear=True)
        subprocess.run([TOOL / "bin/python", "-m", "pip", "install", "-q", "uv"], check=True)
    # The list names the lock as its constraints, which would keep every version where it is.
    source = "\n".join(line for line in LIST.read_text().splitlines() if not line.startswith("-c"))
    command = [TOOL / "bin/uv", *COMPILE, "-"]
    result = subprocess.run(command, input=source, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit("no lock was written: uv found no versions that go together (see above)")
    LOCK.write_text(HEADER.format(wanted_hash()) + result.stdout)
    print(f"{LOCK.name}: {result.stdout.count('==')} versions")


if __name__ == "__main__":
    main()
