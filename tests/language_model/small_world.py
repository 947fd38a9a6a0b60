"""A world of a few rows and a GPT-2 of two layers, for tests that train for real."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.worlds.data_set import write_world


def small_run(stage, settings, **given) -> tuple[Path, list[dict]]:
    """Train a stage in a few steps; the run's folder and the lines of its log."""
    chosen = dict(batch_size=6, lr=1e-2, warmup_steps=0, save_every=2, max_length=100,
                  optimizer="adamw", dtype="float32")  # fmt: skip
    path = train(stage.from_settings(settings(**chosen | given))[0])
    return path, [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def small_world(folder: Path, **rows: int) -> dict:
    """Write FOLDER/world and FOLDER/model; returns the settings that name them."""
    write_world(folder / "world", **rows)
    tokenizer = load_tokenizer("tiny", folder / "world")
    torch.manual_seed(0)
    eos = tokenizer.eos_token_id
    shape = dict(n_layer=2, n_embd=32, n_head=2, n_positions=128, vocab_size=len(tokenizer))
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=eos, eos_token_id=eos))
    save_policy(model, tokenizer, folder / "model")
    return dict(model=str(folder / "model"), data=str(folder / "world"))
