"""What a data file holds, in lines for a person: `dpo check`."""

from pathlib import Path

from dpo_lib.language_model.data.reading import (
    Example,
    Preference,
    read_examples,
    read_preferences,
    read_prompts,
)
from dpo_lib.language_model.data.rows import DataError, read_rows
from dpo_lib.language_model.data.shapes.columns import Fields
from dpo_lib.language_model.data.shapes.rankings import is_ranking
from dpo_lib.language_model.data.tokens import (
    tokenize_examples,
    tokenize_preferences,
    tokenize_prompts,
)
from dpo_lib.language_model.data.unpaired import (
    counted,
    read_labelled,
    require_both,
    tokenize_labelled,
)

READERS = {
    "preferences": (read_preferences, tokenize_preferences),
    "examples": (read_examples, tokenize_examples),
    "prompts": (read_prompts, tokenize_prompts),
}


def overview(
    path: str, tokenizer=None, max_length: int = 512, pairs_from: str | None = None
) -> list[str]:
    """What became of each row, what the first has become, and tokens if a tokenizer is given.

    Raises:
        DataError: as the readers of `reading` and `tokens`.
    """
    kind = "preferences" if pairs_from else kind_of_rows(path)
    read, tokenize = READERS[kind]
    asked = {"pairs_from": pairs_from} if kind == "preferences" else {}
    rows, report = read(path, tokenizer, **asked)
    items = [] if tokenizer is None else tokenize(rows, tokenizer, max_length, report)
    found = [f"{path}: {kind}", *report.lines(), *_first_lines(rows[0]), *_token_lines(items)]
    labelled = kind == "examples" and _has_labels(path)
    return found + (_labelled_lines(path, tokenizer, max_length) if labelled else [])


def kind_of_rows(path: str) -> str:
    """What a file holds by the fields of its first row; of a folder the richest that is there."""
    files = {"preferences": "preferences", "sft": "examples", "prompts": "prompts"}
    if Path(path).is_dir():
        present = (kind for name, kind in files.items() if any(Path(path).glob(f"{name}.jsonl*")))
        return next(present, "preferences")
    row = _first_row(path)
    found = row.row
    if {"chosen", "rejected"} & found.keys():
        return "preferences"
    if any(row.names(name) for name in ("completion", "messages", "text")):
        return "examples"
    return "prompts" if row.names("prompt") and not is_ranking(found) else "preferences"


def _first_row(path: str) -> Fields:
    _, found = next(read_rows(path, ""), ("", {}))
    return Fields(found)


def _has_labels(path: str) -> bool:
    """Whether the first row of a file has an answer with a label."""
    if Path(path).is_dir():
        return False
    row = _first_row(path)
    return row.has("label") and bool(row.names("completion") or row.names("messages"))


def _labelled_lines(path: str, tokenizer, max_length: int) -> list[str]:
    """What `dpo kto` makes of the rows, from which `dpo sft` takes the good answers alone."""
    try:
        rows, report = read_labelled(path, tokenizer)
        if tokenizer is not None:
            rows = tokenize_labelled(rows, tokenizer, max_length, report)
        require_both(path, rows)
    except DataError as reason:
        return [f"for dpo kto: {reason}"]
    return [f"for dpo kto: {line}" for line in (*report.lines(), counted(rows))]


def _first_lines(row: Preference | Example | str) -> list[str]:
    """Each part of a row as text: what a chat template or a transcript made of it."""
    parts = {"prompt": row} if isinstance(row, str) else vars(row)
    shown = {part: text for part, text in parts.items() if part != "place"}
    return [f"{part} of the first: {_middle_out(text)}" for part, text in shown.items()]


def _middle_out(text: str, longest: int = 200) -> str:
    if len(text) <= longest:
        return repr(str(text))
    return f"{text[: longest // 2]!r} ... {text[-longest // 2 :]!r}"


def _token_lines(items: list) -> list[str]:
    """Smallest, median and largest number of tokens of each part, and what they sum to."""
    parts: dict[str, list[int]] = {}
    for item in items:
        named = {"prompt": item} if isinstance(item, tuple) else vars(item)
        for part, ids in named.items():
            parts.setdefault(part, []).append(len(ids))
    shown = []
    for part, lengths in parts.items():
        low, middle, high = (sorted(lengths)[k] for k in (0, len(lengths) // 2, -1))
        shown.append(f"tokens of {part}: {low} to {high}, median {middle}, {sum(lengths)} in all")
    return shown
