"""From a data file to prompts and answers as text: every row used, or reported with its place.

Reading stops with a DataError, "file:line: reason", at a row that is malformed. A row that can
be read but not used is dropped and counted: a Report always has rows == used + dropped. Rows may
have any shape in `shapes`. A field of a used row that was not used is counted as ignored, by name.
Only where it is asked for does a row give several pairs; its place is that of each of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dpo_lib.language_model.data.rows import DataError, Malformed, read_rows
from dpo_lib.language_model.data.shapes import rankings, texts
from dpo_lib.language_model.data.shapes.columns import Fields, Useless
from dpo_lib.language_model.data.shapes.templates import ASSISTANT, Rendered


@dataclass(frozen=True)
class Preference:
    """A labelled pair as text."""

    prompt: str
    chosen: str
    rejected: str
    place: str  # "file:line"


@dataclass(frozen=True)
class Example:
    """A demonstration as text."""

    prompt: str
    completion: str
    place: str  # "file:line"


@dataclass
class Report:
    """What became of the rows of a file: rows == used + the number of places in dropped."""

    rows: int = 0
    used: int = 0
    pairs: dict[str, int] = field(
        default_factory=dict
    )  # place of a used row -> its pairs, if several
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> places
    pairs_dropped: dict[str, list[str]] = field(default_factory=dict)  # of rankings
    shortened: dict[str, list[str]] = field(default_factory=dict)  # of used rows
    noted: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)  # what of used rows -> places
    parts: str = "pairs"  # what a row can give several of; KTO's are answers

    def drop(self, reason: str, place: str) -> None:
        """Count a used row as dropped; of a ranking with other pairs, the pair alone."""
        if self.pairs.get(place, 1) > 1:
            self.pairs[place] -= 1
            self.pairs_dropped.setdefault(reason, []).append(place)
        else:
            self.pairs.pop(place, None)
            self.used -= 1
            self.dropped.setdefault(reason, []).append(place)

    def shorten(self, reason: str, place: str) -> None:
        _say(self.shortened, reason, place)

    def note(self, reason: str, place: str) -> None:
        _say(self.noted, reason, place)

    def ignore(self, what: str, place: str) -> None:
        _say(self.ignored, what, place)

    def lines(self) -> list[str]:
        """What a person reads: the totals, then a line for each reason with its first places."""
        pairs = self.used - len(self.pairs) + sum(self.pairs.values())
        giving = f", giving {pairs:,} {self.parts}" if self.pairs else ""
        found = [f"{self.rows:,} rows, {self.used:,} used{giving}"]
        for what in ("dropped", "pairs dropped", "shortened", "noted", "ignored"):
            for reason, places in getattr(self, what.replace(" ", "_")).items():
                more = f" and {len(places) - 3:,} more" if len(places) > 3 else ""
                said = what.replace("pairs", self.parts)
                found.append(f"{said} {len(places):,}: {reason} ({', '.join(places[:3])}{more})")
        return found


def _say(reasons: dict[str, list[str]], reason: str, place: str) -> None:
    """Once for a row, whose pairs follow one another."""
    places = reasons.setdefault(reason, [])
    if places[-1:] != [place]:
        places.append(place)


def read_preferences(
    path: str | Path, tokenizer=None, pairs_from: str | None = None
) -> tuple[list[Preference], Report]:
    """Preference rows of a file, a folder's preferences.jsonl[.gz], or "hub:NAME[:SPLIT]".

    Args:
        path: where the rows are.
        tokenizer: renders conversations if it has a chat template.
        pairs_from: which pairs are made of a list of answers, as `rankings.choose` says; without
            it such a row is refused.

    Raises:
        DataError: "file:line: reason" at the first malformed row, or if no row can be used, or if
            every prompt is empty.
    """

    def convert(row: Fields, place: str) -> Preference:
        found = Preference(*texts.preference(row, tokenizer), place)
        if found.chosen == found.rejected:
            raise Useless("chosen and rejected are identical")
        return found

    def split(row: Fields) -> list[Fields]:
        if pairs_from is None or not rankings.is_ranking(row.row):
            return [row]
        return rankings.pairs(row, pairs_from)

    preferences, report = read_each(path, "preferences", convert, split)
    seen = set()
    check_prompts(path, [(p.prompt, p.place) for p in preferences], report)
    for p in preferences:
        if p.prompt and p.chosen.startswith(p.prompt) and p.rejected.startswith(p.prompt):
            report.note("both answers repeat the prompt", p.place)
        if (p.prompt, p.chosen, p.rejected) in seen:
            report.note("repeats an earlier row", p.place)
        if (p.prompt, p.rejected, p.chosen) in seen:
            report.note("contradicts an earlier row", p.place)
        seen.add((p.prompt, p.chosen, p.rejected))
    return preferences, report


def read_examples(path: str | Path, tokenizer=None) -> tuple[list[Example], Report]:
    """Demonstrations of a file, a folder's sft.jsonl[.gz], or "hub:NAME[:SPLIT]".

    Of a preference row this is the chosen side, for Preferred-FT. Arguments and errors are
    those of read_preferences.
    """
    prompts = []

    def convert(row: Fields, place: str) -> Example:
        found = Example(*texts.example(row, tokenizer), place)
        if "text" not in row.used:  # which has no prompt, and that is as it should be
            prompts.append((found.prompt, place))
        return found

    examples, report = read_each(path, "sft", convert)
    check_prompts(path, prompts, report)
    seen = set()
    for e in examples:
        if (e.prompt, e.completion) in seen:
            report.note("repeats an earlier row", e.place)
        seen.add((e.prompt, e.completion))
    return examples, report


def read_prompts(path: str | Path, tokenizer=None) -> tuple[list[str], Report]:
    """Prompts of a file, a folder's prompts.jsonl[.gz], or "hub:NAME[:SPLIT]"; see above."""
    found, report = read_each(
        path, "prompts", lambda row, place: (texts.prompt_only(row, tokenizer), place)
    )
    check_prompts(path, found, report)
    return [prompt for prompt, _ in found], report


def held_out(path: str, *names: str) -> Path | str:
    """The first test_NAME.jsonl[.gz] that a folder has, if it has one; else the path itself."""
    found = (file for name in names for file in sorted(Path(path).glob(f"test_{name}.jsonl*")))
    return next(found, path)


def read_each(
    path: str | Path, name: str, convert: Callable, split: Callable = lambda row: [row]
) -> tuple[list, Report]:
    """Convert every row; drop the useless, stop at the malformed or if nothing is left."""
    found, report = [], Report()
    for place, row in read_rows(path, name):
        report.rows += 1
        report.used += 1
        parts = []
        with _judged(report, place):
            parts = split(Fields(row))
        if len(parts) > 1:
            report.pairs[place] = len(parts)
        for part in parts:
            with _judged(report, place):
                found.append(convert(part, place))
                for note in part.notes:
                    report.note(note, place)
                for what in part.ignored:
                    report.ignore(what, place)
    if not report.rows:
        raise DataError(f"{path}: has no rows")
    if not found:
        raise DataError(f"{path}: has no row that can be used: {'; '.join(report.lines())}")
    return found, report


@contextmanager
def _judged(report: Report, place: str) -> Iterator[None]:
    try:
        yield
    except Malformed as reason:
        raise DataError(f"{place}: {reason}") from None
    except Useless as reason:
        report.drop(str(reason), place)


def check_prompts(path: str | Path, prompts: list[tuple[str, str]], report: Report) -> None:
    """Note what is odd about prompts and their places; DataError if they are all empty."""
    mixed = any(_is_talk(prompt) for prompt, _ in prompts)
    for prompt, place in prompts:
        if not prompt:
            report.note("the prompt is empty", place)
        if prompt.endswith(" "):  # GPT-2 writes a space at the start of a word, never at an end
            report.note("the prompt ends in a space, which belongs to the answer", place)
        if prompt and mixed and not _is_talk(prompt):
            report.note("the prompt is no conversation, unlike others of the file", place)
    if prompts and not any(prompt.strip() for prompt, _ in prompts):
        raise DataError(
            f"{path}: the prompt is empty in every row; call the field that holds it prompt"
        )


def _is_talk(prompt: str) -> bool:
    return isinstance(prompt, Rendered) or prompt.endswith(ASSISTANT)
