"""The stored trial of labels that like length: equal grids, fresh seeds, and its reader."""

import math
import subprocess
from itertools import product

import pytest
from conftest import ROOT

from dpo_lib.results import length_trial, read
from dpo_lib.results.stored import STORED

TRIAL = length_trial()
METHODS = ("sum", "mean", "R-DPO", "SimPO", "clean")


def test_every_loss_was_tried_at_as_many_settings_per_token_at_twenty_times_the_beta():
    for name in METHODS:
        rows = [row for row in TRIAL.grid if row["method"] == name]
        times = 20 if name in ("mean", "SimPO") else 1
        betas = [beta * times for beta in (0.1, 0.3, 1.0)]
        tried = {(row["lr"], row["beta"], row["steps"]) for row in rows}
        assert tried == set(product((3e-4, 1e-3), betas, (40, 80))) and len(rows) == len(tried)


def test_what_was_chosen_has_the_most_true_reward_near_the_reference():
    for name in METHODS:
        rows = [row for row in TRIAL.grid if row["method"] == name]
        near = [row for row in rows if row["kl"] <= 10] or [min(rows, key=lambda row: row["kl"])]
        top = max(near, key=lambda row: row["reward"])
        assert TRIAL.chosen[name] == {key: top[key] for key in ("lr", "beta", "steps")}


def test_the_trial_is_of_seeds_that_no_setting_was_chosen_on_and_of_the_chosen_settings():
    parts = read(STORED / "length.json")["seeds"]
    assert [part["seed"] for part in parts] == [1, 2, 3]
    for part in parts:
        assert [row["method"] for row in part["rows"]] == list(METHODS)
        for row in part["rows"]:
            assert TRIAL.chosen[row["method"]].items() <= row.items()


def test_a_comparison_is_the_paired_difference_over_prompts():
    for (gap, z), seed in zip(TRIAL.compare("sum", "clean", "length"), TRIAL.seeds, strict=True):
        gaps = seed["sum"].length - seed["clean"].length
        assert gaps.shape == (200,) and gap.mean == pytest.approx(gaps.mean().item())
        assert z == pytest.approx((gaps.mean() / (gaps.std() / math.sqrt(200))).item())


def test_lengths_are_of_answers_that_may_have_eighty_tokens():
    for seed in TRIAL.seeds:
        for answers in seed.values():
            assert answers.length.min() >= 1 and answers.length.max() <= 80
            assert ((answers.ended >= 0) & (answers.ended <= 1)).all()


def test_it_names_its_command_and_a_commit_that_has_its_script():
    assert TRIAL.about["command"] == "python scripts/length.py"
    shown = ["git", "-C", str(ROOT), "show", f"{TRIAL.about['commit']}:scripts/length.py"]
    found = subprocess.run(shown, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this copy of the repository has no history")
    assert "length.json" in found.stdout
