"""From text to token ids.

Prompt and completion are tokenised apart, so that no token straddles the boundary between them,
and a completion ends in exactly one EOS.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dpo_lib.language_model.data.reading import Example, Preference, Report
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.shapes.templates import Rendered

# Prompt ids and completion ids of each sequence, what everything that scores is given.
Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Pair:
    """A labelled pair as token ids; each completion ends in EOS unless it was cut."""

    prompt: tuple[int, ...]  # never empty
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of its two sequences."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)

    def swapped(self) -> "Pair":
        """The pair with the other answer chosen."""
        return Pair(self.prompt, self.rejected, self.chosen)


@dataclass(frozen=True)
class TokenExample:
    """A demonstration as token ids; the completion ends in EOS unless it was cut."""

    prompt: tuple[int, ...]  # never empty
    completion: tuple[int, ...]


def tokenize_preferences(
    rows: Sequence[Preference], tokenizer, max_length: int, report: Report
) -> list[Pair]:
    """Token ids of each pair that is still one after truncation; the rest goes to the report.

    prompt + completion is at most max_length tokens. A completion that does not fit beside the
    prompt loses its right end, and with it its EOS; chosen and rejected are cut independently.
    Only a prompt that leaves no room at all is cut: from the left, by the overflow of the longer
    completion and not a token more. An empty prompt becomes BOS (or EOS, as GPT-2 separates its
    documents), because the first token of a completion needs something before it. A prompt that
    no template wrote begins with a BOS if the tokenizer begins texts with one, as Llama's does.

    Args:
        rows: what read_preferences returned.
        tokenizer: of transformers, with an EOS token.
        max_length: tokens of prompt and completion together, at least 2.
        report: the one of these rows; it is updated, so use it for one call only.

    Raises:
        DataError: at a row whose text becomes special tokens, or if no row is left.
        ValueError: if max_length is below 2 or the tokenizer has no EOS.
    """
    prompts, chosen, rejected = _tokenize(
        rows, ("prompt", "chosen", "rejected"), tokenizer, max_length
    )
    pairs = []
    for row, *ids in zip(rows, prompts, chosen, rejected, strict=True):
        pair = Pair(*truncate(*ids, max_length=max_length))
        if not pair.prompt:
            report.drop("the prompt is too long beside an answer that is too long", row.place)
        elif pair.chosen == pair.rejected:
            report.drop(f"chosen and rejected are equal at {max_length} tokens", row.place)
        else:
            _note_cuts(pair, ids, row.place, report)
            pairs.append(pair)
    return _unless_empty(pairs, rows, report)


def tokenize_examples(
    rows: Sequence[Example], tokenizer, max_length: int, report: Report
) -> list[TokenExample]:
    """Token ids of each demonstration; rules and errors are those of tokenize_preferences."""
    return [example for _, example in kept_examples(rows, tokenizer, max_length, report)]


def kept_examples(
    rows: Sequence, tokenizer, max_length: int, report: Report
) -> list[tuple[object, TokenExample]]:
    """`tokenize_examples` of anything with prompt, completion and place, each beside its row."""
    prompts, completions = _tokenize(rows, ("prompt", "completion"), tokenizer, max_length)
    kept = []
    for row, *ids in zip(rows, prompts, completions, strict=True):
        example = TokenExample(*truncate(*ids, max_length=max_length))
        if not example.prompt:
            report.drop("the prompt is too long beside an answer that is too long", row.place)
        else:
            _note_cuts(example, ids, row.place, report)
            kept.append((row, example))
    return _unless_empty(kept, rows, report)


def tokenize_prompts(
    prompts: Sequence[str], tokenizer, max_length: int, report: Report | None = None
) -> list[tuple[int, ...]]:
    """Token ids of each prompt, cut from the left to max_length; a report counts the cuts."""
    _check(tokenizer, max_length)
    found = _prompt_ids(prompts, tokenizer, [f"prompt {n}" for n in range(1, len(prompts) + 1)])
    for number, ids in enumerate(found, start=1):
        if len(ids) > max_length and report is not None:
            report.shorten("prompt cut from the left", f"prompt {number}")
    return [ids[-max_length:] for ids in found]


def truncate(prompt: tuple, *completions: tuple, max_length: int) -> tuple[tuple, ...]:
    """The prompt and its completions, cut to max_length; an empty prompt if nothing fits.

    See tokenize_preferences for the rule. Each result is a contiguous part of the original.
    """
    if len(prompt) >= max_length:
        overflow = len(prompt) + max(map(len, completions)) - max_length
        prompt = prompt[overflow:]
    room = max_length - len(prompt)
    return prompt, *(completion[:room] for completion in completions)


def data_hash(items: Iterable[Pair | TokenExample | tuple[int, ...]]) -> str:
    """SHA-256 over the token ids, their order and their boundaries; the same everywhere."""
    digest = hashlib.sha256()
    for item in items:
        parts = (item,) if isinstance(item, tuple) else tuple(vars(item).values())
        digest.update(struct.pack("<q", len(parts)))
        for part in parts:
            ids = part if isinstance(part, tuple) else (part,)  # a label is one number
            digest.update(struct.pack(f"<{len(ids) + 1}q", len(ids), *ids))
    return digest.hexdigest()


def _note_cuts(result: Pair | TokenExample, ids: list[tuple], place: str, report: Report) -> None:
    for (name, kept), full in zip(vars(result).items(), ids, strict=True):
        if len(kept) < len(full):
            side = "left" if name == "prompt" else "right"
            report.shorten(f"{name} cut from the {side}", place)


def _unless_empty(items: list, rows: Sequence, report: Report) -> list:
    if rows and not items:
        file = rows[0].place.rpartition(":")[0]
        raise DataError(f"{file}: has no row that can be used: {'; '.join(report.lines())}")
    return items


def _check(tokenizer, max_length: int) -> None:
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {tokenizer.name_or_path!r} has no EOS token")
    if not (isinstance(max_length, int) and max_length >= 2):
        raise ValueError(f"max_length must be an integer of at least 2, got {max_length}")


def _tokenize(rows: Sequence, names: Sequence[str], tokenizer, max_length: int) -> list[list]:
    """A list of token ids for each named field, the prompt first."""
    _check(tokenizer, max_length)
    places = [row.place for row in rows]
    first, *others = ([getattr(row, name) for row in rows] for name in names)
    prompts = _prompt_ids(first, tokenizer, places)
    return [prompts] + [_completion_ids(texts, tokenizer, places) for texts in others]


def _prompt_ids(texts: Sequence[str], tokenizer, places: Sequence[str]) -> list[tuple]:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = (eos if bos is None else bos,)
    own = start if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else ()
    found = [
        (ids if isinstance(text, Rendered) else own + ids) or start
        for text, ids in zip(texts, _encode(texts, tokenizer, places), strict=True)
    ]
    for ids, place in zip(found, places, strict=True):
        # Llama 2 begins every question with one; two side by side are a mistake.
        if bos not in (None, eos) and (bos, bos) in pairwise(ids):
            raise DataError(f"{place}: the chat template writes {tokenizer.bos_token} twice")
    return found


def _completion_ids(texts: Sequence[str], tokenizer, places: Sequence[str]) -> list[tuple]:
    eos, found = tokenizer.eos_token_id, []
    for ids, place in zip(_encode(texts, tokenizer, places), places, strict=True):
        end = ids.index(eos) if eos in ids else len(ids)
        after = ids[end + 1 :]  # a template may end in EOS and a newline, which nobody generates
        if after and tokenizer.decode(after).strip():
            raise DataError(f"{place}: the chat template writes text after {tokenizer.eos_token}")
        found.append((*ids[:end], eos))
    return found


def _encode(texts: Sequence[str], tokenizer, places: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids with nothing added. Only in Rendered text are special tokens more than text."""
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    shared: dict[int, int] = {}  # one int object for each id: a quarter of the memory
    found: list[tuple[int, ...]] = [()] * len(texts)
    for rendered in (False, True):
        where = [i for i, text in enumerate(texts) if isinstance(text, Rendered) is rendered]
        for start in range(0, len(where), 1024):
            some = where[start : start + 1024]
            batch = tokenizer(
                [texts[i] for i in some],
                add_special_tokens=False,
                split_special_tokens=not rendered,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                verbose=False,
            )
            for i, ids in zip(some, batch["input_ids"], strict=True):
                if not rendered and not ends.isdisjoint(ids):
                    raise DataError(f"{places[i]}: has text that the tokenizer reads as BOS or EOS")
                found[i] = tuple(map(shared.setdefault, ids, ids))
    return found
