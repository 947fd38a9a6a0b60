"""A world of a few rows and a GPT-2 of two layers, for tests that train for real."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.worlds.data_set import write_world


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
