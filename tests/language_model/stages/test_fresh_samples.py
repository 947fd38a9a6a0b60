"""Completions of held-out prompts while a stage trains: what is said of them, what they change."""

import json
import shutil

import pytest
import torch
from small_world import small_run, small_world

from dpo_lib.language_model.generation import repeated_share
from dpo_lib.language_model.models import load_policy, load_tokenizer
from dpo_lib.language_model.scoring import plain_logps
from dpo_lib.language_model.settings import (
    DPOSettings,
    KTOSettings,
    OnlineDPOSettings,
    PPOSettings,
    SFTSettings,
    TrainingError,
)
from dpo_lib.language_model.stages import DPO, KTO, PPO, SFT, OnlineDPO
from dpo_lib.language_model.worlds import reviews

STAGES = {
    "sft": (SFT, SFTSettings),
    "dpo": (DPO, DPOSettings),
    "kto": (KTO, KTOSettings),
    "online": (OnlineDPO, OnlineDPOSettings),
    "ppo": (PPO, PPOSettings),
}
OWN = {
    "online": dict(reward="true", num_generations=6, reference="moving"),
    "ppo": dict(reward="true", epochs=1),
}
each_stage = pytest.mark.parametrize("name", STAGES)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    torch.set_num_threads(1)
    return small_world(folder, pairs=20, reviews=16, prompts=12, test=12), folder


def run(told, name, out, **changes):
    """Train the stage; the folder, its held-out figures and its texts."""
    given, folder = told
    kind, settings = STAGES[name]
    own = dict(steps=4, max_new_tokens=12, out=str(folder / out)) | OWN.get(name, {})
    path, lines = small_run(kind, settings, **own | given | changes)
    shown = path / "samples.jsonl"
    texts = [json.loads(line) for line in shown.read_text().splitlines()] if shown.exists() else []
    return path, [line for line in lines if "eval_completions/ended" in line], texts


def watched(told, **changes):
    return dict(eval_data=told[0]["data"], eval_every=2, samples=9) | changes


def test_dpo_starts_at_no_kl_and_ends_where_the_saved_model_is_by_hand(told):
    path, figures, texts = run(told, "dpo", "hand", reward="true", **watched(told))
    assert [line["step"] for line in figures] == [0, 2, 4]
    assert [text["step"] for text in texts] == [0] * 8 + [2] * 8 + [4] * 8
    assert figures[0]["eval_objective/kl"] == 0.0 and figures[-1]["eval_objective/kl"] != 0.0
    tokenizer = load_tokenizer(told[0]["model"])
    policy, reference = (load_policy(str(m), tokenizer) for m in (path / "model", told[0]["model"]))
    for text in texts[-8:]:
        prompt = tuple(tokenizer(text["prompt"])["input_ids"])
        completion = tuple(tokenizer(text["completion"])["input_ids"])
        end = (tokenizer.eos_token_id,) * text["ended"]
        with torch.no_grad():
            ours, theirs = (
                plain_logps(model, [(prompt, completion + end)])[0].double().sum()
                for model in (policy, reference)
            )
        if len(completion + end) == 12 or text["ended"]:  # whose text has one reading in tokens
            assert text["kl"] == pytest.approx((ours - theirs).item(), abs=1e-3)
        assert text["reward"] == pytest.approx(reviews.reward(text["prompt"], text["completion"]))


def test_the_figures_are_the_means_of_the_samples(told):
    _, figures, texts = run(told, "dpo", "means", reward="true", **watched(told, samples=5))
    last = [text for text in texts if text["step"] == 4]
    assert len(last) == 5
    for name, key in (("objective/kl", "kl"), ("objective/scores", "reward")):
        mean = sum(text[key] for text in last) / 5
        assert figures[-1][f"eval_{name}"] == pytest.approx(mean, abs=1e-9)
    assert figures[-1]["eval_completions/ended"] == sum(text["ended"] for text in last) / 5


@each_stage
def test_samples_change_no_step(told, name):
    path, figures, _ = run(told, name, f"{name}-watched", **watched(told, eval_every=1))
    alone, none, _ = run(told, name, f"{name}-alone")
    assert len(figures) == 5 and none == []
    steps = [
        line for line in (path / "metrics.jsonl").read_text().splitlines() if "eval" not in line
    ]
    assert steps == (alone / "metrics.jsonl").read_text().splitlines()
    for file in (path / "model").glob("*.safetensors"):
        assert file.read_bytes() == (alone / "model" / file.name).read_bytes()


@each_stage
def test_a_resumed_run_draws_the_same_to_the_byte(told, name):
    given = watched(told, eval_every=1)
    path, *_ = run(told, name, f"{name}-whole", **given)
    again = path.with_name(f"{name}-again")
    shutil.copytree(path, again)
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints/step-000004")
    run(told, name, again.name, resume=True, **given)
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert (again / file).read_bytes() == (path / file).read_bytes()


@each_stage
def test_what_cannot_be_known_is_left_out(told, name):
    changes = {} if name in OWN else {"reward": None}
    _, figures, texts = run(told, name, f"{name}-known", **watched(told), **changes)
    known = {"completions/mean_length", "completions/ended", "completions/repetition"}
    known |= {"objective/kl"} if name != "sft" else set()
    known |= {"objective/scores"} if name in OWN else set()
    of_samples = {n.removeprefix("eval_") for n in figures[0] if "/" in n}
    assert {n for n in of_samples if n.startswith(("completions", "objective"))} == known
    assert ("kl" in texts[0], "reward" in texts[0]) == (name != "sft", name in OWN)


def test_the_same_prompts_are_drawn_for_each_time_and_none_twice_before_all_are(told):
    _, _, texts = run(told, "dpo", "prompts", **watched(told, samples=5))
    prompts = [[t["prompt"] for t in texts if t["step"] == step] for step in (0, 2, 4)]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts[0])) == len(prompts[0])


@pytest.mark.parametrize("name", OWN)
def test_who_draws_is_watched_on_prompts_that_it_does_not_draw_for(told, name):
    path = told[1] / "own.jsonl"
    path.write_text((told[1] / "world/prompts.jsonl").read_text())
    with pytest.raises(
        ValueError, match=r"own\.jsonl: \d+ of 12 held-out items are trained on too"
    ):
        run(told, name, "overlap", **watched(told, eval_data=str(path)))


def test_no_room_for_a_completion_is_one_line_before_the_run(told):
    path = told[1] / "long.jsonl"
    path.write_text(json.dumps({"prompt": "This film " * 9 + "is", "completion": " warm."}) + "\n")
    with pytest.raises(
        TrainingError, match="12: no held-out prompt leaves room for it in max_length 20; lower"
    ):
        run(told, "sft", "room", **watched(told, eval_data=str(path), max_length=20))
    assert not (told[1] / "room").exists()


@pytest.mark.parametrize(
    ("completion", "share"),
    [
        ((), 0.0),
        ((1, 2, 3), 0.0),  # no 4-gram at all
        ((1, 2, 3, 4, 5), 0.0),
        ((7,) * 8, 4 / 5),  # five 4-grams, one of them new
        ((1, 2, 1, 2, 1, 2, 1), 2 / 4),  # 1212 2121 1212 2121
    ],
)
def test_repetition_is_the_share_of_old_four_grams_by_hand(completion, share):
    assert repeated_share(completion) == pytest.approx(share)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (DPOSettings, dict(reward="true"), "reward must be left out without samples, got true"),
        (SFTSettings, dict(samples=2), "samples must be 0 without eval_data, got 2"),
        (
            PPOSettings,
            dict(reward="true", eval_data="e"),
            "samples must be at least 1 with eval_data",
        ),
        (DPOSettings, dict(samples=2, eval_data="e", max_new_tokens=511), "at most max_length - 2"),
    ],
)
def test_settings_of_samples_that_make_no_sense_are_refused(settings, changes, message):
    with pytest.raises(TrainingError, match=message):
        settings(model="m", data="d", out="o", **changes)
