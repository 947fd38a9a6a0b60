"""Held-out rows: what is measured on them, that measuring changes nothing, what is refused."""

import json
import shutil

import pytest
import torch
from small_world import small_run, small_world

from dpo_lib.language_model.data import read_examples, read_preferences
from dpo_lib.language_model.data.tokens import tokenize_examples, tokenize_preferences
from dpo_lib.language_model.models import RewardModel, load_policy, load_tokenizer
from dpo_lib.language_model.scoring import plain_logps
from dpo_lib.language_model.settings import DPOSettings, KTOSettings, RewardSettings, SFTSettings
from dpo_lib.language_model.stages import DPO, KTO, SFT, Reward
from dpo_lib.losses import dpo_loss

STAGES = {
    "sft": (SFT, SFTSettings),
    "reward": (Reward, RewardSettings),
    "dpo": (DPO, DPOSettings),
    "kto": (KTO, KTOSettings),
}
each_stage = pytest.mark.parametrize("name", STAGES)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    torch.set_num_threads(1)
    return small_world(folder, pairs=20, reviews=16, prompts=8, test=6), folder


def run(told, name, out, **changes):
    """Train the stage; the folder, and the lines of the log that are of held-out rows or not."""
    given, folder = told
    kind, settings = STAGES[name]
    own = dict(steps=5, accumulate=2, out=str(folder / out))
    path, lines = small_run(kind, settings, **own | given | changes)
    return path, [x for x in lines if "eval_loss" in x], [x for x in lines if "loss" in x]


def held_out_pairs(told):
    tokenizer = load_tokenizer(told[0]["model"])
    rows, report = read_preferences(told[1] / "world/test_preferences.jsonl")
    return tokenizer, tokenize_preferences(rows, tokenizer, 100, report)


@each_stage
def test_it_is_measured_before_the_first_step_every_so_often_and_after_the_last(told, name):
    _, held_out, _ = run(told, name, f"{name}-when", eval_data=told[0]["data"], eval_every=2)
    assert [line["step"] for line in held_out] == [0, 2, 4, 5]


@each_stage
def test_measuring_changes_no_step(told, name):
    path, _, watched = run(told, name, f"{name}-watched", eval_data=told[0]["data"], eval_every=1)
    alone, none, lines = run(told, name, f"{name}-alone")
    assert none == [] and watched == lines
    for file in (path / "model").glob("*.safetensors"):
        assert file.read_bytes() == (alone / "model" / file.name).read_bytes()


@each_stage
def test_a_resumed_run_measures_the_same_to_the_byte(told, name):
    watched = dict(eval_data=told[0]["data"], eval_every=1)
    path, *_ = run(told, name, f"{name}-whole", **watched)
    again = path.with_name(f"{name}-again")
    shutil.copytree(path, again)
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints/step-000005")
    run(told, name, again.name, resume=True, **watched)
    assert (again / "metrics.jsonl").read_bytes() == (path / "metrics.jsonl").read_bytes()


def test_dpo_starts_at_log_two_and_ends_where_the_saved_model_is_by_hand(told):
    given = dict(eval_data=told[0]["data"], eval_every=5)
    path, (first, last), _ = run(told, "dpo", "dpo-hand", **given)
    assert first["eval_loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first["eval_rewards/margins"] == 0.0 and first["eval_rewards/accuracies"] == 0.5
    tokenizer, pairs = held_out_pairs(told)

    def logps(folder):
        model = load_policy(str(folder), tokenizer)
        sides = [[(p.prompt, p.chosen) for p in pairs], [(p.prompt, p.rejected) for p in pairs]]
        with torch.no_grad():
            return [torch.stack([x.sum() for x in plain_logps(model, side)]) for side in sides]

    policy, ref = logps(path / "model"), logps(told[0]["model"])
    losses = dpo_loss(*policy, *ref, beta=0.1)
    margins = 0.1 * (policy[0] - ref[0] - policy[1] + ref[1])
    assert last["eval_loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert last["eval_rewards/margins"] == pytest.approx(margins.mean().item(), rel=1e-3)
    accuracy = ((1 + margins.sign()) / 2).mean().item()
    assert last["eval_rewards/accuracies"] == pytest.approx(accuracy, abs=1e-6)
    assert last["eval_logps/chosen"] == pytest.approx(policy[0].mean().item(), rel=1e-5)


def test_sft_is_measured_by_the_token_on_the_chosen_sides(told):
    path, (_, last), _ = run(told, "sft", "sft-hand", eval_data=told[0]["data"], eval_every=5)
    tokenizer = load_tokenizer(told[0]["model"])
    rows, report = read_examples(told[1] / "world/test_preferences.jsonl")
    examples = tokenize_examples(rows, tokenizer, 100, report)
    model = load_policy(str(path / "model"), tokenizer)
    with torch.no_grad():
        logps = torch.cat(plain_logps(model, [(e.prompt, e.completion) for e in examples]))
    assert last["eval_loss"] == pytest.approx(-logps.mean().item(), rel=1e-5)


def test_the_reward_model_is_measured_on_the_order_of_the_pairs(told):
    path, (first, last), _ = run(
        told, "reward", "reward-hand", eval_data=told[0]["data"], eval_every=5
    )
    assert first == pytest.approx(
        {"step": 0, "eval_loss": 0.6931472, "eval_accuracy": 0.5, "eval_margin": 0.0}, abs=1e-6
    )
    _, pairs = held_out_pairs(told)
    model = RewardModel.load(path / "model")
    with torch.no_grad():
        margins = model.score([(p.prompt, p.chosen) for p in pairs]) - model.score(
            [(p.prompt, p.rejected) for p in pairs]
        )
    assert last["eval_margin"] == pytest.approx(margins.mean().item(), abs=1e-5)
    assert last["eval_loss"] == pytest.approx(
        torch.nn.functional.softplus(-margins).mean().item(), rel=1e-5
    )


def test_what_became_of_the_held_out_rows_is_said(told, capsys):
    rows = (told[1] / "world/test_preferences.jsonl").read_text().splitlines()
    same = json.loads(rows[0])
    same["rejected"] = same["chosen"]
    path = told[1] / "one-dropped.jsonl"
    path.write_text("\n".join([*rows, json.dumps(same)]) + "\n")
    run(told, "dpo", "dpo-said", eval_data=str(path))
    said = capsys.readouterr().err.splitlines()
    assert f"held out: {len(rows) + 1} rows, {len(rows)} used" in said
    assert any(line.startswith("held out: dropped 1: chosen and rejected are id") for line in said)


@pytest.mark.parametrize("turned", [False, True])
def test_rows_that_are_trained_on_are_not_held_out(told, turned):
    row = json.loads((told[1] / "world/preferences.jsonl").read_text().splitlines()[3])
    if turned:  # the same two answers, the other one chosen
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    path = told[1] / f"overlap-{turned}.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"jsonl: 1 of 1 held-out items are trained on too, .*; "):
        run(told, "dpo", f"overlap-{turned}", eval_data=str(path))
    assert not (told[1] / f"overlap-{turned}").exists()


def test_settings_of_measuring_are_refused_by_name():
    with pytest.raises(ValueError, match="eval_every must be left out without eval_data, got 3"):
        DPOSettings(model="m", data="d", out="o", eval_every=3)
    with pytest.raises(ValueError, match="eval_every must be at least 1, got 0"):
        DPOSettings(model="m", data="d", out="o", eval_data="e", eval_every=0)


@pytest.mark.parametrize("name", ["reward", "dpo"])
def test_scored_answers_are_trained_on_and_measured_as_the_pairs_written_out(told, name):
    texts = [" good", " fine", " bad"]
    scored = {"prompt": "The film was", "responses": texts, "scores": [3, 2, 1]}
    pairs = [(0, 1), (0, 2), (1, 2)]
    written = [{"prompt": scored["prompt"], "chosen": texts[i], "rejected": texts[j]}
               for i, j in pairs]  # fmt: skip
    logs = []
    for kind, rows in (("scored", [scored]), ("written", written)):
        data, held_out = told[1] / f"{name}-{kind}.jsonl", told[1] / f"{name}-{kind}-held-out.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        held_out.write_text(data.read_text().replace("film", "plot"))
        logs.append(run(told, name, f"{name}-{kind}", data=str(data), eval_data=str(held_out),
                        pairs_from="all", steps=2, batch_size=2)[1:])  # fmt: skip
    assert logs[0] == logs[1] and len(logs[0][0]) >= 2
