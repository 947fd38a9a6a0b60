"""An unpublished copy promises nothing; a published one has its own address everywhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from address import github_url, repository_url
from conftest import NOTEBOOKS, ROOT, URL

FORK = "https://github.com/reader/fork"
REMOTES = ["git@github.com:reader/fork.git", "https://token@github.com/reader/fork"]
MANAGED = ["*.md", "book/*", ".github/**/*.md", "pyproject.toml", "CITATION.cff", "_config.yml"]
ELSEWHERE = {"eric-mitchell/direct-preference-optimization"}  # the paper's own code


def copy_tree(folder: Path) -> Path:
    """This repository's files, without git."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "_build", "__pycache__", "*.egg-info", ".*_*"
    )
    return Path(shutil.copytree(ROOT, folder, ignore=ignored, dirs_exist_ok=True))


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", root, *words], check=True, capture_output=True)


def clone(folder: Path, remote: str) -> Path:
    git(copy_tree(folder), "init")
    git(folder, "remote", "add", "origin", remote)
    return folder


def write_address(root: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the script by the remote alone, and with no package: a workflow has none installed."""
    command = [sys.executable, "-I", "-S", root / "scripts/repository.py", *words]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def contents(root: Path) -> dict[str, str]:
    paths = {p for pattern in MANAGED for p in root.glob(pattern) if p.is_file()}
    return {str(path.relative_to(root)): path.read_text() for path in paths}


def addresses(text: str) -> set[str]:
    """Repositories and pages of GitHub that a text names."""
    found = re.findall(r"github\.com/([\w.-]+/[\w-]+)|([\w-]+\.github\.io/[\w-]+)", text)
    return {slug or page for slug, page in found} - ELSEWHERE


@pytest.mark.parametrize(
    "address, url",
    [
        *((remote, FORK) for remote in REMOTES),
        ("ssh://git@ssh.github.com:443/reader/fork.git", FORK),
        ("https://github.com/reader/fork.js/", "https://github.com/reader/fork.js"),
        ("git@github.com:443/fork.git", "https://github.com/443/fork"),
        ("https://notgithub.com/reader/fork", None),
        ("https://github.com.example/reader/fork", None),
        ("https://gitlab.com/reader/fork", None),
        ("/srv/github.com", None),
        ("", None),
    ],
)
def test_only_a_repository_on_github_has_an_address(address, url):
    assert github_url(address) == url


def test_a_folder_inside_another_repository_has_not_its_address(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    git(tmp_path, "init")
    git(tmp_path, "remote", "add", "origin", FORK)
    (tmp_path / "book").mkdir()
    assert repository_url(tmp_path) == FORK
    assert repository_url(tmp_path / "book") is None


@pytest.mark.parametrize("remote", REMOTES)
def test_a_clone_writes_its_own_address_everywhere_and_only_it(tmp_path, remote):
    root = clone(tmp_path, remote)
    before = contents(root)
    assert write_address(root, "--check").returncode != 0
    assert contents(root) == before, "--check writes nothing"
    assert write_address(root).returncode == 0
    after = contents(root)
    named = {name: addresses(text) for name, text in after.items()}
    assert set().union(*named.values()) <= {"reader/fork", "reader.github.io/fork"}
    for name in ("README.md", "CITATION.cff", "_config.yml", "pyproject.toml", "CHANGELOG.md"):
        assert "reader/fork" in named[name], name
    for name in after:
        assert not name.endswith(".ipynb") or "reader/fork" in named[name], name
    checked = write_address(root, "--check")
    assert (checked.returncode, checked.stdout) == (0, "")
    assert write_address(root).stdout == "", "nothing is left to do"


def test_a_fork_of_a_fork_forgets_the_first_owner(tmp_path):
    root = clone(tmp_path, FORK)
    write_address(root)
    first = contents(root)
    git(root, "remote", "set-url", "origin", "https://github.com/Second-Owner/fork-2.git")
    checked = write_address(root, "--check")
    assert checked.returncode != 0
    assert {line.split(":")[0] for line in checked.stdout.splitlines()} >= {
        name for name, text in first.items() if addresses(text)
    }
    write_address(root, "--branch", "trunk")
    second = contents(root)
    assert set().union(*map(addresses, second.values())) == {
        "Second-Owner/fork-2",
        "second-owner.github.io/fork-2",
    }
    assert "/heads/trunk.zip" in second["book/05_optimal_policy.ipynb"]
    assert "  branch: trunk\n" in second["_config.yml"]
    git(root, "remote", "set-url", "origin", FORK)
    write_address(root, "--branch", "main")
    assert contents(root) == first


def test_an_interrupted_run_can_be_repeated_and_a_merged_chapter_is_adopted(tmp_path):
    root = clone(tmp_path, FORK)
    write_address(root)
    first = contents(root)
    write_address(root, "https://github.com/second/owner")
    whole = contents(root)
    names = ["README.md", "CHANGELOG.md", "CITATION.cff", "_config.yml", "pyproject.toml"]
    for kept in ([*names, "book/05_optimal_policy.ipynb"], ["book/17_tiny_gpt2.ipynb"]):
        for name in kept:  # as if these had not been written, or came from the first owner
            (root / name).write_text(first[name])
        write_address(root, "https://github.com/second/owner")
        assert contents(root) == whole


def test_an_address_outside_github_is_refused_in_one_line(tmp_path):
    root = clone(tmp_path, "https://gitlab.com/reader/fork")
    refused = write_address(root, "https://gitlab.com/reader/fork")
    assert refused.returncode != 0
    assert refused.stderr == "no GitHub address: https://gitlab.com/reader/fork\n"
    without = write_address(root, "--check")
    assert without.returncode != 0
    assert without.stderr == "no GitHub address: git has no such remote named origin\n"


@pytest.mark.skipif(URL != "", reason="this copy has an address")
def test_a_copy_without_an_address_names_none_outside_comments():
    for name, text in contents(ROOT).items():
        shown = re.sub(r"<!--.*?-->|^ *# .*$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert addresses(shown if not name.endswith(".ipynb") else text) == set(), name


@pytest.mark.parametrize("extra", [False, True])
def test_without_an_address_the_first_cell_says_what_to_do_in_one_sentence(extra):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from repository import guard
    finally:
        sys.path.pop(0)
    code = guard(None, "main", extra)
    exec(code, {})  # silent where the library is installed
    what = "PATH[language-model,lora]" if extra else "PATH"
    with pytest.raises(ModuleNotFoundError) as missing:
        exec(code.replace('"dpo_lib"', '"dpo_lib_that_is_nowhere"'), {})
    assert str(missing.value) == (
        f'dpo_lib is missing: run %pip install "{what}" with '
        "the path of the folder or zip file that this book came in."
    )


def test_the_first_cell_leaves_colabs_own_packages_alone():
    from packaging.requirements import Requirement

    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "(.*)",$', project.partition("[project.scripts]")[0], re.MULTILINE)
    colab = (ROOT / "scripts/colab.py").read_text()
    there = dict(re.findall(r'^    "([\w-]+)==(.+)",$', colab, re.MULTILINE))
    assert {"torch", "ipywidgets", "transformers"} <= there.keys()
    asked = [Requirement(line.replace("'", '"').replace('\\"', '"')) for line in wanted]
    assert {"torch", "ipywidgets", "transformers"} <= {one.name for one in asked}
    for one in asked:
        if one.name in there:
            assert there[one.name] in one.specifier, f"Colab's {one.name} would be replaced"
    for path in NOTEBOOKS:
        assert not re.search(r"%pip.* (?:-U|--upgrade)\b", path.read_text())
