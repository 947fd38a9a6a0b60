"""The stage `kto`: its first step, its loss and gradient by hand, and how a batch is cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import small_run, small_world
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from dpo_lib.__main__ import main
from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.data.unpaired import TokenLabelled, mismatched
from dpo_lib.language_model.models.policies import frozen_copy, load_tokenizer
from dpo_lib.language_model.scoring.logprobs import plain_logps
from dpo_lib.language_model.settings import KTOSettings
from dpo_lib.language_model.stages.kto import KTO, label_metrics
from dpo_lib.language_model.training.learner import Learner
from dpo_lib.unpaired import kto_loss

ROOT = Path(__file__).parents[3]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Names of a small world and model, and of a file of 11 good and 19 bad answers."""
    folder = tmp_path_factory.mktemp("labelled")
    named = small_world(folder, pairs=15, reviews=4, prompts=4, test=6)
    pairs = map(json.loads, (folder / "world/preferences.jsonl").read_text().splitlines())
    rows = [
        dict(prompt=pair["prompt"], completion=pair[side], label=side == "chosen" and n < 11)
        for n, pair in enumerate(pairs)
        for side in ("chosen", "rejected")
    ]
    (folder / "world/labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return named | {"data": str(folder / "world/labelled.jsonl")}, folder


def run(told, out, **changes):
    """Train; the folder, the lines of held-out answers, and the others."""
    named, folder = told
    path, lines = small_run(KTO, KTOSettings, **dict(out=str(folder / out)) | named | changes)
    return path, [x for x in lines if "eval_loss" in x], [x for x in lines if "loss" in x]


def gpt2(seed, dtype=torch.float64):
    shape = dict(vocab_size=32, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    off = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**shape, **off, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # far from uniform
    return model.to(dtype)


def random_answers(n=14, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(most):
        length = int(torch.randint(1, most + 1, (), generator=generator))
        return tuple(torch.randint(2, 32, (length,), generator=generator).tolist())

    return [TokenLabelled(ids(6), (*ids(9), 0), n % 3 == 0) for n in range(n)]


def stage_of(
    told, policy=0, reference=1, answers=None, held_out=(), dtype=torch.float64, **changes
):
    """A stage in memory, whose policy has gone some way from its reference."""
    given = dict(model="", data="", out="", steps=4, batch_size=7, beta=0.1, dtype="float32")
    answers = random_answers() if answers is None else answers
    tokenizer = load_tokenizer(told[0]["model"])
    frozen = frozen_copy(gpt2(reference, dtype))
    return KTO(
        KTOSettings(**given | changes), gpt2(policy, dtype), frozen, tokenizer, answers, held_out
    )


def by_hand(model, sequences):
    return torch.stack([logps.sum() for logps in plain_logps(model, sequences)])


def reference_point_by_hand(stage, reference, batch):
    others = mismatched(random_answers(), stage.settings.max_length)
    others = [others[index] for index in batch]
    with torch.no_grad():
        return max(0.0, (by_hand(stage.policy, others) - by_hand(reference, others)).mean().item())


@pytest.mark.parametrize(("batch_size", "accumulate"), [(6, 1), (6, 4), (7, 7), (30, 3), (1, 1)])
def test_at_the_first_step_the_loss_is_half_the_weights_and_all_rewards_are_0(
    told, batch_size, accumulate
):
    """Exactly: the reference is asked in the very parts in which the policy is."""
    out = f"first-{batch_size}-{accumulate}"
    weights = dict(desirable_weight=2.0, undesirable_weight=3.0)
    cut = dict(batch_size=batch_size, accumulate=accumulate)
    _, _, (line,) = run(told, out, steps=1, **cut, **weights)
    labels = [json.loads(row)["label"] for row in Path(told[0]["data"]).read_text().splitlines()]
    batch = [labels[index] for index in batch_indices(0, 1, batch_size, 30)]
    by_label = sum(1.0 if label else 1.5 for label in batch) / batch_size
    assert line["loss"] == pytest.approx(by_label, abs=1e-7) and line["kl"] == 0.0
    rewards = {name: value for name, value in line.items() if name.startswith("rewards/")}
    assert set(rewards.values()) == {0.0} and len(rewards) == (3 if batch_size > 1 else 1)


def test_with_weights_of_one_the_first_loss_is_one_half_to_the_bit(told):
    assert run(told, "half", steps=1)[2][0]["loss"] == 0.5


@pytest.mark.parametrize(("policy", "reference", "cut_off"), [(0, 1, False), (1, 0, True)])
def test_loss_gradient_reference_point_and_log_are_those_found_by_hand(
    told, policy, reference, cut_off
):
    """In float64, one sequence at a time."""
    weights = dict(desirable_weight=2.0, undesirable_weight=3.0)
    stage = stage_of(told, policy, reference, accumulate=2, **weights)
    judged, frozen, answers = gpt2(policy), gpt2(reference), random_answers()
    batch = batch_indices(0, 1, 7, 14)
    kl = reference_point_by_hand(stage, frozen, batch)
    assert kl == 0 if cut_off else kl > 0.5
    stage.start(1)
    assert stage.kl.item() == pytest.approx(kl, rel=1e-12)
    parts = [stage.backward(piece, 1 / 7) for piece in (batch[:3], batch[3:])]
    log = {
        name: sum(part[name] for part in parts).item() / 7
        for name in parts[0]
        if name != "num_tokens"
    }
    own = [(answers[index].prompt, answers[index].completion) for index in batch]
    labels = torch.tensor([answers[index].label for index in batch])
    logps, ref_logps = by_hand(judged, own), by_hand(frozen, own).detach()
    loss = kto_loss(logps, ref_logps, labels, kl, 0.1, 2.0, 3.0).mean()
    loss.backward()
    for mine, theirs in zip(stage.policy.parameters(), judged.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-14)
    logps = logps.detach()
    rewards = 0.1 * (logps - ref_logps)
    assert log == pytest.approx(
        {
            "loss": loss.item(),
            "kl": kl,
            "rewards/chosen": rewards[labels].mean().item(),
            "rewards/rejected": rewards[~labels].mean().item(),
            "rewards/margins": (rewards[labels].mean() - rewards[~labels].mean()).item(),
            "logps/chosen": logps[labels].mean().item(),
            "logps/rejected": logps[~labels].mean().item(),
        },
        rel=1e-10,
    )
    assert 0 < labels.sum() < 7


def weights_after(told, steps=3, **changes):
    stage = stage_of(told, 0, 1, **changes)
    learner = Learner(stage)
    learner.start(None)
    lines = [learner.update() for _ in range(steps)]
    return {name: p.detach() for name, p in stage.policy.named_parameters()}, lines


def test_an_update_does_not_depend_on_how_its_batch_is_cut(told):
    whole, lines = weights_after(told)
    assert any(line["kl"] > 0.5 for line in lines)  # so z_0 plays a part
    for accumulate in (2, 4, 7):
        cut, again = weights_after(told, accumulate=accumulate)
        for line, other in zip(lines, again, strict=True):
            assert other == pytest.approx(line, rel=1e-9)
        for name, weight in whole.items():
            assert_close(cut[name], weight, rtol=1e-9, atol=1e-12, msg=name)


def test_control_a_reference_point_of_each_micro_batch_would_depend_on_the_cut(told, monkeypatch):
    whole = KTO.backward

    def backward(stage, indices, share):
        others = stage.ref_logps[indices, 1]
        stage.kl = (stage.mismatched_logps(stage.policy, indices) - others).mean().clamp(min=0)
        return whole(stage, indices, share)

    monkeypatch.setattr(KTO, "backward", backward)
    losses = [weights_after(told, 1, accumulate=n)[1][0]["loss"] for n in (1, 4)]
    assert abs(losses[0] - losses[1]) > 1e-4


def dpo(folder, *arguments, launcher=(), **more):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more
    command = [sys.executable, *launcher, "-m", "dpo_lib", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("sharded", ["false", "true"])
def test_two_processes_give_the_weights_of_one(told, sharded):
    named, folder = told
    common = ["kto", "--model", named["model"], "--data", named["data"], "--max-length", "64"]
    common += ["--steps", "5", "--lr", "1e-3", "--warmup-steps", "1", "--optimizer", "adamw"]
    common += ["--batch-size", "7", "--accumulate", "2"]  # 7, 7, 7, 7, then 2: one piece is empty
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    dpo(folder, *common, "--out", f"one-{sharded}")
    dpo(folder, *common, "--out", f"two-{sharded}", launcher=two, ACCELERATE_USE_FSDP=sharded)
    one, two = (
        load_file(folder / f"{run}-{sharded}/model/model.safetensors") for run in ("one", "two")
    )
    start = load_file(folder / "model/model.safetensors")
    for name in one:
        if name.endswith("c_attn.bias"):  # a key's bias has gradient 0, and Adam steps on rounding
            one[name][32:64] = two[name][32:64] = 0
        assert_close(two[name], one[name], rtol=1e-6, atol=1e-6, msg=name)
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in one)


def test_means_are_over_the_answers_of_one_label_and_none_is_nan():
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0], dtype=torch.float64)
    refs = torch.full((4,), -3.0, dtype=torch.float64)
    labels = torch.tensor([True, False, False, False])
    means = {n: v.mean().item() for n, v in label_metrics(logps, refs, labels, 0.5, 0.25).items()}
    assert means == pytest.approx(
        {"rewards/chosen": 1.0, "logps/chosen": -1.0, "rewards/rejected": 0.0}
        | {"logps/rejected": -3.0, "rewards/margins": 1.0}
    )
    for label, side in ((True, "chosen"), (False, "rejected")):
        alone = label_metrics(logps, refs, labels == labels, 0.5, float(label))
        assert alone.keys() == {f"rewards/{side}", f"logps/{side}"}
    # cut in two, of which one part has no desirable answer: the sums are those of the whole
    parts = [
        label_metrics(logps[s], refs[s], labels[s], 0.5, 0.25) for s in (slice(2), slice(2, 4))
    ]
    assert sum(part["rewards/margins"].sum() for part in parts).item() / 4 == 1.0


def test_a_batch_of_one_label_only_logs_that_side_and_no_margin(told):
    stage = stage_of(told, batch_size=1)
    learner = Learner(stage)
    learner.start(None)
    sides = {"chosen" if "rewards/chosen" in line else "rejected" for line in
             (learner.update() for _ in range(6)) if "rewards/margins" not in line}  # fmt: skip
    assert sides == {"chosen", "rejected"}


def test_held_out_answers_are_measured_as_one_batch_by_hand(told):
    """In micro-batches of 3, with a reference point above 0."""
    held_out, weights = (
        random_answers(8, seed=6),
        dict(desirable_weight=2.0, undesirable_weight=3.0),
    )
    stage = stage_of(told, 0, 2, held_out=held_out, batch_size=6, accumulate=2, **weights)
    found, models = stage.evaluate().figures, (gpt2(0), gpt2(2))
    own = [(answer.prompt, answer.completion) for answer in held_out]
    own, others = (
        [by_hand(model, sequences).detach() for model in models]
        for sequences in (own, mismatched(held_out, 512))
    )
    labels = torch.tensor([answer.label for answer in held_out])
    kl = (others[0] - others[1]).mean().item()
    losses, rewards = kto_loss(*own, labels, kl, 0.1, 2.0, 3.0), 0.1 * (own[0] - own[1])
    sides = {"chosen": labels, "rejected": ~labels}
    wanted = {f"eval_rewards/{side}": rewards[of].mean() for side, of in sides.items()}
    wanted |= {f"eval_logps/{side}": own[0][of].mean() for side, of in sides.items()}
    wanted |= {"eval_rewards/margins": rewards[labels].mean() - rewards[~labels].mean()}
    wanted |= {"eval_loss": losses.mean(), "eval_kl": torch.tensor(kl)}
    assert kl > 0.1
    assert found == pytest.approx({name: x.item() for name, x in wanted.items()}, rel=1e-6)


def test_held_out_answers_start_at_one_half_and_a_reference_point_of_0(told):
    given = dict(steps=2, eval_data=str(told[1] / "world"), eval_every=2, batch_size=5)
    _, (first, _), _ = run(told, "watched", **given, accumulate=2)
    assert (first["eval_loss"], first["eval_kl"], first["eval_rewards/margins"]) == (0.5, 0.0, 0.0)


def test_training_parts_good_answers_from_bad_ones(told):
    """Labels that a text gives away: even tokens are good."""
    words = torch.randint(1, 16, (40, 5), generator=torch.Generator().manual_seed(1)) * 2
    answers = [
        TokenLabelled((2, 3), (*(w + (n % 2) for w in row), 0), n % 2 == 0)
        for n, row in enumerate((words - 1).tolist())
    ]
    stage = stage_of(told, 0, 0, answers=answers, dtype=torch.float32, beta=0.3, batch_size=20,
                     lr=3e-3, optimizer="adamw", warmup_steps=0, steps=40)  # fmt: skip
    learner = Learner(stage)
    learner.start(None)
    lines = [learner.update() for _ in range(40)]
    assert lines[0]["loss"] == 0.5 and lines[-1]["loss"] < 0.25
    assert lines[-1]["rewards/margins"] > 2 and lines[-1]["rewards/rejected"] < 0
    assert stage.reference is None  # let go once it has scored all


def test_a_resumed_run_uses_the_reference_s_scores_again(told):
    path, *_ = run(told, "kept", steps=4, save_every=2)
    before = (path / "reference.safetensors").read_bytes()
    stage = KTO.from_settings(KTOSettings(**told[0], out=str(path), steps=4, batch_size=6,
                                          max_length=100, dtype="float32"))[0]  # fmt: skip
    stage.reference.forward = lambda *_, **__: pytest.fail("asked again")
    stage.start(1)
    assert stage.ref_logps.shape == (30, 2) and stage.reference is not None
    assert (path / "reference.safetensors").read_bytes() == before


def test_scores_of_others_answers_do_not_outlive_another_max_length(told):
    """Own answers fit in both; beside a long prompt another's is cut in one."""
    answers = [TokenLabelled((2,) * 9, (3, 0), True), TokenLabelled((4,), (5,) * 8 + (0,), False)]
    hashes = [
        stage_of(told, answers=answers, max_length=most, batch_size=2).fingerprint["data"]
        for most in (12, 32, 30)
    ]
    assert hashes[0] != hashes[1] == hashes[2]


def test_a_run_is_reported_drawn_and_judged_like_every_other(told, tmp_path, capsys):
    named, folder = told
    out = tmp_path / "run"
    given = ["--steps", "4", "--batch-size", "8", "--max-length", "100", "--lr", "1e-3"]
    data = ["--data", named["data"], "--eval-data", folder / "world"]
    assert main(["kto", "--model", named["model"], "--out", str(out), *map(str, data), *given]) == 0
    page = (out / "report.html").read_text()
    assert "KTO from" in page and "desirable_weight" in page and "reference point" in page
    assert main(["plot", str(out), "--out", str(tmp_path / "run.svg")]) == 0
    assert main(["doctor", str(out)]) == 0
    assert "suspect" not in capsys.readouterr().out


def mistake(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dpo: ")
    return line


def test_bad_input_is_one_line_and_leaves_nothing_behind(told, capsys, tmp_path):
    named, _ = told
    rows = Path(named["data"]).read_text().splitlines()
    good = [row for row in rows if json.loads(row)["label"]]
    alone, same = tmp_path / "alone.jsonl", tmp_path / "same.jsonl"
    alone.write_text(json.dumps(json.loads(rows[0]) | {"completion": " new"}) + "\n")
    same.write_text("\n".join(good) + "\n")
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(json.dumps(json.loads(r) | {"label": False}) for r in good[:2]))
    model = ["kto", "--model", named["model"], "--out", tmp_path / "run", "--data"]
    fine = [*model, named["data"], "--max-length", "100"]
    assert (
        "same.jsonl: has 11 desirable and 0 undesirable answers, and KTO needs both; dpo sft "
        in (mistake(capsys, *model, same))
    )
    assert "alone.jsonl: has one answer; KTO is measured on two or more" in mistake(
        capsys, *fine, "--eval-data", alone
    )
    assert "2 of 2 held-out items are trained on too" in mistake(
        capsys, *fine, "--eval-data", turned
    )
    for flag in ("beta", "desirable-weight", "undesirable-weight"):
        name = flag.replace("-", "_")
        for value in ("0", "-1", "inf", "nan"):
            found = mistake(capsys, *fine, f"--{flag}", value)
            assert f"{name} must be positive and finite, got" in found
    assert "batch_size 64 is more than the 30 items" in mistake(capsys, *fine)
    assert not (tmp_path / "run").exists()


def test_the_run_says_how_many_answers_of_each_label_and_which_weights_would_balance_them(
    told, capsys
):
    run(told, "said", steps=1)
    said = capsys.readouterr().err.splitlines()
    assert "11 desirable and 19 undesirable answers" in said
    assert any("weigh 0.579 times the others" in line for line in said)
    assert any("--desirable-weight 1.73 to 2.3, or --undesirable-weight" in line for line in said)
    run(told, "balanced", steps=1, desirable_weight=2.0)
    assert "paper advises" not in capsys.readouterr().err
