"""What every run of the zoo starts from: data of the built-in world, a micro GPT-2 after SFT."""

import copy
import random
from dataclasses import dataclass

from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.reading import Preference, Report
from dpo_lib.language_model.data.tokens import Pair, TokenExample, tokenize_preferences
from dpo_lib.language_model.models.hub import build
from dpo_lib.language_model.settings import SFTSettings
from dpo_lib.language_model.stages.sft import SFT
from dpo_lib.language_model.worlds.data_set import train_tokenizer
from dpo_lib.language_model.worlds.reviews import draw_completion, draw_prompt, reward
from dpo_lib.language_model.zoo.recording import record

HELD_OUT = 160  # pairs
SHAPE = dict(n_layer=1, n_embd=32, n_head=2, n_positions=56)  # a micro GPT-2


@dataclass(frozen=True)
class Start:
    """What a DPO run starts from: data of the built-in world, and a model before and after SFT."""

    tokenizer: PreTrainedTokenizerBase
    pairs: list[Pair]
    held_out: list[Pair]
    untrained: PreTrainedModel
    sft: PreTrainedModel


def make_start(
    seed: int, pairs: int = 640, sft_steps: int = 150, vocabulary: int = 512, **shape: int
) -> Start:
    """Short reviews with the better one chosen, and a micro GPT-2 fine-tuned on other ones.

    Args:
        seed: of the reviews and of the weights.
        pairs: of the data; those that do not fit the model's positions are left out.
        sft_steps: of AdamW, 32 reviews each.
        vocabulary: tokens of the byte-level BPE.
        shape: of the GPT-2, in place of `SHAPE`.
    """
    shape = SHAPE | shape
    tokenizer = train_tokenizer(vocabulary)
    rng = random.Random(f"bug zoo {seed}")
    fitting = _short_pairs(rng, tokenizer, pairs + 400 + HELD_OUT, shape["n_positions"] - 2)
    reviewed, held_out = fitting[pairs : pairs + 400], fitting[pairs + 400 :]
    held_out = [pair for pair in held_out if pair not in fitting[: pairs + 400]]
    examples = [TokenExample(p.prompt, p.chosen) for p in reviewed]
    examples += [TokenExample(p.prompt, p.rejected) for p in reviewed]
    eos = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos, **shape)
    untrained = build(GPT2LMHeadModel, config, seed).train()
    sft = copy.deepcopy(untrained)
    settings = SFTSettings(
        model="", data="", out="", lr=3e-3, optimizer="adamw", warmup_steps=10, seed=seed,
        steps=sft_steps, batch_size=32,
    )  # fmt: skip
    record(SFT(settings, sft, tokenizer, examples))
    return Start(tokenizer, fitting[:pairs], held_out, untrained, sft)


def _short_pairs(rng: random.Random, tokenizer, wanted: int, longest: int) -> list[Pair]:
    """Pairs of at most 16 words an answer, the better review chosen, that need no truncation."""
    rows: list[Preference] = []
    while len(rows) < wanted * 1.2:
        prompt = draw_prompt(rng)
        texts = [draw_completion(rng, prompt) for _ in range(6)]
        texts = [text for text in texts if len(text.split()) <= 16][:2]
        scores = [reward(prompt.text, text) for text in texts]
        if len(set(scores)) == 2:
            chosen = texts[scores.index(max(scores))]
            rejected = texts[scores.index(min(scores))]
            rows.append(Preference(prompt.text, chosen, rejected, "bug zoo"))
    pairs = tokenize_preferences(rows, tokenizer, 10 * longest, Report())
    return [
        pair
        for pair in pairs
        if len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) <= longest
    ][:wanted]
