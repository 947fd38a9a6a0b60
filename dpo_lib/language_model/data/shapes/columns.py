"""The fields of a row and of its messages: what people call them, and which a reading has used.

The rule: a field that holds something is used, or its row is refused, or it is reported as
ignored. A reading takes fields by the names of `texts` and settles the row at its end. What it
has not taken by then is ignored, unless its name says that it is an instruction or a verdict:
without that the row would be trained on as something it is not.
"""

from dpo_lib.language_model.data.rows import Malformed, kind

# Other names of a field. An answer goes by another name only where no field has one of ours.
ALIASES = {
    "prompt": ("question", "instruction"),
    "system": ("system_prompt",),
    "completion": ("output",),
    "messages": ("conversations",),
}
TALKS = ("messages", *ALIASES["messages"])
ANSWERS = ("completion", "messages", "chosen", "text")
_HOW_TO_USE = "write it into the prompt, or leave it out"
_ONLY_TEXT = "leave rows with it out, since only text is trained on"
INSTRUCTIONS = {
    "prompt": "leave it out if the text holds it",
    "question": _HOW_TO_USE,
    "instruction": _HOW_TO_USE,
    "input": _HOW_TO_USE,
    "context": _HOW_TO_USE,
    "documents": _HOW_TO_USE,
    "history": "write prompt as a list of messages, the history first",
    "system": "begin the list of messages with it",
    "system_prompt": "begin the list of messages with it",
    "tools": "write the row as a list of messages",
    "functions": "call it tools",
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _ONLY_TEXT),
}
_HOW_TO_OBEY = "order chosen and rejected by it, then leave it out"
VERDICTS = dict.fromkeys(
    ("label", "winner", "preference", "better_response_id", "chosen_index"), _HOW_TO_OBEY
)
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class Useless(Exception):
    """The reason why a row that can be read is of no use for training."""


class Fields:
    """A row, which of its fields have been used, and what a report must say of it."""

    def __init__(self, row: dict):
        self.row = row
        self.used: set[str] = set()
        self.notes: list[str] = []
        self.ignored: list[str] = []
        self._taken: dict[str, object] = {}

    def has(self, name: str) -> bool:
        """Whether the row has the field; null, which hub tables use for "nothing", is none."""
        return self.row.get(name) is not None

    def names(self, name: str) -> list[str]:
        """The fields that hold `name`, by our name or by another.

        Messages that wait for an answer are no conversation, but a prompt if there is no other.
        """
        found = [name] if self.has(name) else []
        if name not in ANSWERS or not any(map(self.has, ANSWERS)):
            found += [other for other in ALIASES.get(name, ()) if self.has(other)]
        if name == "messages":
            return [own for own in found if not waits(self.row[own])]
        if name == "prompt" and not found:
            return [own for own in TALKS if waits(self.row.get(own))]
        return found

    def take(self, name: str) -> object:
        """The value of a field, used from now on; None if the row has none.

        Raises:
            Malformed: two names of one field hold different values.
        """
        if name in self._taken:
            return self._taken[name]
        names = self.names(name)
        values = [self._joined(own) for own in names]
        for other, value in zip(names, values, strict=True):
            if value != values[0]:
                raise Malformed(f"{names[0]} and {other} differ; leave one of them out")
        self.used.update(names)
        self._taken[name] = values[0] if values else None
        return self._taken[name]

    def need(self, name: str) -> object:
        """The value of a field that must be there; Malformed if it is not."""
        value = self.take(name)
        if value is None:
            raise Malformed(f"has no field {name!r}")
        return value

    def system(self) -> str:
        """The system message that stands beside the prompt, "" if none does."""
        value = self.take("system")
        return "" if value is None else text(value, "system")

    def asks(self) -> bool:
        """Whether a prompt that is text is a question by its name, or by a `system` beside it."""
        names = self.names("prompt")
        beside = {"system", *ALIASES["system"]} & self.row.keys()
        return bool(names) and (names[0] != "prompt" or bool(beside))

    def verdict(self) -> bool:
        """KTO's label: whether the answer is a good one; true where there is none.

        Raises:
            Malformed: the label is no truth value.
        """
        value = self.take("label")
        truth = True if value is None else TRUTHS.get(str(value).strip().lower())
        if truth is None:
            raise Malformed(f"label must be true or false, got {str(value)[:40]!r}")
        return truth

    def held_by(self, whole: str) -> None:
        """Count as used the instructions that stand word for word in a text."""
        held = {name: self.row.get(name) for name in INSTRUCTIONS}
        self.used.update(
            n for n, value in held.items() if isinstance(value, str) and value in whole
        )

    def ignore(self, part: str, rest: dict) -> None:
        """Report what a part of the row holds and nobody uses."""
        names = (printable(name) for name, value in rest.items() if holds(value))
        self.ignored += [f"the field {name} of {part}" for name in names]

    def settle(self, harmless: dict[str, str] | None = None) -> None:
        """Say what becomes of the fields that nobody has used.

        Args:
            harmless: names that may be ignored whatever they mean, with the reason.

        Raises:
            Malformed: an instruction or a verdict would be ignored.
        """
        harmless = harmless or {}
        for name, value in self.row.items():
            if name in self.used or not holds(value):
                continue
            if name in harmless:
                self.ignored.append(f"the field {printable(name)}, {harmless[name]}")
                continue
            for what, known in (("an instruction", INSTRUCTIONS), ("a verdict", VERDICTS)):
                if remedy := known.get(name.lower()):
                    raise Malformed(f"{name} is {what} that would not be used; {remedy}")
            self.ignored.append(f"the field {printable(name)}")

    def _joined(self, name: str) -> object:
        """A field's value; Alpaca's instruction goes on in its input."""
        value, more = self.row[name], self.row.get("input")
        if name != "instruction" or not holds(more):
            return value
        self.used.add("input")
        return f"{text(value, name)}\n\n{text(more, 'input')}"


def fields(row: "dict | Fields") -> Fields:
    """The row with its record of use, a new one for a plain object."""
    return row if isinstance(row, Fields) else Fields(row)


def holds(value: object) -> bool:
    """Whether a value says anything: false and 0 do, null, "", blanks, [] and {} do not."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value != [] and value != {}


def waits(talk: object) -> bool:
    """Whether a value is a list of messages that ends before an answer."""
    last = talk[-1] if isinstance(talk, list) and talk else None
    by = (last.get("role") or last.get("from")) if isinstance(last, dict) else None
    return by in ("user", "human", "tool")


def printable(name: str) -> str:
    """A name that a file brings, fit for one line of a report."""
    return name if name.isprintable() and len(name) <= 40 else ascii(name[:40])


def text(value: object, name: str) -> str:
    """The value if it is text that UTF-8 can hold; Malformed says what else it is."""
    if not isinstance(value, str):
        raise Malformed(f"{name} must be text, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} has half a surrogate pair, {value[error.start]!r}") from None
    return value
