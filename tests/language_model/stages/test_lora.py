"""Stages with --lora: where they start, what moves, what a checkpoint holds, how they go on."""

import json
import math
import shutil
from types import SimpleNamespace

import peft
import pytest
import torch
from faults import Faults, count_events, ends, in_child, warm_up
from safetensors.torch import load_file
from small_world import small_run, small_world

from dpo_lib import __main__ as cli
from dpo_lib.language_model.models.adapters.folders import merge
from dpo_lib.language_model.models.adapters.layers import file_names
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.policies import frozen_copy, load_policy, load_tokenizer
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.scoring.logprobs import pair_logps
from dpo_lib.language_model.settings import (
    DPOSettings,
    KTOSettings,
    OnlineDPOSettings,
    PPOSettings,
    RewardSettings,
    Settings,
    SFTSettings,
    TrainingError,
)
from dpo_lib.language_model.stages.dpo import DPO
from dpo_lib.language_model.stages.kto import KTO
from dpo_lib.language_model.stages.online import OnlineDPO
from dpo_lib.language_model.stages.ppo import PPO
from dpo_lib.language_model.stages.reward import Reward
from dpo_lib.language_model.stages.sft import SFT
from dpo_lib.language_model.stages.shared import first_models
from dpo_lib.language_model.training import loop
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.training.parallel.processes import Processes

# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
torch.set_num_threads(1)
LN2 = torch.tensor(math.log(2)).item()  # in float32, as a mean of float32 numbers is


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world, a base model, and an SFT adapter on it: `named`, `sft`, `folder`."""
    folder = tmp_path_factory.mktemp("lora")
    named = small_world(folder, pairs=40, reviews=40, prompts=40, test=8)
    sft, _ = small_run(SFT, SFTSettings, **named, out=str(folder / "sft"), lora=4, steps=6)
    return SimpleNamespace(folder=folder, named=named, sft=str(sft / "model"))


def policy_of(named):
    return load_policy(named["model"], load_tokenizer(named["model"]))


def stage_of(stage, settings, world, tmp_path, **given):
    chosen = dict(batch_size=6, steps=4, lr=1e-2, warmup_steps=0, lora=2, dtype="float32")
    chosen |= world.named | dict(out=str(tmp_path / "run"), max_length=100) | given
    return stage.from_settings(settings(**chosen))[0]


def test_dpo_starts_at_ln_2_and_rewards_0_to_the_bit_held_out_too(world, tmp_path):
    _, log = small_run(
        DPO, DPOSettings, **world.named, out=str(tmp_path / "run"), lora=4, steps=3, accumulate=2,
        eval_data=world.named["data"], eval_every=3, samples=2, max_new_tokens=8,
    )  # fmt: skip
    measured, first, *_, last, _ = log
    assert first["loss"] == pytest.approx(LN2, abs=1e-7)
    assert measured["eval_loss"] == pytest.approx(LN2, abs=1e-7)
    for side in ("chosen", "rejected"):
        assert first[f"rewards/{side}"] == measured[f"eval_rewards/{side}"] == 0.0
    assert measured["eval_objective/kl"] == 0.0
    assert last["rewards/margins"] != 0 and first["grad_norm"] > 0


def test_gradients_reach_the_adapter_alone_and_no_bit_of_the_base_moves(world, tmp_path):
    stage = stage_of(DPO, DPOSettings, world, tmp_path)
    before = {name: tensor.clone() for name, tensor in stage.policy.state_dict().items()}
    reference, start = stage.reference, state_hash(policy_of(world.named))
    assert state_hash(reference) == start
    train(stage)
    for name, tensor in stage.policy.state_dict().items():
        assert torch.equal(tensor, before[name]) is (".lora_" not in name), name
    assert state_hash(reference) == start
    assert all((p.grad is not None) is (".lora_" in n) for n, p in stage.policy.named_parameters())


def test_a_checkpoint_holds_the_adapter_and_its_optimiser_alone(world, tmp_path):
    run, _ = small_run(
        DPO, DPOSettings, **world.named, out=str(tmp_path / "run"), lora=4, steps=2
    )  # fmt: skip
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    names = load_file(newest / "tensors.safetensors")
    assert names and all(".lora_" in name for name in names)
    settings = json.loads((run / "settings.json").read_text())
    assert settings["reference (hash)"] == state_hash(policy_of(world.named))
    about = settings["about"]
    assert about["trained"] == sum(t.numel() for n, t in names.items() if n.startswith("policy/"))


def test_a_killed_run_ends_with_the_same_bytes(world, tmp_path):
    def work(out):
        given = dict(eval_data=world.named["data"], eval_every=2, samples=2, max_new_tokens=4)
        given |= dict(metric_for_best_model="rewards/margins", resume=True, save_every=2)
        return lambda: train(stage_of(DPO, DPOSettings, world, tmp_path, out=str(out), **given))

    warm_up()
    events = count_events(work(tmp_path / "whole"))
    for at in (events // 3, events // 2, 4 * events // 5, events - 3):
        run = tmp_path / f"killed-{at}"

        def killed(run=run, at=at):
            Faults(at).install()
            work(run)()

        assert in_child(killed) == -9
        assert in_child(work(run)) == 0
        assert ends(run) == ends(tmp_path / "whole")


def test_a_base_that_was_changed_meanwhile_is_refused_on_resume(world, tmp_path):
    named = small_world(tmp_path, pairs=40, reviews=40, prompts=40, test=8)
    moved = SimpleNamespace(named=named)
    train(stage_of(SFT, SFTSettings, moved, tmp_path))
    weights = tmp_path / "model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 64
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="--resume with other settings: model"):
        train(stage_of(SFT, SFTSettings, moved, tmp_path, resume=True))


def test_an_sft_adapter_as_start_is_the_model_with_it_and_so_is_the_reference(world, tmp_path):
    stage = stage_of(DPO, DPOSettings, world, tmp_path, model=world.sft, lora=None)
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(world.sft).eval()
    with torch.no_grad():
        ids = torch.tensor([stage.pairs[0].prompt])
        for model in (stage.policy, stage.reference):
            found, expected = model(ids).logits, plain(ids).logits
            assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
        base = pair_logps(policy_of(world.named), stage.pairs[:4])
        assert (pair_logps(stage.reference, stage.pairs[:4]) - base).abs().min() > 1e-2
    train(stage)
    log = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(log[0])["rewards/chosen"] == 0.0
    assert (tmp_path / "run/model/config.json").exists()  # whole again
    given = dict(model=world.sft, reference=world.sft, lora=None, out=str(tmp_path / "named"))
    train(stage_of(DPO, DPOSettings, world, tmp_path, **given))
    named = (tmp_path / "named/metrics.jsonl").read_text().splitlines()
    assert json.loads(named[0])["rewards/chosen"] == 0.0


def test_a_new_adapter_on_a_merged_one_has_the_merged_model_for_its_reference(world, tmp_path):
    merge(world.sft, tmp_path / "merged")
    stage = stage_of(DPO, DPOSettings, world, tmp_path, model=str(tmp_path / "merged"))
    with torch.no_grad():
        ids = torch.tensor([stage.pairs[0].prompt])
        expected = peft.AutoPeftModelForCausalLM.from_pretrained(world.sft).eval()(ids).logits
        assert (stage.reference(ids).logits - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("when", ["step 1", "held out"])
def test_a_reference_without_the_sft_adapter_or_an_adapter_that_is_not_zero_is_found_at_step_0(
    when, world, tmp_path, monkeypatch
):
    """TRL's trap: adapters disabled is the base, not the model that this run started from."""
    merge(world.sft, tmp_path / "merged")
    given = dict(model=str(tmp_path / "merged"))
    given |= dict(eval_data=world.named["data"]) if when == "held out" else {}
    with monkeypatch.context() as planted:
        planted.setattr(first_models, "frozen_copy", lambda _: frozen_copy(policy_of(world.named)))
        wrong = stage_of(DPO, DPOSettings, world, tmp_path / "0", **given)
    moved = stage_of(DPO, DPOSettings, world, tmp_path / "1", **given)
    with torch.no_grad():
        moved.policy.get_parameter(list(file_names(moved.policy).values())[1]).fill_(1e-3)
    for stage in (wrong, moved):
        with pytest.raises(
            TrainingError, match=r"step 0: .* the policy must be its reference"
        ) as e:
            train(stage)
        assert "\n" not in str(e.value)


def test_ppo_charges_no_kl_at_its_first_draw_and_moves_no_base(world, tmp_path):
    reward, _ = small_run(
        Reward, RewardSettings, **world.named, out=str(tmp_path / "reward"), lora=4, steps=4
    )  # fmt: skip
    judge = str(reward / "model")
    given = dict(reward=judge, max_new_tokens=8, epochs=2, optimizer="adamw")
    stage = stage_of(PPO, PPOSettings, world, tmp_path, **given)
    start = state_hash(stage.reference)
    judged = state_hash(RewardModel.load(judge).body)
    train(stage)
    log = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert log[0]["objective/kl"] == 0.0 != log[-1]["objective/kl"]
    assert state_hash(stage.reference) == start == state_hash(policy_of(world.named))
    tree = dict(stage.value.body.named_parameters())
    frozen = {n.replace(".base_layer", ""): p for n, p in tree.items() if ".lora_" not in n}
    assert state_hash(SimpleNamespace(state_dict=lambda: frozen)) == judged
    assert all(p.requires_grad is (".lora_" in n) for n, p in tree.items())
    assert any(p.abs().sum() > 0 for n, p in tree.items() if ".lora_B" in n)  # it was trained


def test_the_value_function_costs_no_second_base(world, tmp_path):
    stage = stage_of(PPO, PPOSettings, world, tmp_path, reward="true", max_new_tokens=8)
    shared = {p.data_ptr() for p in stage.policy.parameters()}
    for name, parameter in stage.value.body.named_parameters():
        assert (parameter.data_ptr() in shared) is (".lora_" not in name)


def test_a_planted_start_is_found_at_ppos_first_draw(world, tmp_path):
    stage = stage_of(PPO, PPOSettings, world, tmp_path, reward="true", max_new_tokens=8)
    with torch.no_grad():
        stage.policy.get_parameter(list(file_names(stage.policy).values())[1]).fill_(1e-2)
    with pytest.raises(TrainingError, match="step 0: "):
        train(stage)


def run(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    return code, *capsys.readouterr()


def test_adapters_go_through_every_command_that_takes_a_model(world, tmp_path, capsys):
    data = world.named["data"]
    assert run(capsys, "check", "--data", data, "--model", world.sft)[0] == 0
    given = ["--prompt", "This film", "--max-new-tokens", 4]
    code, written, _ = run(capsys, "sample", "--model", world.sft, *given)
    assert code == 0
    code, out, _ = run(capsys, "merge", "--model", world.sft, "--out", tmp_path / "merged")
    assert (code, out) == (0, f"{tmp_path / 'merged'}\n")
    assert run(capsys, "sample", "--model", tmp_path / "merged", *given)[1] == written
    code, out, _ = run(capsys, "evaluate", "--model", world.sft, "--reference", tmp_path / "merged",
                       "--data", data, "--prompts", 4, "--max-new-tokens", 4)  # fmt: skip
    assert code == 0
    run_folder = world.folder / "sft"
    assert run(capsys, "plot", run_folder, "--out", tmp_path / "a.svg")[0] == 0
    code, _, err = run(capsys, "sample", "--model", run_folder, *given)
    assert code == 2 and f"its model is {run_folder / 'model'}" in err


MISTAKES = [
    (["--lora", "0"], "lora must be at least 1, got 0"),
    (["--lora", "33"], "lora must be at most the model's width, 32, got 33"),
    (["--lora-alpha", "3"], "lora_alpha must be left out without lora, got 3.0"),
    (["--lora-target-modules", "c_fc"], "lora_target_modules must be left out without lora"),
    (["--lora", "2", "--lora-alpha", "-1"], "lora_alpha must be positive and finite, got -1.0"),
    (["--lora", "2", "--lora-target-modules", "q_proj"], "no such linear layer; there are c_attn"),
    (["--lora", "2", "--model", "tiny"], "lora: no folder holds the random weights of tiny"),
    (["--lora", "2", "--model", "SFT"], "is an adapter itself; make a plain folder of it with dpo"),
    (["--lora", "2", "--reference", "BROKEN"], "its base model is not there: /nowhere"),
    (["--model", "BROKEN"], "its base model is not there: /nowhere"),
]


@pytest.mark.parametrize("arguments, said", MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_every_mistake_is_one_line_and_leaves_nothing_behind(
    arguments, said, world, tmp_path, capsys
):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text(
        (world.folder / "sft/model/adapter_config.json").read_text()
        .replace(world.named["model"], "/nowhere")
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "adapter_model.safetensors"):
        (broken / name).write_bytes((world.folder / "sft/model" / name).read_bytes())
    places = {"SFT": world.sft, "BROKEN": str(broken)}
    out = tmp_path / "out"
    given = ["--model", world.named["model"], "--data", world.named["data"], "--out", out]
    given += ["--batch-size", "4", *(places.get(a, a) for a in arguments)]
    code, said_out, err = run(capsys, "dpo", *given)
    assert code == 2 and said_out == "" and said in err.splitlines()[-1]
    assert [line for line in err.splitlines() if line.startswith("dpo: ")] == err.splitlines()[-1:]
    assert not out.exists()


def test_every_stage_has_the_flags():
    fields = {"lora", "lora_alpha", "lora_target_modules"}
    for settings in (SFTSettings, RewardSettings, DPOSettings, PPOSettings):
        assert issubclass(settings, Settings) and fields <= settings.__dataclass_fields__.keys()


def test_an_adapter_is_not_sharded(world, tmp_path, monkeypatch):
    stage = stage_of(SFT, SFTSettings, world, tmp_path)
    monkeypatch.setattr(loop, "processes", lambda: Processes(0, 2, sharded=True))
    with pytest.raises(TrainingError, match="adapters cannot be sharded"):
        train(stage)


@pytest.mark.parametrize("reference", ["fixed", "moving"])
def test_online_dpo_with_an_adapter_starts_at_rewards_0_and_goes_on_to_the_byte(
    reference, world, tmp_path
):
    given = dict(reward="true", reference=reference, refresh_every=2, max_new_tokens=8)
    given |= dict(steps=5, save_every=1, temperature=1.5)
    path = train(stage_of(OnlineDPO, OnlineDPOSettings, world, tmp_path, **given))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    zero = (1, 3, 5) if reference == "moving" else (1,)
    assert [x["step"] for x in lines if x.get("rewards/chosen") == 0.0] == list(zero)
    again = tmp_path / "again"
    shutil.copytree(path, again)
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints/step-000005")  # goes on from the middle of a round
    assert (again / "checkpoints/step-000004").exists()
    train(
        stage_of(
            OnlineDPO, OnlineDPOSettings, world, tmp_path, out=str(again), resume=True, **given
        )
    )
    assert ends(again) == ends(path)


def test_kto_with_an_adapter_starts_at_rewards_0_and_another_reference_is_found(
    world, tmp_path, monkeypatch
):
    train(stage_of(KTO, KTOSettings, world, tmp_path))
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == 0.5 and first["kl"] == 0.0
    monkeypatch.setattr(first_models, "frozen_copy", lambda model: frozen_copy(other(world.named)))
    with pytest.raises(TrainingError, match="step 0: with a new adapter"):
        train(stage_of(KTO, KTOSettings, world, tmp_path, out=str(tmp_path / "wrong")))


def other(named):
    """The base, a little moved."""
    model = policy_of(named)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.01)
    return model
