"""What every run of the zoo starts from: data of the built-in world, a micro GPT-2 after SFT."""

import copy
import random
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from dpo_lib.language_model.data.reading import Preference, Report
from dpo_lib.language_model.data.tokens import Pair, TokenExample, tokenize_preferences
from dpo_lib.language_model.judging.training_log import Log
from dpo_lib.language_model.models.hub import build
from dpo_lib.language_model.settings import SFTSettings
from dpo_lib.language_model.stages.sft import SFT
from dpo_lib.language_model.training.loop import OPTIMIZERS, learning_rate
from dpo_lib.language_model.training.order import batch_indices, micro_batches
from dpo_lib.language_model.training.processes import processes
from dpo_lib.language_model.training.stage import Stage
from dpo_lib.language_model.worlds.data_set import train_tokenizer
from dpo_lib.language_model.worlds.reviews import draw_completion, draw_prompt, reward

SHAPE = dict(n_layer=1, n_embd=32, n_head=2, n_positions=56)  # a micro GPT-2


@dataclass(frozen=True)
class Start:
    """What a DPO run starts from: data of the built-in world, and a model before and after SFT."""

    tokenizer: PreTrainedTokenizerBase
    pairs: list[Pair]
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
    fitting = _short_pairs(rng, tokenizer, pairs + 400, shape["n_positions"] - 2)
    examples = [TokenExample(p.prompt, p.chosen) for p in fitting[pairs:]]
    examples += [TokenExample(p.prompt, p.rejected) for p in fitting[pairs:]]
    eos = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos, **shape)
    untrained = build(GPT2LMHeadModel, config, seed).train()
    sft = copy.deepcopy(untrained)
    settings = SFTSettings(
        model="", data="", out="", lr=3e-3, optimizer="adamw", warmup_steps=10, seed=seed,
        steps=sft_steps, batch_size=32,
    )  # fmt: skip
    record(SFT(settings, sft, tokenizer, examples))
    return Start(tokenizer, fitting[:pairs], untrained, sft)


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


def record(stage: Stage) -> Log:
    """Train a stage to its last step and return its log.

    A plain loop as most code has it: no files, no checkpoints, and no stop at a NaN. Of a
    healthy stage it writes the lines that `trainer.train` writes.
    """
    settings, rows, tokens = stage.settings, [], 0
    parameters = [p for module in stage.modules.values() for p in module.parameters()]
    optimizer = OPTIMIZERS[settings.optimizer](parameters, settings.lr)
    steps = getattr(stage, "steps", lambda: range(1, settings.steps + 1))
    rate = getattr(stage, "rate", lambda step: learning_rate(settings, step))
    row = getattr(stage, "row", dict)
    for step in steps():
        stage.start(step)
        batch = batch_indices(settings.seed, step, settings.batch_size, stage.items)
        share = 1 / stage.weight(batch)
        optimizer.zero_grad(set_to_none=True)
        pieces = micro_batches(batch, settings, processes())
        parts = [stage.backward(piece, share) for piece in pieces]
        sums = {name: sum(_number(part[name]) for part in parts) for name in parts[0]}
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        tokens += int(sums.pop("num_tokens"))
        means = {name: total * share for name, total in sums.items()}
        epoch = step / -(-stage.items // settings.batch_size)
        last = {"grad_norm": float(norm), "learning_rate": rate(step), "num_tokens": tokens}
        rows.append(row({"step": step, "epoch": epoch, **means, **last}))
    return Log(rows, vars(settings))


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
