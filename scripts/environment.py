"""Make .venv, with exactly the versions of requirements.lock: `python3 scripts/environment.py`.

With `--torch cpu` torch comes without CUDA. Only the standard library is used, for nothing is
installed yet. An interrupted run leaves no stamp, and the next one starts over.
"""

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST, LOCK, PROJECT = (
    ROOT / name for name in ("requirements.txt", "requirements.lock", "pyproject.toml")
)
VENV = ROOT / ".venv"
STAMP = VENV / "ready"  # what .venv was made from; written last
LOG = ROOT / "_build/install.log"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def asked_for(file: Path) -> list[str]:
    """What requirements.txt lists, or what pyproject.toml depends on, extras included."""
    text = file.read_text()
    if file == PROJECT:
        tables = re.findall(r"^\[project(?:\.optional-[\w-]+)?\]\n(.*?)(?=^\[)", text, re.M | re.S)
        arrays = re.findall(r"^[\w-]+ = \[\n(.*?)^\]", "".join(tables), re.M | re.S)
        return re.findall(r'^ *"(.*?)",', "".join(arrays), re.M)
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def wanted_hash() -> str:
    """Short hash of all that is asked for."""
    lines = sorted(asked_for(LIST) + asked_for(PROJECT))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def check_python() -> None:
    """Stop with one sentence where this Python cannot make the environment."""
    here = "{}.{}".format(*sys.version_info)
    if here not in PYTHONS:
        found = [name for name in (f"python{v}" for v in PYTHONS[::-1]) if shutil.which(name)]
        advice = f"make PYTHON={found[0]} ..." if found else "install one and try again"
        sys.exit(f"Python {here} is not supported, {PYTHONS[0]} to {PYTHONS[-1]} are: {advice}")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            f"this Python {here} comes without venv or pip: install them"
            f" (Debian, Ubuntu: apt install python{here}-venv) and try again"
        )


def check_lock() -> None:
    """Stop with one sentence where the lock is not that of the list."""
    if not LOCK.exists() or f"# wanted: {wanted_hash()}\n" not in LOCK.read_text():
        sys.exit(
            "requirements.lock is missing or older than requirements.txt or pyproject.toml:"
            " run `make lock`"
        )


def reason(log: str) -> str:
    """Why pip or uv failed, as far as what they said tells."""
    offline = r"connection (broken|refused|reset|error)|name resolution|resolve host|timed out"
    offline += r"|network is unreachable|error sending request|dns error"
    if "No space left on device" in log:
        return "the disk is full"
    return "no package index was reached" if re.search(offline, log, re.I) else "see why"


def run(doing: str, *command) -> None:
    """Run a command with its output in the log; stop with one sentence if it fails."""
    with LOG.open("a") as log:
        if subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode == 0:
            return
    why = f"{reason(LOG.read_text())}: {LOG.relative_to(ROOT)}"
    sys.exit(f"{doing} failed, {why}; `make` again starts over")


def install(torch: str, anew: bool) -> None:
    """Install what is missing or has another version; `anew` begins with an empty .venv."""
    python = VENV / "bin/python"
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    if anew:
        run("making .venv", sys.executable, "-m", "venv", "--clear", VENV)
    pip = (python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check")
    if torch == "cpu":
        run("installing uv", *pip, "uv", "-c", LOCK)
        pip = (VENV / "bin/uv", "pip", "install", "--python", python, "--torch-backend", "cpu")
    run("installing the packages", *pip, "-r", LIST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", choices=["cpu", ""], default="", help="cpu: without CUDA")
    torch = parser.parse_args().torch
    check_python()
    check_lock()
    maker = f"{' '.join(sys.version.split())} in {VENV}"  # a moved .venv does not work
    state = f"{maker}\n{hashlib.sha256(LIST.read_bytes() + LOCK.read_bytes()).hexdigest()}\n"
    made = STAMP.read_text() if STAMP.exists() else ""
    if made == state:
        return
    STAMP.unlink(missing_ok=True)
    print("Installing about 150 packages into .venv, once: a few minutes ...")
    if sys.platform == "linux" and torch != "cpu" and not shutil.which("nvidia-smi"):
        print("(no NVIDIA card is seen: TORCH=cpu at the end of the command saves 3 GB of CUDA)")
    sys.stdout.flush()
    try:
        install(torch, anew=made.partition("\n")[0] != maker)
    except KeyboardInterrupt:
        sys.exit("interrupted: `make` again starts over")
    STAMP.write_text(state)


if __name__ == "__main__":
    main()
