"""Policies: load, copy and save them and their tokenizers.

Every model here is a Hugging Face model, so any causal language model of the hub works and what
is saved loads in plain `transformers`. Weights are read from safetensors only: other formats can
run code. Dropout is off in all of them, or the same answer would get two log-probabilities.
"""

import copy
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpo_lib.language_model.models.adapters.folders import (
    read_model,
    read_tokenizer,
    save_adapter,
)
from dpo_lib.language_model.models.adapters.layers import is_adapted, start_of
from dpo_lib.language_model.models.devices import pick_device
from dpo_lib.language_model.models.hub import ModelError, build, whole_folder, write_model

# Random weights: GPT2Config's own shape is the one of 124M parameters.
RANDOM = {
    "tiny": dict(n_layer=4, n_embd=128, n_head=4, n_positions=512),
    "small": dict(n_layer=8, n_embd=256, n_head=8, n_positions=512),
    "gpt2-random": {},
}


def load_tokenizer(name: str, data: str | Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub model or folder; for random weights, of the world beside `data`.

    Args:
        name: what `load_policy` takes.
        data: a world's folder or a file in it; random weights use its `tokenizer/`.
    """
    if name in RANDOM:
        world = Path(data or "")
        folder = (world if world.is_dir() else world.parent) / "tokenizer"
        if data is None or not folder.is_dir():  # else the hub would be asked for "tokenizer"
            raise ModelError(f"model {name!r} needs data with a tokenizer/ folder beside it")
        name = folder
    tokenizer = read_tokenizer(name)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{name}: the tokenizer has no end-of-sequence token; name one of its tokens as "
            "eos_token in its tokenizer_config.json"
        )
    return tokenizer


def check_same_tokens(
    model: str,
    own: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    end: bool = False,
) -> None:
    """Raise ModelError unless a model reads the token ids that another model's tokenizer writes.

    Args:
        model: what it is and its name, "reference runs/sft/model".
        own: its tokenizer.
        tokenizer: the other model's.
        end: compare the end-of-sequence tokens too, for both draw completions.
    """
    ours, others = own.get_vocab(), tokenizer.get_vocab()
    words = [word for word in ours.keys() | others.keys() if ours.get(word) != others.get(word)]
    if words:
        word = min(words)
        ids = [f"token {v[word]}" if word in v else "no token" for v in (ours, others)]
        difference = f"{word!r} is {ids[0]}, there {ids[1]}"
    elif end and own.eos_token_id != tokenizer.eos_token_id:
        difference = f"its end is {own.eos_token!r}, there {tokenizer.eos_token!r}"
    else:
        return
    other = tokenizer.name_or_path
    raise ModelError(
        f"{model}: its tokenizer is not that of {other}: {difference}; "
        f"choose a model trained with the tokenizer of {other}"
    )


def load_policy(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PreTrainedModel:
    """A causal language model, on the CPU, in training mode, with dropout off.

    Args:
        name: "tiny" (4 layers, width 128, context 512), "small" (8, 256, 512) or "gpt2-random"
            (GPT-2's 124M shape), with random weights and the tokenizer's vocabulary; a folder in
            the hub's format, or an adapter's, which is merged into its base; or the name of
            either on the hub, the only one that needs the network.
        tokenizer: must fit the model; no token is added, a pad token is never needed.
        dtype: of the weights. Keep float32 for what is trained: a step of 1e-6 is lost in a
            bfloat16 weight of 0.02.
        seed: of random weights; the global generator is left as it was.

    Raises:
        ValueError: a ModelError: not there, not safetensors, incomplete, or too few words.
    """
    if name in RANDOM:
        eos = tokenizer.eos_token_id
        shape = dict(vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos)
        model = build(GPT2LMHeadModel, GPT2Config(**shape, **RANDOM[name]), seed)
    else:
        model = read_model(name, MODEL_FOR_CAUSAL_LM_MAPPING, "", dtype)
    have, need = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if need > have:
        raise ModelError(f"{name}: {have} words, but the tokenizer has {need}")
    return model.to(dtype).train()


@torch.no_grad()
def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference: same bytes and dtype, no gradients, eval mode.

    Its storage is its own; of a model with an adapter, whose base is frozen, it is the base's.
    """
    if is_adapted(model):
        return start_of(model)
    return copy.deepcopy(model).requires_grad_(False).eval()


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: str | Path
) -> None:
    """Save in the hub's format, whole or not at all; an older model there is replaced.

    Of a model with an adapter the adapter is saved, in peft's format.
    """
    with whole_folder(directory) as scratch:
        if is_adapted(model):
            save_adapter(model, tokenizer, scratch)
        else:
            write_model(model, tokenizer, scratch)


def load_trained(
    folder: str, reads: PreTrainedTokenizerBase | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy that is not trained any more, on its device in eval mode, and its tokenizer.

    Args:
        reads: the tokenizer whose tokens it must read, if it is compared with another policy.
    """
    tokenizer = load_tokenizer(folder)
    if reads is not None:
        check_same_tokens(f"model {folder}", tokenizer, reads, end=True)
    return load_policy(folder, tokenizer).to(pick_device()).eval(), tokenizer
