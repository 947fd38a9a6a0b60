"""Data files of the built-in world: rows for each stage, labels, a tokenizer."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import torch

from dpo_lib.language_model.files import sha256, whole
from dpo_lib.language_model.worlds.reviews import (
    FEWEST_WORDS,
    WORDS,
    draw_completion,
    draw_prompt,
    reward,
)
from dpo_lib.preferences import bradley_terry

EOS = "<|endoftext|>"


def sft_rows(n: int, rng: random.Random, words: tuple[int, int] = WORDS) -> list[dict]:
    """Reviews as prompt and completion, for fine-tuning: praise and blame alike."""
    prompts = (draw_prompt(rng) for _ in range(n))
    return [{"prompt": p.text, "completion": draw_completion(rng, p, words)} for p in prompts]


def prompt_rows(n: int, rng: random.Random, held_out: bool = False) -> list[dict]:
    """Prompts as they are drawn: a short one may come more than once."""
    return [{"prompt": draw_prompt(rng, held_out).text} for _ in range(n)]


def preference_rows(
    n: int,
    rng: random.Random,
    labels: str,
    noise: float,
    held_out: bool = False,
    words: tuple[int, int] = WORDS,
) -> list[dict]:
    """Two different completions of each prompt, as from the reference, the preferred one first.

    `score_chosen` and `score_rejected` are the true rewards. DPO must not look at them.
    """
    rows = []
    for _ in range(n):
        prompt = draw_prompt(rng, held_out)
        first = second = draw_completion(rng, prompt, words)
        while second == first:
            second = draw_completion(rng, prompt, words)
        scores = {text: reward(prompt.text, text) for text in (first, second)}
        p = preference_probability(scores[first], scores[second], labels, noise)
        chosen, rejected = (first, second) if rng.random() < p else (second, first)
        rows.append(
            {
                "prompt": prompt.text,
                "chosen": chosen,
                "rejected": rejected,
                "score_chosen": round(scores[chosen], 6),
                "score_rejected": round(scores[rejected], 6),
            }
        )
    return rows


def preference_probability(first: float, second: float, labels: str, noise: float) -> float:
    """How probably the label prefers the first of two true rewards.

    "bradley-terry" is equation (1). "deterministic" is its limit for large rewards: the larger
    one, and a fair coin for equals. The label is then turned round with probability `noise`.
    """
    if labels == "bradley-terry":
        pair = torch.tensor([first, second], dtype=torch.float64)
        p = bradley_terry(pair[0], pair[1]).item()
    else:
        p = 0.5 if first == second else float(first > second)
    return (1 - noise) * p + noise * (1 - p)


def train_tokenizer(vocabulary: int = 1024):
    """A byte-level BPE tokenizer of the world's own text; no setting of a world changes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = sft_rows(2000, random.Random("tokenizer"))
    tokenizer.train_from_iterator((row["prompt"] + row["completion"] for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS)


def write_world(
    out: str | Path,
    pairs: int = 2000,
    labels: str = "bradley-terry",
    noise: float = 0.0,
    seed: int = 0,
    *,
    reviews: int = 8000,
    prompts: int = 2000,
    test: int = 500,
    words: tuple[int, int] = WORDS,
) -> dict:
    """Write a world into the folder `out`, whole or not at all, and return its world.json.

    sft.jsonl, preferences.jsonl and prompts.jsonl have training prompts, test_preferences.jsonl
    and test_prompts.jsonl held-out ones. The same settings give the same bytes (those of
    tokenizer/ with the same version of transformers), and a longer file begins with the shorter.

    Args:
        pairs, reviews, prompts: rows of preferences.jsonl, sft.jsonl and prompts.jsonl.
        labels: "bradley-terry", equation (1) on the true reward, or "deterministic".
        noise: probability that a label is turned round, in [0, 1/2]; test pairs have it too.
        seed: any integer.
        test: rows of each of the two held-out files.
        words: the median and the most that a completion aims at, before its opening and its
            last sentence are made whole.

    Raises:
        ValueError: for a setting out of range, or if `out` is there already and not empty.
    """
    out = Path(out)
    settings = dict(pairs=pairs, labels=labels, noise=noise, seed=seed)
    settings |= dict(reviews=reviews, prompts=prompts, test=test, words=list(words))
    _check_settings(settings)
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if os.path.lexists(out) and not empty:
        raise ValueError(f"{out}: is there already and not an empty folder; choose another out")
    rows: dict[str, Callable[[random.Random], list[dict]]] = {
        "sft.jsonl": lambda rng: sft_rows(reviews, rng, words),
        "preferences.jsonl": lambda rng: preference_rows(pairs, rng, labels, noise, False, words),
        "test_preferences.jsonl": lambda rng: preference_rows(
            test, rng, labels, noise, True, words
        ),
        "prompts.jsonl": lambda rng: prompt_rows(prompts, rng),
        "test_prompts.jsonl": lambda rng: prompt_rows(test, rng, True),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as [folder]:
        folder.mkdir()
        for name, draw in rows.items():  # each file has a random stream of its own
            _write_lines(folder / name, draw(random.Random(f"{seed} {name}")))
        train_tokenizer().save_pretrained(folder / "tokenizer")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        world = {
            "settings": settings,
            "reward": "dpo_lib.language_model.worlds.reward",
            "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
        }
        (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n", encoding="utf-8")
    return world


def _check_settings(settings: dict) -> None:
    for name in ("pairs", "reviews", "prompts", "test"):
        if not (isinstance(settings[name], int) and settings[name] >= 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {settings[name]}")
    if settings["labels"] not in ("bradley-terry", "deterministic"):
        known = "'bradley-terry' or 'deterministic'"
        raise ValueError(f"labels must be {known}, got {settings['labels']!r}")
    median, most = settings["words"]
    if not FEWEST_WORDS <= median <= most:
        raise ValueError(
            f"words must be a median of at least {FEWEST_WORDS} and no less than that at most, "
            f"got {median} {most}"
        )
    if not 0 <= settings["noise"] <= 0.5:
        raise ValueError(f"noise must lie in [0, 1/2], got {settings['noise']}")


def _write_lines(path: Path, rows: list[dict]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes("".join(lines).encode())
