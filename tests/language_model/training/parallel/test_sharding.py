"""FSDP on two CPU processes gives what one process gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults import ends
from safetensors.torch import load_file
from small_world import small_world
from torch import nn
from transformers import GPT2LMHeadModel

from dpo_lib.language_model.training.parallel import sharding

ROOT = Path(__file__).parents[3]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
HALVES = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from dpo_lib.language_model.training.parallel import sharding
from dpo_lib.language_model.training.parallel.processes import processes
group = processes()
assert group.sharded and group.count == 2
model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64))
before = sum(p.numel() for p in model.transformer.h.parameters())
sharding.shard(model, group.count)
assert sum(p.to_local().numel() for p in model.transformer.h.parameters()) == before // 2
assert not sharding.is_sharded(model.lm_head.weight)
"""


def dpo(folder: Path, *arguments: str, launcher=(), expected: int = 0) -> str:
    """What `dpo ARGUMENTS` says on standard error, sharded if there is a launcher."""
    environment = os.environ | {
        "ACCELERATE_USE_FSDP": "true",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *launcher, "-m", "dpo_lib", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == (expected == 0), done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    small_world(folder, pairs=30, reviews=20, prompts=10, test=4)
    return folder


def test_a_sharded_run_gives_the_weights_of_one_process_and_resumes_to_the_same_bytes(folder):
    common = ["dpo", "--model", "model", "--data", "world", "--max-length", "64", "--lr", "1e-3"]
    common += ["--steps", "4", "--save-every", "2", "--warmup-steps", "1", "--optimizer", "adamw"]
    common += ["--batch-size", "7", "--accumulate", "2"]  # 7, 7, 7, 7, then 2: one piece is empty
    dpo(folder, *common, "--out", "one")
    dpo(folder, *common, "--out", "two", launcher=TWO)
    one, two = (load_file(folder / run / "model/model.safetensors") for run in ("one", "two"))
    start = load_file(folder / "model/model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("c_attn.bias"):  # a key's bias has gradient 0, and Adam steps on rounding
            one[name][32:64] = two[name][32:64] = 0
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-6, msg=name)
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in one)
    whole = ends(folder / "two")
    shutil.rmtree(folder / "two/model")
    shutil.rmtree(folder / "two/checkpoints/step-000004")
    dpo(folder, *common, "--out", "two", "--resume", launcher=TWO)
    assert ends(folder / "two") == whole


def test_half_of_each_block_is_here_and_the_output_layer_is_whole(tmp_path):
    script = tmp_path / "halves.py"
    script.write_text(HALVES)
    environment = os.environ | {"ACCELERATE_USE_FSDP": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *TWO, script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_stage_whose_processes_pass_unequally_often_is_refused_in_one_line(folder):
    common = ["--model", "model", "--data", "world", "--out", "ppo", "--reward", "true"]
    said = dpo(folder, "ppo", *common, "--batch-size", "4", launcher=TWO, expected=1)
    assert "PPO cannot be sharded: leave --use_fsdp out" in said
    assert not (folder / "ppo").exists()


def test_one_process_is_never_sharded(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not sharding.is_wanted()


def test_a_model_whose_blocks_have_no_name_is_refused():
    with pytest.raises(ValueError, match="Linear: transformers does not name its blocks"):
        sharding.shard(nn.Linear(2, 2), 2)


def test_without_shards_clipping_is_torchs(folder):
    models = [GPT2LMHeadModel.from_pretrained(folder / "model") for _ in range(2)]
    ids = torch.arange(10)[None]
    for model in models:
        model(input_ids=ids, labels=ids).loss.backward()
    ours = sharding.clip_gradients(models[0].parameters(), 0.01)
    torchs = nn.utils.clip_grad_norm_(models[1].parameters(), 0.01)
    assert torch.equal(ours, torchs)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
