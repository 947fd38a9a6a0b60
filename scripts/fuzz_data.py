"""Mutate the bytes of valid data files and read them: fuzz_data.py [FILES] [SEED].

The files are JSON Lines, JSON lists, CSV and parquet, with rows of every shape; each is read by one
of the four readings, or as rankings, with one of some chat templates or without. It must end in a
DataError of one line that names it, or in rows that are all used or reported. Anything else is
printed, and the exit status is 1.
"""

import csv
import gzip
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dpo_lib.language_model import data

LONG = " and the light by the sea is warm — é 🎬" * 6  # most mutations should hit a text
TALK = [{"role": "user", "content": f"Which?{LONG}"}, {"role": "assistant", "content": "This."}]
OTHER = [TALK[0], {"role": "assistant", "content": "That."}]
HH = f"\n\nHuman: Hi{LONG}\n\nAssistant:"
ROWS = [
    {"prompt": f"A film{LONG}", "chosen": f" warm{LONG}", "rejected": " du\u2028ll."},
    {"chosen": HH + f" Yes{LONG}", "rejected": HH + f" No{LONG}"},
    {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": OTHER[1:], "score": 1.5e3},
    {"chosen": TALK, "rejected": OTHER, "text": None},
    {"prompt": "The <|endoftext|>", "chosen": " 😀", "rejected": "\\ \t\u0000"},
    {"system": f"Be{LONG}", "question": f"Why?{LONG}", "chosen": "So.", "rejected": "No."},
    {"instruction": f"Add{LONG}", "input": "1, 2", "output": f"3{LONG}", "source": "x"},
    {"prompt": f"A film{LONG}", "completion": " warm", "label": True},
    {"prompt": f"A film{LONG}", "completion": " dull", "label": False, "score": 1},
    {"conversations": [{"from": "human", "value": f"Hi{LONG}"}, {"from": "gpt", "value": "Yes."}]},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": f"Hi{LONG}"}]}],
     "chosen": "<think>so</think>Yes.", "rejected": "No.", "tools": []},
    {"messages": [TALK[0], {"role": "assistant", "content": None, "tool_calls": [{"id": "f"}]},
                  {"role": "tool", "content": f"7{LONG}"}, TALK[1]]},
    {"instruction": f"Why?{LONG}", "completions": [
        {"response": f"So{n}{LONG}", "overall_score": n % 3, "critique": "x"} for n in range(4)]},
    {"prompt": f"A film{LONG}", "answers": [{"answer": f" {n}", "rank": n} for n in (2.0, 1.0)]},
    {"prompt": TALK[:1], "responses": ["Yes.", f"No{LONG}", "No."], "scores": [1, None, -1.5]},
]  # fmt: skip
TURNS = (
    "{% for m in messages %}<{{ m.role }}>CONTENT{{ m.tool_calls }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEMPLATES = [
    None,
    TURNS.replace("CONTENT", "{{ m.content | trim }}"),
    TURNS.replace("CONTENT", "{{ m.content.split('</think>')[-1] }}"),
    TURNS.replace("CONTENT", "{{ m.content }}").replace("t>{%", "t><think>{%"),
    "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    + TURNS.replace("CONTENT", "{{ m.content }}"),
]
READINGS = (
    (data.read_preferences, data.tokenize_preferences, [ROWS[:4], ROWS[5:6], ROWS[10:11], ROWS]),
    (data.read_examples, data.tokenize_examples, [ROWS[6:8], ROWS[7:9], ROWS[9:10], ROWS[11:12]]),
    (data.read_prompts, data.tokenize_prompts, [ROWS[:1], ROWS[5:7], ROWS[9:10], ROWS[12:]]),
    (data.read_labelled, data.tokenize_labelled, [ROWS[7:9], ROWS[:4], [*ROWS[:2], *ROWS[7:9]]]),
    *((partial(data.read_preferences, pairs_from=choice), data.tokenize_preferences,
       [ROWS[12:13], ROWS[13:14], ROWS[14:], [ROWS[0], *ROWS[12:]], ROWS])
      for choice in ("all", "best_and_worst", "adjacent")),
)  # fmt: skip
PIECES = [b"\n", b"\r\n", b"\0", b'"', b"{", b"[" * 2000, b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800",
          b"NaN", b"null", b"1" * 5000, b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85"]  # fmt: skip


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and an end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def valid_file(rng: random.Random, shapes: list[dict], ending: str) -> bytes:
    """Rows of some shapes; in a table those of the first, and what it cannot hold as text."""
    rows = rng.choices(shapes, k=rng.randrange(1, 7))
    if ending == "json":
        return json.dumps(rows, indent=rng.choice([None, 1])).encode()
    if ending == "csv":
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(rows[0]), extrasaction="ignore", restval="1")
        writer.writeheader()
        writer.writerows(rows)
        return table.getvalue().encode()
    if ending == "parquet":
        stored = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows[:1] * len(rows)), stored)
        return stored.getvalue()
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    lines = [line.encode() for line in lines]
    return rng.choice([b"\n", b"\r\n"]).join(lines) + rng.choice([b"", b"\n"])


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Up to three times: bytes changed, a stretch deleted or copied, or a piece of trouble."""
    for _ in range(rng.randrange(4)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice([1, 1, 2, 9, 60]))
        stretch = content[start:end]
        random_byte, letter = rng.randbytes(1), bytes([rng.randrange(32, 127)])
        changes = [b"", stretch * 2, stretch.upper(), letter, random_byte, rng.choice(PIECES)]
        new = rng.choice(changes)
        content = content[:start] + new + content[end:]
    return content


def outcome(path: Path, tokenizer, rng: random.Random, read, tokenize) -> str:
    """Read and tokenise a file: "refused", "used", or what is wrong."""
    tokenizer.chat_template = rng.choice(TEMPLATES)
    try:
        rows, report = read(path, tokenizer)
        items = tokenize(rows, tokenizer, rng.choice([2, 20, 512]), report)
    except data.DataError as error:
        named = str(error).startswith(f"{path}:")
        return "refused" if named and len(str(error).splitlines()) == 1 else f"error {error!r}"
    except Exception as error:  # what must never happen
        return f"traceback {error!r}"
    dropped = sum(map(len, report.dropped.values()))
    if any(len(line.splitlines()) > 1 for line in report.lines()):
        return f"more than a line: {report}"
    if report.used - len(report.pairs) + sum(report.pairs.values()) != len(items):
        return f"{len(items)} items of: {report}"
    return "used" if rows_held(path) == report.rows == report.used + dropped else f"lost: {report}"


def rows_held(path: Path) -> int:
    """Rows of a file that can be read, counted by other means."""
    if path.suffix == ".parquet":
        return parquet.read_metadata(path).num_rows
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    content = content.removeprefix(b"\xef\xbb\xbf")
    if path.suffix == ".csv":
        return sum(map(bool, csv.reader(io.StringIO(content.decode(), newline="")))) - 1
    if path.suffix == ".json" and content.strip().startswith(b"["):
        return len(json.loads(content))
    return sum(bool(line.strip()) for line in content.split(b"\n"))


def fuzz(files: int, seed: int = 0) -> Counter:
    """How often each outcome came; the mutation is before or after packing for gzip files."""
    rng, tokenizer, found = random.Random(seed), byte_tokenizer(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(files):
            ending = rng.choice(["jsonl", "jsonl", "jsonl", "json", "json", "csv", "parquet"])
            path = Path(folder) / f"rows.{ending}"
            read, tokenize, shapes = rng.choice(READINGS)
            packing = rng.choice(["", "", "inside", "outside"]) if ending != "parquet" else ""
            content = valid_file(rng, rng.choice(shapes), ending)
            content = content if packing == "outside" else mutate(content, rng)
            content = gzip.compress(content) if packing else content
            path.write_bytes(mutate(content, rng) if packing == "outside" else content)
            found[outcome(path, tokenizer, rng, read, tokenize)] += 1
    return found


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    start = time.perf_counter()
    outcomes = fuzz(*(numbers or [10_000]))
    for what, count in outcomes.most_common():
        print(f"{count:6} {what}")
    print(f"{time.perf_counter() - start:.1f} s")
    sys.exit(bool(set(outcomes) - {"refused", "used"}))
