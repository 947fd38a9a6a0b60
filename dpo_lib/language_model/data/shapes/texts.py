"""From a row, in any shape in use, to prompt and answer as text.

- Texts: {"prompt", "chosen", "rejected"} or {"prompt", "completion"}, trained on as they are.
- Whole transcripts without a prompt, "\\n\\nHuman: ...\\n\\nAssistant: ...": everything up to and
  including the LAST assistant tag is the prompt.
- Conversations, lists of messages: the last assistant message is the answer, everything before it
  the prompt. A list that starts with an assistant message continues the row's prompt; any other
  list is a whole conversation.
- Questions, texts whose prompt is called "question" or "instruction" (with its "input" below it),
  or has a column "system" beside it, empty or not: they are conversations of one question.
- A label beside a completion (KTO): a demonstration if it is true, dropped if it is false, unless
  bad answers are asked for too.
- A list of answers is read by none of the three: `rankings` makes pairs of it.

A system message beside a conversation begins it; beside a transcript it is written first, untagged.
How conversations become text is said in `messages`, what becomes of other fields in `columns`. In
every shape, prompt + answer is the whole text, character for character.
"""

import re
from collections.abc import Sequence

from dpo_lib.language_model.data.rows import Malformed, kind
from dpo_lib.language_model.data.shapes.columns import (
    INSTRUCTIONS,
    Fields,
    Useless,
    fields,
    text,
)
from dpo_lib.language_model.data.shapes.messages import read_messages
from dpo_lib.language_model.data.shapes.rankings import CHOICES, is_ranking
from dpo_lib.language_model.data.shapes.templates import (
    ASSISTANT,
    EMPTY_ANSWER,
    USER,
    render,
    render_prompt,
)

_WRITTEN_LIST = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
DIFFERENT_HISTORIES = "the histories of chosen and rejected differ"
NO_ANSWER = "a transcript does not end with an answer"
FALSE_LABEL = "label is false, and a bad answer is not learned"
NOT_LEARNED = {"rejected": "since only the better answer is learned"}
ONLY_PROMPTS = "since only prompts are read"


def preference(row: dict | Fields, tokenizer=None) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of a preference row.

    Raises:
        Malformed: it is none, or a field that changes its meaning would be ignored.
        Useless: an answer is empty, or its sides answer different histories.
    """
    row = fields(row)
    _refuse_other_verdicts(row)
    _refuse_written_lists(row, ("chosen", "rejected"))
    chosen, rejected = row.need("chosen"), row.need("rejected")
    if type(chosen) is not type(rejected):
        raise Malformed(f"chosen is {kind(chosen)}, but rejected is {kind(rejected)}")
    prompt, answer = _side(row, "chosen", tokenizer)
    other_prompt, other_answer = _side(row, "rejected", tokenizer)
    row.settle()
    if prompt != other_prompt:
        raise Useless(DIFFERENT_HISTORIES)
    _refuse_blank(answer, other_answer)
    return prompt, answer, other_answer


def example(row: dict | Fields, tokenizer=None, bad_too: bool = False) -> tuple[str, str]:
    """(prompt, completion) of a row for supervised fine-tuning.

    The first of these that the row has: "completion", "messages" (the last answer), "chosen",
    "text" (the prompt is empty: every token is learned).

    Raises:
        Malformed: it has none, or a field that changes its meaning would be ignored.
        Useless: the answer is empty, or its label is false and not asked for.
    """
    row = fields(row)
    _refuse_written_lists(row, row.names("completion"))
    found = _demonstration(row, tokenizer)
    classed = "text" in row.used and str(row.row.get("label")).lower() not in ("true", "false")
    if not (bad_too or {"chosen"} & row.used or classed) and not row.verdict():
        raise Useless(FALSE_LABEL)
    row.settle(NOT_LEARNED | ({"label": "since text is learned whole"} if classed else {}))
    _refuse_blank(found[1])
    return found


def prompt_only(row: dict | Fields, tokenizer=None) -> str:
    """The prompt of a row of any shape that has one.

    Raises:
        Malformed: it has none, or a field that changes its meaning would be ignored.
        Useless: it is a transcript or a conversation that does not end with an answer.
    """
    row = fields(row)
    _refuse_written_lists(row)
    if any(row.names(name) for name in ("completion", "messages", "chosen")):
        found = _demonstration(row, tokenizer)[0]
        if row.names("prompt"):  # then an answer that is text says nothing of it
            answers = (*row.names("completion"), "chosen")
            row.used.difference_update(n for n in answers if isinstance(row.row.get(n), str))
    else:
        prompt = row.need("prompt")
        if not isinstance(prompt, list) and not _is_question(row, text(prompt, "prompt")):
            found = _below_system(row, prompt)
        else:
            history = _with_system(_as_messages(prompt, row), row)
            found = render_prompt(history, tokenizer, row)
    row.settle({n: ONLY_PROMPTS for n in row.row if n.lower() not in INSTRUCTIONS})
    return found


def split_transcript(transcript: str) -> tuple[str, str]:
    """(prompt, answer) at the last assistant tag; text without any tag is all answer."""
    cut = transcript.rfind(ASSISTANT)
    cut = cut + len(ASSISTANT) if cut >= 0 else 0
    prompt, answer = transcript[:cut], transcript[cut:]
    if USER in answer:
        raise Useless(NO_ANSWER)
    if not answer.strip():
        raise Useless(EMPTY_ANSWER)
    return prompt, answer


def _demonstration(row: Fields, tokenizer) -> tuple[str, str]:
    """(prompt, answer), whatever is said of the answer."""
    if row.names("completion"):
        row.need("prompt")
        return _side(row, "completion", tokenizer)
    if row.names("messages"):
        return render(_with_system(_conversation(row, "messages"), row), tokenizer, row)
    if row.has("chosen"):
        return _side(row, "chosen", tokenizer)
    if row.has("text") and not row.has("prompt"):
        answer = text(row.take("text"), "text")
        row.held_by(answer)
        return "", answer
    if is_ranking(row.row):
        raise Malformed(
            "a list of answers is no demonstration; write the one to learn as completion"
        )
    raise Malformed("needs text, prompt and completion, messages with an answer, or chosen")


def _side(row: Fields, name: str, tokenizer) -> tuple[str, str]:
    """(prompt, answer) of one side of a row."""
    side, prompt = row.take(name), row.take("prompt")
    if isinstance(side, list | dict) or isinstance(prompt, list):
        return render(_with_system(_conversation(row, name), row), tokenizer, row)
    answer = text(side, name)
    if prompt is None:
        before, answer = split_transcript(answer)
        if row.system().strip() and not before:
            raise Malformed(f"has a system message, but no prompt before {name}")
        return _below_system(row, before), answer
    if _is_question(row, text(prompt, "prompt")):
        talk = [*_as_messages(prompt, row), {"role": "assistant", "content": answer}]
        return render(_with_system(talk, row), tokenizer, row)
    return _below_system(row, prompt), answer


def _below_system(row: Fields, transcript: str) -> str:
    system = row.system()
    return system + "\n\n" * (bool(system) and not transcript.startswith("\n")) + transcript


def _is_question(row: Fields, prompt: str) -> bool:
    return row.asks() and ASSISTANT not in prompt


def _as_messages(prompt: object, row: Fields) -> list[dict]:
    """A prompt as a conversation so far; text is a user's question."""
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return read_messages(asked, "prompt", row)


def _with_system(messages: list[dict], row: Fields) -> list[dict]:
    """The messages, after the system message that stands beside them."""
    first = {"role": "system", "content": row.system()}
    if not first["content"].strip() or messages[0] == first:
        return messages
    if messages[0]["role"] == "system":
        raise Malformed("system and the system message of the list differ; leave one of them out")
    return [first, *messages]


def _conversation(row: Fields, name: str) -> list[dict]:
    """Every message of one side, the row's prompt included once."""
    side, prompt = row.take(name), row.take("prompt")
    if isinstance(side, str):
        side = [{"role": "assistant", "content": text(side, name)}]
    elif isinstance(side, dict):  # LLaMA-Factory writes the one message
        side = [side]
    side = read_messages(side, name, row)
    if prompt is None:
        return side
    before = _as_messages(prompt, row)
    if side[0]["role"] == "assistant":
        return before + side
    repeated = side[: len(before)] == before
    if isinstance(prompt, str):
        repeated = prompt.strip() in [m["content"].strip() for m in side if m["role"] == "user"]
    if not repeated:
        raise Malformed(f"{name} is a whole conversation, but not one with this prompt")
    return side


def _refuse_blank(*answers: str) -> None:
    if not all(map(str.strip, answers)):
        raise Useless(EMPTY_ANSWER)


def _refuse_written_lists(row: Fields, answers: Sequence[str] = ()) -> None:
    """Malformed if the prompt or all answers are messages as text, which CSV makes of them."""
    for names in filter(None, (answers, row.names("prompt"))):
        values = [row.row.get(name) for name in names]
        if all(isinstance(value, str) and _WRITTEN_LIST.match(value) for value in values):
            raise Malformed(
                f"{names[0]} is a list of messages written as text; write the list itself, in "
                "JSON Lines or parquet"
            )


def _refuse_other_verdicts(row: Fields) -> None:
    """Malformed for what says how good answers are, but not by chosen and rejected."""
    if is_ranking(row.row):
        raise Malformed(
            f"a list of answers is no pair; --pairs-from makes pairs of it ({', '.join(CHOICES)})"
        )
    if row.has("chosen") or row.has("rejected"):
        return
    if row.has("label") and row.names("completion"):
        raise Malformed(
            "completion and label are no pair; dpo kto learns from them; for the rest write chosen "
            "and rejected, two answers to one prompt"
        )
    raise Malformed(
        "has no field 'chosen'; a pair is prompt, chosen and rejected, or a list of responses with "
        "scores and --pairs-from"
    )
