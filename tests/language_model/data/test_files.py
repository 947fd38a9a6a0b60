"""Files that are no JSON Lines: lists of objects, CSV, parquet; a place is "file:row"."""

import gzip
import json

import pyarrow
import pytest
from data_helpers import FILM, one_line, turns
from pyarrow import parquet

from dpo_lib.language_model import data
from dpo_lib.language_model.data.reading import Preference
from dpo_lib.language_model.data.rows import DataError

SECOND = FILM | {"chosen": ' fine,\n"so" \u2028 é'}


def same(path):
    found, report = data.read_preferences(path)
    assert found == [
        Preference(row["prompt"], row["chosen"], row["rejected"], f"{path}:{number}")
        for number, row in enumerate((FILM, SECOND), start=1)
    ]
    assert (report.rows, report.used) == (2, 2)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_json_list_is_read_row_by_row(tmp_path, indent, pack):
    path = tmp_path / ("rows.json.gz" if pack is gzip.compress else "rows.JSON")
    rows = [FILM, SECOND]
    path.write_bytes(pack(b"\xef\xbb\xbf \n" + json.dumps(rows, indent=indent).encode()))
    same(path)


def test_json_lines_may_be_called_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(FILM) + "\n\n" + json.dumps(FILM | {"prompt": 3}))
    with pytest.raises(DataError) as error:
        data.read_preferences(path)
    assert one_line(error, f"{path}:3: prompt must be text")


WRONG_LISTS = {
    "empty": ("[]", ": has no rows"),
    "a number": (f"[{json.dumps(FILM)}, 2]", ":2: must be a JSON object, got a number"),
    "a wrong row": (f"[{json.dumps(FILM)}, {{}}]", ":2: has no field 'chosen'"),
    "a comma at the end": (f"[{json.dumps(FILM)},]", ":2: not a JSON object in a list: Expecting"),
    "no comma": (f"[{json.dumps(FILM)} {{}}]", ":1: neither a comma nor the end of the list"),
    "cut off": (f"[{json.dumps(FILM)}", ":1: neither a comma nor the end of the list"),
    "cut off in a row": ("[{", ":1: not a JSON object in a list: "),
    "two lists": (f"[{json.dumps(FILM)}] []", ": has more after the end of the list"),
    "twice": ('[{"a": 1, "a": 2}]', ":1: has 'a' twice"),
    "NaN": ('[{"a": NaN}]', ":1: has NaN, which is not JSON"),
    "deep": ("[" * 100_000, ":1: nested too deeply"),
    "digits": ("[" + "1" * 5000, ":1: not JSON: "),
    "NUL": ('["\0"]', ": has a NUL character"),
}


@pytest.mark.parametrize("name", WRONG_LISTS)
def test_a_wrong_json_list_is_refused_with_its_row(tmp_path, name):
    content, reason = WRONG_LISTS[name]
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        data.read_preferences(path)
    one_line(error, f"{path}{reason}")


CSV = (
    "prompt,chosen,rejected\r\nThe film was, good, bad\r\n"
    'The film was," fine,\n""so"" \u2028 é", bad'
)  # fmt: skip


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_csv_is_read_as_text_cell_by_cell(tmp_path, pack):
    path = tmp_path / ("rows.csv.gz" if pack is gzip.compress else "rows.csv")
    path.write_bytes(pack(b"\xef\xbb\xbf" + CSV.encode()))
    same(path)


def test_csv_knows_no_numbers_and_no_missing_values(tmp_path):
    path = tmp_path / "rows.csv"
    long = "x" * 200_000  # more than Python's csv takes by itself
    path.write_text(f"prompt,completion,label\n1,NA,True\n01,None,False\n{long},null,1\n")
    found, report = data.read_examples(path)
    assert [(e.prompt, e.completion) for e in found] == [("1", "NA"), (long, "null")]
    assert list(report.dropped.values()) == [[f"{path}:2"]]


WRONG_CSV = {
    "empty": ("", ": has no rows"),
    "only names": ("prompt,chosen,rejected", ": has no rows"),
    "a cell too many": ("prompt,chosen,rejected\na,b,c,d", ":1: has 4 cells under 3 names"),
    "a cell too few": ("prompt,chosen,rejected\na,b", ":1: has 2 cells under 3 names"),
    "an open quote": ('prompt,chosen,rejected\na,b,"c', ":1: not CSV: "),
    "a name twice": ("prompt,prompt\na,b", ":1: has 'prompt' twice"),
    "other names": ("question,good,bad\na,b,c", ":1: has no field 'chosen'"),
    "an empty answer": ("prompt,chosen,rejected\na,,c", ": has no row that can be used: 1 rows, 0"),
    "latin-1": ("prompt,chosen\n\xe9", ":2: not UTF-8"),
}


@pytest.mark.parametrize("name", WRONG_CSV)
def test_a_wrong_csv_is_refused_with_its_row(tmp_path, name):
    content, reason = WRONG_CSV[name]
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DataError) as error:
        data.read_preferences(path)
    one_line(error, f"{path}{reason}")


def test_a_parquet_file_is_read_row_by_row(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([FILM, SECOND]), path)
    same(path)
    talks = [{"prompt": None, "chosen": turns("a", "b"), "rejected": turns("a", "c")}] * 2
    parquet.write_table(pyarrow.Table.from_pylist(talks), path, row_group_size=1)
    found, _ = data.read_preferences(path)
    assert [(row.prompt, row.place) for row in found] == [
        ("\n\nHuman: a\n\nAssistant:", f"{path}:{number}") for number in (1, 2)
    ]


def test_a_wrong_parquet_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError) as error:
        data.read_preferences(path)
    one_line(error, f"{path}: ")
    twice = pyarrow.Table.from_arrays([["a"], ["b"]], names=["prompt", "prompt"])
    parquet.write_table(twice, path)
    with pytest.raises(DataError) as error:
        data.read_prompts(path)
    assert "has 'prompt' twice" in one_line(error, f"{path}: ")
