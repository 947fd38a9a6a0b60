"""The locked environment: the lock is that of the list, and whatever goes wrong is one sentence."""

import os
import re
import shutil
import subprocess
import sys

import environment
import newest
import pytest
from conftest import ROOT
from packaging.requirements import Requirement

SUPPORTED = [f"{version}.0" for version in environment.PYTHONS]
MACHINES = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]


def locked(python, system, machine):
    """Name and version of everything that the lock pins for one machine."""
    here = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    here |= {"sys_platform": system, "platform_machine": machine}
    here |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    lines = [line.partition(" #")[0] for line in environment.LOCK.read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and line[0] != "#"]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) for pin in pins)
    versions = {pin.name: str(pin.specifier)[2:] for pin in pins}
    assert len(versions) == len(pins), "a package is pinned twice"
    return versions, here


@pytest.mark.parametrize("system, machine", MACHINES)
@pytest.mark.parametrize("python", SUPPORTED)
def test_lock_and_list_agree(python, system, machine):
    versions, here = locked(python, system, machine)
    asked = environment.asked_for(environment.LIST) + environment.asked_for(environment.PROJECT)
    for line in asked:
        if line[0] == "-":
            continue
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(here):
            assert wanted.specifier.contains(versions[wanted.name.lower()]), line


def test_the_lock_is_that_of_the_list():
    environment.check_lock()  # exits with a sentence otherwise


def test_what_is_installed_here_is_what_the_lock_says():
    freeze = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    names = subprocess.check_output(freeze, text=True).splitlines()
    python = "{}.{}.{}".format(*sys.version_info)
    versions, _ = locked(python, sys.platform, os.uname().machine)
    pairs = (line.split("==") for line in names)
    here = {re.sub(r"[_.]", "-", name.lower()): v.partition("+")[0] for name, v in pairs}
    apart = {"pip", "setuptools", "dpo-lib"}  # of the virtual environment, and ourselves
    assert {n: v for n, v in here.items() if n not in apart and v != versions.get(n, v)} == {}
    if os.environ.get("CI"):  # elsewhere people may install what they like beside it
        assert here.keys() - versions.keys() <= apart


def test_the_lock_names_no_index_and_accepts_any_build_of_a_version():
    text = environment.LOCK.read_text()
    assert not re.search(r"https?:|--(?:extra-)?index|--hash|--find-links", text)


def test_an_unsupported_python_is_refused_in_one_sentence(monkeypatch):
    for version in [(3, 9), (3, 14)]:
        monkeypatch.setattr(environment.sys, "version_info", version)
        with pytest.raises(SystemExit, match=r"Python 3\.\d+ is not supported, 3.10 to 3.13 are: "):
            environment.check_python()


def test_a_python_without_pip_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"without venv or pip: install them .*apt install"):
        environment.check_python()


@pytest.fixture
def tree(tmp_path):
    """A project that needs nothing, with its lock."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/environment.py", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("")
    ask_for(tmp_path, "-c requirements.lock")
    return tmp_path


def ask_for(tree, line):
    (tree / "requirements.txt").write_text(f"{line}\n")
    code = "import environment; print(environment.wanted_hash())"
    environment_ = os.environ | {"PYTHONPATH": str(tree / "scripts")}
    wanted = subprocess.check_output([sys.executable, "-c", code], env=environment_, text=True)
    (tree / "requirements.lock").write_text(f"# wanted: {wanted}")


def make(tree, **variables):
    return subprocess.run(
        [sys.executable, "scripts/environment.py"],
        cwd=tree,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def test_a_stale_lock_is_refused_in_one_sentence(tree):
    (tree / "requirements.txt").write_text("-c requirements.lock\nanother\n")
    result = make(tree)
    assert result.returncode != 0 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("requirements.lock is missing or older than")
    assert not (tree / ".venv").exists()


def test_what_an_interrupted_installation_left_is_begun_anew_and_a_whole_one_kept(tree):
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/python").write_text("half a file")
    assert make(tree).returncode == 0
    python = tree / ".venv/bin/python"
    assert subprocess.check_output([python, "-c", "print(6 * 7)"], text=True) == "42\n"
    (tree / ".venv/mine").touch()
    again = make(tree)
    assert (again.returncode, again.stdout) == (0, "")
    assert (tree / ".venv/mine").exists()


def test_a_new_lock_is_installed_into_the_old_environment_and_a_moved_one_begun_anew(tree):
    assert make(tree).returncode == 0
    (tree / ".venv/mine").touch()
    with (tree / "requirements.lock").open("a") as lock:
        lock.write("# renewed\n")
    renewed = make(tree)
    assert renewed.returncode == 0 and renewed.stdout.startswith("Installing ")
    assert (tree / ".venv/mine").exists()
    moved = tree.rename(tree.with_name("moved"))
    assert make(moved).returncode == 0
    assert not (moved / ".venv/mine").exists()


def test_without_a_network_one_sentence_says_so_and_no_environment_counts_as_made(tree):
    ask_for(tree, "no-such-package-anywhere")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    result = make(tree, PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="", **nowhere)
    assert result.returncode != 0 and len(result.stderr.splitlines()) == 1
    assert "no package index was reached: _build/install.log" in result.stderr
    assert not (tree / ".venv/ready").exists()


def test_the_newest_is_bounded_by_the_package_and_not_by_the_lock_or_the_list():
    asked = newest.newest_requirements()
    names = [newest.name_of(line) for line in asked]
    assert "torch" not in names and "-c requirements.lock" not in asked
    assert "jupyter-book<2" in asked and "pytest" in names


def test_a_version_that_does_not_exist_is_not_blamed_on_the_network():
    said = "Collecting networkx\nERROR: No matching distribution found for networkx==0.0"
    assert environment.reason(said) == "see why"
    assert environment.reason("OSError: [Errno 28] No space left on device") == "the disk is full"
