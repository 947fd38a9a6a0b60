"""Conversations as text: by the tokenizer's chat template, or without one as a transcript.

Tool calls and reasoning beside the content are the template's to render; where it does not, the
row is refused. A transcript begins with the system message, untagged. Prompt + answer is the whole
text, character for character, and the text of every message is in it: where a template strips
blanks or reasoning, a note says so; where it leaves out more, the row is refused.
"""

import json
from collections.abc import Callable
from functools import lru_cache, partial

from dpo_lib.language_model.data.rows import Malformed
from dpo_lib.language_model.data.shapes.columns import Fields, Useless, holds
from dpo_lib.language_model.data.shapes.messages import REASONING, REFERS, SAID, check_turns

USER, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
EMPTY_ANSWER = "an answer is empty"
EARLIER_REASONING = "the chat template strips the reasoning of an earlier answer"
_LEFT_OUT = (
    "the chat template leaves out text of message {}; put it elsewhere, or take a model whose "
    "template renders it"
)
SHORT = 20  # characters: fewer may stand in a template by chance


class Rendered(str):
    """Text from a chat template: here, and only here, special tokens are tokens, not text."""

    messages: list[dict] | None = None  # of a prompt: what was rendered


def render(messages: list[dict], tokenizer, row: Fields) -> tuple[str, str]:
    """(prompt, answer) of a conversation; together they are the rendered conversation.

    Raises:
        Malformed: it is no conversation, or the chat template does not render all of it.
        Useless: its answer is empty.
    """
    *history, answer = messages
    if answer["role"] != "assistant":
        raise Malformed(f"the last message must be the assistant's, got role {answer['role']!r}")
    prompt = _open(history, tokenizer, row)
    if not (answer["content"].strip() or any(map(answer.get, SAID))):
        raise Useless(EMPTY_ANSWER)
    if not isinstance(prompt, Rendered):
        _refuse_without_template([answer], len(history) + 1)
        return prompt, f" {answer['content']}"
    whole = _apply_template(messages, tokenizer, row)
    if not whole.startswith(prompt):
        same = next(n for n in range(len(prompt)) if not whole.startswith(prompt[: n + 1]))
        raise Malformed(
            "the chat template changes the prompt when the answer follows: where it ends the "
            f"prompt with {prompt[same:][-40:]!r}, the conversation has "
            f"{whole[same:][:40]!r}; take what it adds for generation out of the template"
        )
    start = _find_contents(messages, whole, row, len(prompt))
    if (added := whole[len(prompt) : start]).strip():
        row.notes.append(f"the chat template writes {added[:40]!r} before the answer")
    return prompt, Rendered(whole[len(prompt) :])


def render_prompt(history: list[dict], tokenizer, row: Fields) -> str:
    """A conversation that waits for the assistant, up to where the answer starts.

    Raises:
        Malformed: as render.
    """
    prompt = _open(history, tokenizer, row)
    if isinstance(prompt, Rendered):
        _find_contents(history, prompt, row)
    return prompt


def _open(history: list[dict], tokenizer, row: Fields) -> str:
    check_turns(history)
    if getattr(tokenizer, "chat_template", None):
        written = _own_system(tokenizer, str(tokenizer.chat_template)).strip()
        if written and history[0]["role"] != "system":
            row.notes.append(f"the chat template writes a system message, {written[:40]!r}")
        prompt = Rendered(_apply_template(history, tokenizer, row, add_generation_prompt=True))
        prompt.messages = history
        return prompt
    _refuse_without_template(history, 1)
    if holds(row.take("tools")):
        raise Malformed(
            "has tools, which a chat template renders, and the tokenizer has none; name them in "
            "a message, or take a model with a chat template"
        )
    tags = {"system": "", "user": f"{USER} ", "assistant": f"{ASSISTANT} "}
    return "".join(tags[m["role"]] + m["content"] for m in history) + ASSISTANT


def _refuse_without_template(messages: list[dict], first: int) -> None:
    for number, message in enumerate(messages, start=first):
        if said := [key for key in SAID if key in message]:
            raise Malformed(
                f"message {number} has {said[0]}, which a chat template renders, and the tokenizer "
                "has none; write it into the content, or take a model with a chat template"
            )


def _apply_template(messages: list[dict], tokenizer, row: Fields, **options) -> str:
    _refuse_special_tokens(messages, tokenizer)
    tools = row.take("tools")
    options |= {"tools": tools} if holds(tools) else {}
    template = partial(tokenizer.apply_chat_template, tokenize=False, **options)
    try:
        whole = template(messages)
    except Exception as error:  # a template is a program and raises what it likes
        reason = (str(error).splitlines() or [""])[0][:120]
        if messages[0]["role"] == "system" and _tried(template, messages[1:]):
            raise Malformed(
                f"the chat template takes no system message: {reason}; put its text into the "
                "first user message"
            ) from None
        raise Malformed(f"the chat template refuses the conversation: {reason}") from None
    if "tools" in options and _tried(partial(template, tools=None), messages) == whole:
        raise Malformed("the chat template does not render tools; describe them in a message")
    for number in range(len(messages)):
        _refuse_left_out(messages, number, whole, template, row)
    return whole


def _refuse_special_tokens(messages: list[dict], tokenizer) -> None:
    for number, message in enumerate(messages, start=1):
        beside = json.dumps(message, ensure_ascii=False) if len(message) > 2 else ""
        for token in tokenizer.all_special_tokens:
            if token in message["content"] or token in beside:  # it would end or fake a turn
                raise Malformed(f"message {number} contains the special token {token!r}")


def _refuse_left_out(
    messages: list[dict], at: int, whole: str, template: Callable, row: Fields
) -> None:
    """Malformed if a part of a message makes no difference, but is none that may be left out."""
    message = messages[at]
    short = 0 < len(_spoken(message["content"])) < SHORT
    for key in [key for key in (*SAID, *REFERS, *["content"] * short) if key in message]:
        less = {"content": ""} | {other: said for other, said in message.items() if other != key}
        if _tried(template, [*messages[:at], less, *messages[at + 1 :]]) != whole:
            continue
        if key == "content":
            raise Malformed(_LEFT_OUT.format(at + 1))
        if key in REFERS:
            row.ignored.append(f"the field {key} of a message, which the template leaves out")
        elif key in REASONING and at < len(messages) - 1:
            row.notes.append(EARLIER_REASONING)
        else:
            raise Malformed(
                f"the chat template does not render {key} of message {at + 1}; write it into the "
                "content, or take a model whose template does"
            )


def _tried(template: Callable, messages: list[dict]) -> str | None:
    """What a template makes of it, None if it raises."""
    try:
        return template(messages)
    except Exception:  # as above
        return None


@lru_cache(maxsize=4)
def _own_system(tokenizer, _template: str) -> str:
    """The system message of a template for conversations without one, "" if it writes none."""
    asked, mark = [{"role": "user", "content": "question"}], "system message"
    template = partial(tokenizer.apply_chat_template, tokenize=False)
    bare = _tried(template, asked) or ""
    before, marked, after = (
        _tried(template, [{"role": "system", "content": mark}, *asked]) or ""
    ).partition(mark)
    if not (marked and bare.startswith(before) and bare.endswith(after)):
        return ""
    return bare[len(before) : len(bare) - len(after)]


def _find_contents(messages: list[dict], whole: str, row: Fields, start: int = 0) -> int:
    """Where the content of the last message is, which ends after the start of the answer."""
    place = end = 0
    for number, message in enumerate(messages, start=1):
        content, last = message["content"], number == len(messages)
        place, kept = _find(content, whole, end, start if last else 0)
        if place < 0:
            raise Malformed(_LEFT_OUT.format(number))
        if kept == content.strip() != content:
            row.notes.append("the chat template strips blanks around a message")
        elif kept != content and not last:
            row.notes.append(EARLIER_REASONING)
        elif kept != content and _thought(whole[max(end, start) : place]) == _thought(content):
            row.notes.append("the chat template changes the blanks around reasoning")
            place = start  # what it writes before the answer is the row's
        elif kept != content:
            if not kept:
                raise Useless(EMPTY_ANSWER)
            row.notes.append("the chat template strips the reasoning of an answer")
        if message["role"] != "system":  # some templates write it into the last question
            end = place + len(kept)
    return place


def _find(content: str, whole: str, start: int, end: int) -> tuple[int, str]:
    """Where a message is, whole, without blanks or without its reasoning; -1 if it is not."""
    for kept in (content, content.strip(), _spoken(content)):
        place = whole.find(kept, max(start, end - len(kept) + bool(kept)))
        if place >= 0:
            return place, kept
    return -1, ""


def _spoken(content: str) -> str:
    return content.rpartition("</think>")[2].strip()


def _thought(content: str) -> str:
    before = content.rpartition("</think>")[0] if "</think>" in content else content
    return before.replace("<think>", "").strip()
