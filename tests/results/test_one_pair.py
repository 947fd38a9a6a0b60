"""The stored pair: that it is what it says, as far as this can be seen without its models."""

import json
import math
import subprocess
from itertools import takewhile

import pytest
import torch
from conftest import ROOT

from dpo_lib.language_model.worlds import reviews, write_world
from dpo_lib.losses import dpo_loss
from dpo_lib.results import one_pair, read
from dpo_lib.results.stored import STORED

PAIR = one_pair()


def test_its_tokens_spell_the_two_answers_and_one_end():
    for side in ("chosen", "rejected"):
        *words, end = PAIR.tokens[side]
        assert "".join(words) == getattr(PAIR, side) and end == "<|endoftext|>"


def test_each_token_has_a_log_probability_under_both_models():
    for name, logps in PAIR.token_logps.items():
        assert logps.shape == (len(PAIR.tokens[name.partition("_")[2]]),)
        assert (logps < 0).all()


def test_where_the_answers_begin_alike_a_model_gives_them_the_same():
    alike = takewhile(lambda two: two[0] == two[1], zip(*PAIR.tokens.values(), strict=False))
    length = len(list(alike))
    assert length >= 5
    for model in ("policy", "ref"):
        chosen, rejected = (
            PAIR.token_logps[f"{model}_{side}"][:length] for side in ("chosen", "rejected")
        )
        torch.testing.assert_close(chosen, rejected, atol=1e-5, rtol=0)


def test_the_sums_are_those_that_the_loss_takes():
    policy_w, policy_l, ref_w, ref_l = (
        math.fsum(PAIR.token_logps[name].tolist())
        for name in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    )
    margin = PAIR.beta * ((policy_w - ref_w) - (policy_l - ref_l))
    loss = dpo_loss(**PAIR.logps, beta=PAIR.beta)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-12)


def test_it_is_a_held_out_pair_of_the_world_that_its_command_makes(tmp_path):
    write_world(tmp_path / "world", pairs=4000, words=(9, 24), seed=1)
    lines = (tmp_path / "world/test_preferences.jsonl").read_text().splitlines()
    pairs = [(row["prompt"], row["chosen"], row["rejected"]) for row in map(json.loads, lines)]
    assert pairs.count((PAIR.prompt, PAIR.chosen, PAIR.rejected)) == 1
    assert reviews.reward(PAIR.prompt, PAIR.chosen) > reviews.reward(PAIR.prompt, PAIR.rejected)


def test_it_names_commands_and_a_commit_that_has_its_script():
    stored = read(STORED / "one_pair.json")
    assert [command.split()[1] for command in stored["commands"]] == ["world", "sft", "dpo"]
    shown = ["git", "-C", str(ROOT), "show", f"{stored['commit']}:scripts/one_pair.py"]
    found = subprocess.run(shown, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this copy of the repository has no history")
    assert "one_pair.json" in found.stdout
