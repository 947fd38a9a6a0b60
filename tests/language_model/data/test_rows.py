"""Data files, whole or broken. Ids such as L1 name the bug elsewhere that a test rules out."""

import gzip
import json
import runpy
from pathlib import Path

import pytest
from data_helpers import FILM, answer, one_line, some_text, text_of, tokenize, turns, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lib.language_model import data
from dpo_lib.language_model.data import rows
from dpo_lib.language_model.data.reading import Preference
from dpo_lib.language_model.data.rows import DataError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["preferences.jsonl", "preferences.jsonl.gz"])
def test_a_folder_and_a_gzip_file_are_read_alike(tmp_path, name):
    path = write(tmp_path, [FILM], name)
    expected = Preference(*FILM.values(), f"{path}:1")
    assert data.read_preferences(tmp_path)[0] == [expected]
    assert data.read_preferences(str(path))[0] == [expected]


def test_a_hub_data_set_is_read_like_a_file(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    talk = {"prompt": None, "chosen": turns("a", "b"), "rejected": turns("a", "c")}
    table = datasets.Dataset.from_list([talk, talk | {"rejected": turns("a", "b")}])
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": table}).save_to_disk(tmp_path / "many")
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet/train.parquet")
    for address in ("one", "many:test", "parquet", "parquet:train"):
        (row,), report = data.read_preferences(f"hub:{tmp_path}/{address}")
        assert row.prompt == "\n\nHuman: a\n\nAssistant:" and row.place.endswith(":1")
        assert (report.rows, report.used) == (2, 1)
    for address in ("many:train", "one:test", "parquet:none"):
        with pytest.raises(DataError, match=f"^hub:{tmp_path}/{address}: .+"):
            data.read_preferences(f"hub:{tmp_path}/{address}")


@settings(deadline=None)  # a busy machine is no failure
@given(prompt=some_text, chosen=some_text, rejected=some_text, ascii_only=st.booleans())
def test_b9_any_text_survives_the_file_character_for_character(
    tmp_path_factory, prompt, chosen, rejected, ascii_only
):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    path = write(tmp_path_factory.mktemp("b9"), [FILM, row], ascii_only=ascii_only)
    found, report = data.read_preferences(path)
    assert report.rows == 2
    if chosen != rejected and chosen.strip() and rejected.strip():
        assert (found[1].prompt, found[1].chosen, found[1].rejected) == (prompt, chosen, rejected)


def test_b9_only_a_line_feed_ends_a_row(tmp_path):
    """U+2028, U+2029 and U+0085 end a line for str.splitlines, but not for JSON Lines."""
    strange = "a\u2028b\u2029c\u0085d\x1ce 👩‍👩‍👧 e\u0301"
    path = write(tmp_path, [FILM | {"chosen": strange}, FILM])
    found, _ = data.read_preferences(path)
    assert [row.place for row in found] == [f"{path}:1", f"{path}:2"]
    assert found[0].chosen == strange
    (pair,), _ = tokenize([("", strange, "x")])
    assert text_of(pair.chosen[:-1]) == strange


def test_a_byte_order_mark_carriage_returns_and_blank_lines_are_alright(tmp_path):
    line = json.dumps(FILM).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows.BOM + line + b"\r\n\r\n" + line + b"\r\n \n")
    found, report = data.read_preferences(path)
    assert [row.place for row in found] == [f"{path}:1", f"{path}:3"] and report.rows == 2
    assert found[0].chosen == " good"


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def talk_row(*messages) -> dict:
    return {"chosen": list(messages), "rejected": turns("a", "c")}


USER, BOT = turns("a")[0], answer("b")[0]
MALFORMED = {
    "not JSON": (b"film", "not a JSON object"),
    "cut off": (b'{"prompt": "a', "not a JSON object"),
    "two objects": (b"{} {}", "not a JSON object"),
    "single quotes": (b"{'prompt': 'a'}", "not a JSON object"),
    "raw control character": (b'{"prompt": "a\tb"}', "control character"),
    "half an escape": (b'{"prompt": "\\u12"}', "escape"),
    "a list": (b"[1, 2]", "must be a JSON object, got a list"),
    "a string": (b'"film"', "must be a JSON object, got text"),
    "null": (b"null", "must be a JSON object, got null"),
    "latin-1": ('{"prompt": "é"}'.encode("latin-1"), "not UTF-8: byte 0xe9 at column 13"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
    "UTF-8 surrogates": (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
    "NUL": (b'{"prompt": "a\0"}', "NUL character at column 14"),
    "NaN": (b'{"score": NaN}', "has NaN"),
    "infinity": (b'{"score": -Infinity}', "has -Infinity"),
    "a number without end": (b'{"score": ' + b"1" * 5000 + b"}", "not JSON"),
    "nesting": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "a field twice": (b'{"prompt": "a", "prompt": "b"}', "has 'prompt' twice"),
    "a huge line": (b" " * (rows.LONGEST_LINE + 1), "longer than"),
    "no chosen": ({"prompt": "a", "rejected": "b"}, "no field 'chosen'"),
    "no rejected": ({"prompt": "a", "chosen": "b"}, "no field 'rejected'"),
    "null rejected": (FILM | {"rejected": None}, "no field 'rejected'"),
    "number as prompt": (FILM | {"prompt": 3}, "prompt must be text, got a number"),
    "truth value as chosen": (FILM | {"chosen": True}, "chosen is a truth value"),
    "numbers": (FILM | {"chosen": 1, "rejected": 2}, "chosen must be text, got a number"),
    "object as chosen": ({"chosen": {}, "rejected": {}}, "chosen message 1 has no role"),
    "text and list": (FILM | {"chosen": answer("b")}, "but rejected is text"),
    "lone surrogate": (b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "surrogate"),
    "surrogate in a message": (
        b'{"chosen": [{"role": "user", "content": "\\udfff"}], "rejected": []}',
        "half a surrogate pair, '\\udfff'",
    ),
    "no messages": ({"chosen": [], "rejected": []}, "got an empty list"),
    "text as message": (talk_row("a"), "chosen message 1 must be an object, got text"),
    "no role": (talk_row({"content": "a"}), "chosen message 1 has no role"),
    "no content": (talk_row(USER, {"role": "assistant"}), "chosen message 2 has no content"),
    "number as role": (talk_row({"role": 1, "content": "a"}), "must be text, got a number"),
    "picture as content": (talk_row({"role": "user", "content": [{}]}), "must be text, got a list"),
    "unknown role": (
        talk_row({"role": "critic", "content": "a"}),
        "system, user, assistant, got role 'critic'",
    ),
    "consecutive roles": (talk_row(USER, BOT, BOT), "an answer must follow a user message"),
    "the same user twice": (talk_row(USER, USER, BOT), "message 2 must be from the assistant"),
    "late system": (
        talk_row(USER, BOT, {"role": "system", "content": "s"}, BOT),
        "message 3 must be from the user, got role 'system'",
    ),
    "question last": (talk_row(USER), "last message must be the assistant's"),
    "answer without question": (talk_row(BOT), "an answer must follow a user message"),
    "another prompt": (talk_row(USER, BOT) | {"prompt": "z"}, "not one with this prompt"),
    "another prompt list": (
        talk_row(USER, BOT) | {"prompt": turns("z")},
        "not one with this prompt",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_l1_a_malformed_row_stops_with_file_line_and_reason(tmp_path, name):
    bad, reason = MALFORMED[name]
    bad = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    content = json.dumps(FILM).encode() + b"\n" + bad + b"\n"
    for packing in (bytes, packed):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(packing(content))
        with pytest.raises(DataError) as error:
            data.read_preferences(path)
        assert reason in one_line(error, f"{path}:2: ")


NINE = b"".join(json.dumps(FILM | {"chosen": f" {n}"}).encode() + b"\n" for n in range(9))
ZIP = packed(NINE)
WRONG_FILES = {
    "truncated gzip": (ZIP[: len(ZIP) // 2], "cannot be read"),
    "gzip without end": (ZIP[:-4], "cannot be read"),
    "gzip with a wrong sum": (ZIP[:-8] + b"\0" * 8, "cannot be read"),
    "gzip with wrong bytes": (ZIP[:20] + b"\xff" * 20 + ZIP[40:], "cannot be read"),
    "gzip and rubbish": (ZIP + b"rubbish", "cannot be read"),
    "empty file": (b"", "has no rows"),
    "blank file": (b"\n \r\n", "has no rows"),
    "empty gzip": (packed(b""), "has no rows"),
    "only a byte order mark": (rows.BOM, "has no rows"),
    "all dropped": (json.dumps(FILM | {"chosen": " bad"}).encode(), "no row that can be used"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_l1_l2_a_wrong_file_stops_with_its_name_and_one_reason(tmp_path, name):
    content, reason = WRONG_FILES[name]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        data.read_preferences(path)
    assert reason in one_line(error, f"{path}:")


@pytest.mark.parametrize("names, reason", [
    ([], "holds neither"),
    (["preferences.jsonl", "preferences.jsonl.gz"], "holds both"),
    (["sft.jsonl"], "holds neither"),
])  # fmt: skip
def test_l1_a_folder_must_hold_the_one_file(tmp_path, names, reason):
    for name in names:
        write(tmp_path, [FILM], name)
    with pytest.raises(DataError) as error:
        data.read_preferences(tmp_path)
    assert reason in one_line(error, f"{tmp_path}: ")


def test_l1_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        data.read_preferences(tmp_path / "missing.jsonl")
    assert "no such file" in one_line(error, f"{tmp_path}/missing.jsonl: ")


def test_three_hundred_mutated_files_are_refused_in_one_line_or_fully_accounted_for():
    outcomes = runpy.run_path(str(ROOT / "scripts/fuzz_data.py"))["fuzz"](300, seed=1)
    assert set(outcomes) == {"refused", "used"} and outcomes.total() == 300
    assert min(outcomes.values()) > 20  # neither everything refused nor everything let through
