"""Rows of a data file, each with its place: JSON Lines, plain or gzipped, or a hub data set.

A file is read line by line and split at "\\n" alone: U+2028, U+2029 and U+0085 may stand inside
a JSON string, and Python's `splitlines` would break a valid row there.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LONGEST_LINE = 2**24  # bytes; a longer line is a file of another kind, or a gzip bomb
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"


class DataError(ValueError):
    """One line for a person: "file:line: reason", or "file: reason" if no line is to blame."""


class Malformed(Exception):
    """The reason why a row cannot be read; whoever knows the place turns it into a DataError."""


def read_rows(path: str | Path, name: str) -> Iterator[tuple[str, dict]]:
    """Every row with its place, "file:line"; blank lines hold no row.

    Args:
        path: a file, a folder that holds name.jsonl or name.jsonl.gz, or "hub:NAME[:SPLIT]".
        name: what the file is called where path is a folder.

    Raises:
        DataError: at the first row that is not a JSON object, or if the file cannot be read.
    """
    if str(path).startswith("hub:"):
        yield from _hub_rows(str(path))
        return
    for place, line in _lines(_find(Path(path), name)):
        if line.strip():
            try:
                yield place, parse(line)
            except Malformed as reason:
                raise DataError(f"{place}: {reason}") from None


def parse(line: bytes) -> dict:
    """One line as a JSON object; Malformed says what else it is."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        raise Malformed(f"not UTF-8: {found}") from None
    if "\0" in text:
        raise Malformed(f"has a NUL character at column {text.index(chr(0)) + 1}")
    try:
        row = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Malformed(
            f"not a JSON object on one line: {error.msg}, column {error.colno}"
        ) from None
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise Malformed(f"must be a JSON object, got {kind(row)}")
    return row


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


def _find(path: Path, name: str) -> Path:
    candidates = [path / f"{name}.jsonl", path / f"{name}.jsonl.gz"] if path.is_dir() else [path]
    files = [file for file in candidates if file.is_file()]
    if len(files) == 1:
        return files[0]
    if not path.is_dir():
        raise DataError(f"{path}: no such file")
    held = "both" if files else "neither"
    raise DataError(f"{path}: must hold {name}.jsonl or {name}.jsonl.gz, holds {held}")


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    number = 0
    try:
        with _open(file) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{file}:{number}: longer than {LONGEST_LINE:,} bytes")
                yield f"{file}:{number}", line.removeprefix(BOM) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}:{number + 1}: cannot be read: {reason}") from None


def _open(file: Path) -> BinaryIO:
    """The file's bytes, unpacked if they are gzip, whatever its name says."""
    with open(file, "rb") as stream:
        packed = stream.read(2) == GZIP
    return gzip.open(file) if packed else open(file, "rb")


def _hub_rows(address: str) -> Iterator[tuple[str, dict]]:
    name, _, split = address.removeprefix("hub:").partition(":")
    try:
        rows = _hub_data(name, split)
        for number, row in enumerate(rows, start=1):
            yield f"{address}:{number}", row
    except Exception as error:  # each format and each transport raises kinds of its own
        lines = str(error).splitlines() or [""]
        raise DataError(f"{address}: {type(error).__name__}: {lines[0]}") from None


def _hub_data(name: str, split: str):
    """A data set by its hub name, or a local folder of parquet files or of `save_to_disk`."""
    from datasets import load_dataset, load_from_disk

    if (Path(name) / "dataset_dict.json").is_file():
        return load_from_disk(name)[split or "train"]
    if (Path(name) / "state.json").is_file():
        if split:
            raise ValueError(f"the folder is of one split: leave :{split} out")
        return load_from_disk(name)
    return load_dataset(name, split=split or "train")
