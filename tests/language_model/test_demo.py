"""`dpo demo`: its commands are those of the README, and end with numbers and a report."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dpo_lib import __main__ as cli
from dpo_lib.language_model.demo import commands, demo

README = (ROOT / "README.md").read_text()


def flags(words):
    """Flags with their values, of a command's words."""
    places = [n for n, word in enumerate(words) if word.startswith("--")]
    ends = [*places[1:], len(words)]
    return {words[n]: words[n + 1 : end] for n, end in zip(places, ends, strict=True)}


def test_the_commands_are_those_of_the_readme(tmp_path):
    ours = {words[0]: flags(words) for words in commands(tmp_path / "demo", 0)}
    typed = [shlex.split(line) for line in re.findall(r"^dpo (\w.* --.*)$", README, re.MULTILINE)]
    assert list(ours) == [*(words[0] for words in typed), "report"]
    same = ("--steps", "--lr", "--optimizer", "--warmup-steps", "--beta")
    for name, *words in typed:
        readme = flags(words)
        assert readme.keys() <= ours[name].keys()
        assert [readme.get(flag) for flag in same] == [ours[name].get(flag) for flag in same]


def run_small(words):
    """Run a command of the demonstration with less to do, and the same words to be kept."""
    less = {
        "world": ["--pairs", "20"],
        "sft": ["--steps", "1", "--batch-size", "4"],
        "dpo": ["--steps", "1", "--batch-size", "4"],
        "evaluate": ["--prompts", "3", "--samples", "1"],
        "report": [],
    }
    code = cli.main([*words, *less[words[0]]])  # of a repeated flag the last counts
    if words[0] == "world":
        rows = Path("demo/world/test_preferences.jsonl")
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:4]))
    return code


def test_a_demonstration_ends_with_both_rewards_the_kl_and_its_report(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder, before = Path("demo"), list(sys.argv)
    assert demo(folder, 0, run_small) == 0
    assert sys.argv == before
    out = capsys.readouterr().out.splitlines()
    typed = [line.split()[2] for line in out if line.startswith("$ dpo ")]
    assert typed == ["world", "sft", "dpo", "evaluate", "report"]
    interval = r"-?\d+\.\d{3} ± \d+\.\d{3}"
    assert re.fullmatch(rf"SFT: true reward {interval}", out[-3])
    assert re.fullmatch(rf"DPO: true reward {interval} at a KL of {interval} nats .*", out[-2])
    assert out[-1] == "open demo/report.html"
    page = (folder / "report.html").read_text()
    assert "dpo sft --model tiny --out demo/sft --steps 250 " in page
    assert "dpo dpo --model demo/sft/model " in page
    assert all((folder / name / "report.html").exists() for name in ("sft", "dpo"))


def test_a_demonstration_ends_with_the_first_command_that_fails(tmp_path):
    done = []

    def fail_second(words):
        done.append(words[0])
        return 130 if len(done) == 2 else 0

    assert demo(tmp_path / "demo", 0, fail_second) == 130
    assert done == ["world", "sft"]


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("report.html", "has a demonstration already: open .*/report.html, or choose another"),
        ("world", "was not finished: remove the folder, or choose another --out"),
        ("letters", "exists already: choose another --out"),
    ],
)
def test_a_folder_with_something_in_it_is_refused_in_one_line(tmp_path, capsys, inside, said):
    (tmp_path / "demo" / inside).mkdir(parents=True)
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.search(said, err)
