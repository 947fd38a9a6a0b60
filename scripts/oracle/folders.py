"""Tiny models with random weights and a byte-level tokenizer, in folders of the hub's format."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

EOS = "<|endoftext|>"
SHAPES = ("gpt2", "llama")
WIDE = 0.15  # standard deviation of weights: log-ratios of a few nats, as after some training
TEXT = "the film was good bad very long and short of a story with its end said who saw it"
WORDS = TEXT.split()


def byte_level(special: list[str] = (), adds_bos: bool = False, **named) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens that has learned a few words.

    Args:
        special: tokens beside those in `named`.
        adds_bos: begin every text with the BOS of `named`, as Llama's tokenizer does.
        named: eos_token, bos_token and so on.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = list(dict.fromkeys([*named.values(), *special]))
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    if adds_bos:
        bos = named["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=list(special), **named
    )


def random_model(shape: str, vocabulary: int, seed: int, spread: float = WIDE) -> PreTrainedModel:
    """A GPT-2 or a Llama of two layers, without dropout."""
    torch.manual_seed(seed)
    if shape == "gpt2":
        sizes = dict(n_layer=2, n_embd=32, n_head=2, n_positions=256)
        dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        named = dict(bos_token_id=0, eos_token_id=0, initializer_range=spread)
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes, **dropout, **named))
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        bos_token_id=0, eos_token_id=0, initializer_range=spread,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def write_models(folder: Path, spread: float = WIDE) -> PreTrainedTokenizerFast:
    """FOLDER/{gpt2,llama}-{policy,reference} and the tokenizer of all, which is returned."""
    tokenizer = byte_level(eos_token=EOS)
    tokenizer.pad_token = EOS
    for shape in SHAPES:
        for seed, role in enumerate(("policy", "reference")):
            model = random_model(shape, len(tokenizer), seed, spread)
            model.save_pretrained(folder / f"{shape}-{role}")
            tokenizer.save_pretrained(folder / f"{shape}-{role}")
    return tokenizer


def pairs_as_text(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Preference rows: prompts of 3 to 8 words, answers of 1 to 12, all of their own length."""
    generator = torch.Generator().manual_seed(seed)

    def words(least: int, most: int) -> str:
        length = int(torch.randint(least, most + 1, (), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator)
        return " ".join(WORDS[pick] for pick in picks)

    return [
        {"prompt": words(3, 8), "chosen": f" {words(1, 12)}", "rejected": f" {words(1, 12)}"}
        for _ in range(count)
    ]
