"""The stored fair trial: that every method had the same grid, and that its reader reads it."""

import json
import math
import subprocess
from itertools import product

import pytest
import torch
from conftest import ROOT

from dpo_lib.results import fair_trial, read
from dpo_lib.results.stored import STORED

TRIAL = fair_trial()
STORED_TRIAL = read(STORED / "fair_trial.json")
METHODS = ("offline", "relabelled", "frozen", "online", "PPO", "Preferred-FT")


def test_every_method_was_tried_at_the_same_settings():
    tried = {}
    for row in TRIAL.grid:
        tried.setdefault(row["method"], set()).add((row["lr"], row["beta"], row["steps"]))
    whole = set(product((3e-4, 1e-3, 3e-3), (0.1, 0.3, 1.0), (30, 60, 120)))
    assert set(tried) == set(METHODS)
    assert all(tried[name] == whole for name in METHODS if name != "Preferred-FT")
    assert len(tried["Preferred-FT"]) == 9  # no beta


@pytest.mark.parametrize("rule, most", [("tuned", math.inf), ("near", 10.0)])
def test_what_was_chosen_has_the_most_learned_reward_and_is_what_was_judged(rule, most):
    for name in METHODS:
        rows = [row for row in TRIAL.grid if row["method"] == name and row["kl"] <= most]
        top = max(rows, key=lambda row: row["learned"])
        told = {key: top[key] for key in ("lr", "beta", "steps")}
        assert TRIAL.chosen[rule][name] == told
        for policy in TRIAL.policies(name, rule):
            assert told == {key: getattr(policy, key) for key in told}


def test_the_trial_is_of_seeds_that_no_setting_was_chosen_on():
    assert [seed.seed for seed in TRIAL.seeds] == [1, 2, 3]
    assert all(p.reward.shape == p.kl.shape == (200,) for s in TRIAL.seeds for p in s.policies)


def test_at_one_setting_all_kinds_of_dpo_share_learning_rate_beta_and_steps():
    for name in ("relabelled", "offline", "frozen", "online", "kept", "moved", "program"):
        for p in TRIAL.policies(name, rule="shared"):
            assert (p.lr, p.beta, p.steps) == (1e-3, 0.3, 60)


def test_a_comparison_is_the_paired_difference_over_prompts():
    for (gap, z), mine, theirs in zip(
        TRIAL.compare("online", "offline"), TRIAL.policies("online"), TRIAL.policies("offline"),
        strict=True,
    ):  # fmt: skip
        gaps = mine.reward - theirs.reward
        assert gap.mean == pytest.approx(gaps.mean().item())
        assert z == pytest.approx((gaps.mean() / (gaps.std() / math.sqrt(200))).item())


def test_no_policy_lies_above_the_roof_of_its_seed_by_more_than_its_error():
    for seed in TRIAL.seeds:
        for p in seed.policies:
            error = p.reward.std() / math.sqrt(len(p.reward))
            assert p.reward.mean() < seed.roof(p.kl.mean().item()) + 4 * error


def test_best_of_one_is_the_sft_model_and_more_draws_are_no_worse():
    for seed in TRIAL.seeds:
        for values in map(list, (by.values() for by in seed.best_of.values())):
            assert values[0] == pytest.approx(seed.sft.mean().item(), abs=1e-3)
            assert values == sorted(values)


def test_a_method_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'DPOP' by the rule 'near' is not in the trial"):
        TRIAL.policies("DPOP")


def test_it_names_its_command_and_a_commit_that_has_its_script():
    about = TRIAL.about
    assert about["command"] == "python scripts/fair_trial.py"
    shown = ["git", "-C", str(ROOT), "show", f"{about['commit']}:scripts/fair_trial.py"]
    found = subprocess.run(shown, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this copy of the repository has no history")
    assert "fair_trial.json" in found.stdout


def test_the_numbers_of_the_file_are_those_of_the_reader():
    for part, seed in zip(STORED_TRIAL["seeds"], TRIAL.seeds, strict=True):
        rows = zip(part["rows"], seed.policies, strict=True)
        for row, policy in rows:
            assert torch.tensor(row["reward"], dtype=torch.float64).equal(policy.reward)
            assert json.loads(json.dumps(row["seconds"])) == policy.seconds
