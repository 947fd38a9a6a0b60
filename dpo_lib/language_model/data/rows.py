"""Rows of a data file or a hub data set, each with its place.

The end of its name says what a file is: CSV (.csv: a line of names, then text in every cell),
parquet (.parquet), one list of JSON objects (.json that starts with a bracket), or JSON Lines; each
but parquet plain or gzipped. A place is "file:line" in JSON Lines, elsewhere "file:row", from 1.

JSON Lines are split at "\\n" alone: U+2028, U+2029 and U+0085 may stand inside a JSON string, and
Python's `splitlines` would break a valid row there.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LONGEST_LINE = 2**24  # bytes; a longer line is a file of another kind, or a gzip bomb
LONGEST_FILE = 2**30  # bytes of a JSON list, which is read whole
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"


class DataError(ValueError):
    """One line for a person: "file:line: reason", or "file: reason" if no line is to blame."""


class Malformed(Exception):
    """The reason why a row cannot be read; whoever knows the place turns it into a DataError."""


def read_rows(path: str | Path, name: str) -> Iterator[tuple[str, dict]]:
    """Every row with its place; blank lines hold no row.

    Args:
        path: a file, a folder that holds name.jsonl or name.jsonl.gz, or "hub:NAME[:SPLIT]".
        name: what the file is called where path is a folder.

    Raises:
        DataError: at the first row that is not an object, or if the file cannot be read.
    """
    if str(path).startswith("hub:"):
        yield from _table_rows(str(path), _hub_data)
        return
    file = _find(Path(path), name)
    ending = Path(file.name.removesuffix(".gz")).suffix.lower()
    if ending == ".parquet":
        yield from _table_rows(str(file), _parquet_data)
    elif ending == ".csv":
        yield from _csv_rows(file)
    elif ending == ".json" and _first_byte(file) == b"[":
        yield from _list_rows(file)
    else:
        for place, line in _lines(file):
            if line.strip():
                with _at(place):
                    row = parse(line)
                yield place, row


def parse(line: bytes) -> dict:
    """One line as a JSON object; Malformed says what else it is."""
    text = _text(line)
    try:
        return _object_of(_DECODER.decode, text)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, column {error.colno}"
        raise Malformed(f"not a JSON object on one line: {where}") from None


def kind(value: object) -> str:
    """What a JSON value is called in an error."""
    names = {str: "text", bool: "a truth value", int: "a number", float: "a number"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"has {twice[:40]!r} twice")
    return found


def _refuse_constant(name: str) -> None:
    raise Malformed(f"has {name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _text(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at column {error.start + 1}"
        raise Malformed(f"not UTF-8: {found}") from None
    if "\0" in text:
        raise Malformed(f"has a NUL character at column {text.index(chr(0)) + 1}")
    return text


def _object_of(decode: Callable, text: str) -> dict:
    """What the decoder makes of the text, if it is an object; its own errors pass."""
    try:
        row = decode(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise Malformed(f"must be a JSON object, got {kind(row)}")
    return row


@contextmanager
def _at(place: str) -> Iterator[None]:
    try:
        yield
    except Malformed as reason:
        raise DataError(f"{place}: {reason}") from None


def _list_rows(file: Path) -> Iterator[tuple[str, dict]]:
    with _at(str(file)):
        text = _text(b"".join(line for _, line in _lines(file, LONGEST_FILE)))
    at, number, comma = _after_blanks(text, text.index("[") + 1), 0, False

    def next_value(text: str) -> object:
        nonlocal at
        value, at = _DECODER.raw_decode(text, at)
        return value

    while comma or text[at : at + 1] != "]":
        number += 1
        with _at(f"{file}:{number}"):
            try:
                row = _object_of(next_value, text)
            except json.JSONDecodeError as error:
                raise Malformed(f"not a JSON object in a list: {error.msg}") from None
            at = _after_blanks(text, at)
            comma = text[at : at + 1] == ","
            if not comma and text[at : at + 1] != "]":
                raise Malformed("neither a comma nor the end of the list follows")
        yield f"{file}:{number}", row
        at = _after_blanks(text, at + 1) if comma else at
    if text[at + 1 :].strip():
        raise DataError(f"{file}: has more after the end of the list")


def _after_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\n", "\r"):
        at += 1
    return at


def _csv_rows(file: Path) -> Iterator[tuple[str, dict]]:
    csv.field_size_limit(LONGEST_LINE)
    number = 0

    def lines() -> Iterator[str]:
        for place, line in _lines(file):
            with _at(place):
                yield _text(line)

    rows = csv.reader(lines(), strict=True)
    try:
        names = next(rows, [])
        with _at(f"{file}:1"):
            _object([(name, "") for name in names])
        for number, cells in enumerate(filter(None, rows), start=1):
            if len(cells) != len(names):
                raise DataError(f"{file}:{number}: has {len(cells)} cells under {len(names)} names")
            yield f"{file}:{number}", dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}:{number + 1}: not CSV: {error}") from None


def _find(path: Path, name: str) -> Path:
    candidates = [path / f"{name}.jsonl", path / f"{name}.jsonl.gz"] if path.is_dir() else [path]
    files = [file for file in candidates if file.is_file()]
    if len(files) == 1:
        return files[0]
    if not path.is_dir():
        raise DataError(f"{path}: no such file")
    held = "both" if files else "neither"
    raise DataError(f"{path}: must hold {name}.jsonl or {name}.jsonl.gz, holds {held}")


def _first_byte(file: Path) -> bytes:
    return next((line.strip()[:1] for _, line in _lines(file, LONGEST_FILE) if line.strip()), b"")


def _lines(file: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[str, bytes]]:
    number = 0
    try:
        with _open(file) as stream:
            while line := stream.readline(longest + 1):
                number += 1
                if len(line) > longest:
                    raise DataError(f"{file}:{number}: longer than {longest:,} bytes")
                yield f"{file}:{number}", line.removeprefix(BOM) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}:{number + 1}: cannot be read: {reason}") from None


def _open(file: Path) -> BinaryIO:
    """The file's bytes, unpacked if they are gzip, whatever its name says."""
    with open(file, "rb") as stream:
        packed = stream.read(2) == GZIP
    return gzip.open(file) if packed else open(file, "rb")


def _table_rows(address: str, load: Callable[[str], Iterable[dict]]) -> Iterator[tuple[str, dict]]:
    try:
        for number, row in enumerate(load(address), start=1):
            yield f"{address}:{number}", row
    except Exception as error:  # each format and each transport raises kinds of its own
        lines = str(error).splitlines() or [""]
        raise DataError(f"{address}: {type(error).__name__}: {lines[0]}") from None


def _parquet_data(file: str) -> Iterable[dict]:
    from pyarrow.parquet import ParquetFile  # `datasets` would write a copy into its cache

    table = ParquetFile(file)
    _object([(name, None) for name in table.schema_arrow.names])
    for batch in table.iter_batches():
        yield from batch.to_pylist()


def _hub_data(address: str) -> Iterable[dict]:
    """A data set by its hub name, or a local folder of parquet files or of `save_to_disk`."""
    from datasets import load_dataset, load_from_disk

    name, _, split = address.removeprefix("hub:").partition(":")
    if (Path(name) / "dataset_dict.json").is_file():
        return load_from_disk(name)[split or "train"]
    if (Path(name) / "state.json").is_file():
        if split:
            raise ValueError(f"the folder is of one split: leave :{split} out")
        return load_from_disk(name)
    return load_dataset(name, split=split or "train")
