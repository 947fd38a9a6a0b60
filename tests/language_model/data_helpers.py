"""A tiny tokenizer, rows in every shape, and files of them, for the tests of the data."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dpo_lib.language_model import data
from dpo_lib.language_model.data.reading import Preference, Report

EOS = "<|endoftext|>"
FILM = {"prompt": "The film was", "chosen": " good", "rejected": " bad"}
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
some_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def tiny_tokenizer(**special) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens, in which " film" and " was" are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the film was good", "a film was bad", "the film"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_tokenizer(*special: str, template: str | None = None, **named) -> PreTrainedTokenizerFast:
    """The ids are the bytes, and from 256 the special tokens, end of text first."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # as GPT-2 writes bytes
    written = {byte: chr(byte) for byte in plain}
    written |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in written)}
    vocabulary = {written[byte]: byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS, *special])
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, extra_special_tokens=list(special), **named
    )
    found.chat_template = template
    return found


TOKENIZER = tiny_tokenizer(eos_token=EOS)
CHAT = tiny_tokenizer(eos_token="<|im_end|>", bos_token="<s>")
CHAT.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
CHAT.chat_template = CHATML
END = TOKENIZER.eos_token_id
BYTES = byte_tokenizer()


def text_of(ids) -> str:
    return TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)


def write(folder, rows_, name="rows.jsonl", ascii_only=False) -> Path:
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows_]
    path = folder / name
    content = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def read_one(folder, row, tokenizer=None) -> Preference:
    (found,), _ = data.read_preferences(write(folder, [row]), tokenizer)
    return found


def tokenize(rows_, max_length=512, tokenizer=TOKENIZER):
    found = [Preference(*row, f"f:{n}") for n, row in enumerate(rows_, start=1)]
    report = Report(rows=len(found), used=len(found))
    return data.tokenize_preferences(found, tokenizer, max_length, report), report


def dropped(report) -> int:
    return sum(map(len, report.dropped.values()))


def turns(*contents, system=None) -> list[dict]:
    roles = ["user", "assistant"] * len(contents)
    talk = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}] * (system is not None) + talk


def answer(content) -> list[dict]:
    return [{"role": "assistant", "content": content}]


def words(n, word=" film") -> str:
    return word * n


def one_line(error: pytest.ExceptionInfo, start: str) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1 and message.startswith(start) and len(message) < 400
    return message
