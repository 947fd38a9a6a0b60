"""Conversations, rendered as text.

Roles are system (first only), user and assistant, and with a chat template tool, after a message
that calls one. Tool calls and reasoning beside the content are the template's to render; where it
does not, the row is refused.

A conversation is rendered by the tokenizer's chat template. Without one it is written as a
transcript, a system message first and untagged. Prompt + answer is the whole text, character for
character, and the text of every message is in it: where a template strips spaces or reasoning,
a note says so; where it leaves out more, the row is refused.
"""

import json
from functools import partial

from dpo_lib.language_model.data.rows import Malformed
from dpo_lib.language_model.data.shapes.columns import (
    REASONING,
    REFERS,
    SAID,
    Fields,
    Useless,
    holds,
)

USER, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
EMPTY_ANSWER = "an answer is empty"
EARLIER_REASONING = "the chat template strips the reasoning of an earlier answer"


class Rendered(str):
    """Text from a chat template: here, and only here, special tokens are tokens, not text."""


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
    _check_turns(history)
    if getattr(tokenizer, "chat_template", None):
        return Rendered(_apply_template(history, tokenizer, row, add_generation_prompt=True))
    _refuse_without_template(history, 1)
    if holds(row.take("tools")):
        raise Malformed(
            "has tools, which a chat template renders, and the tokenizer has none; name them in "
            "a message, or take a model with a chat template"
        )
    tags = {"system": "", "user": f"{USER} ", "assistant": f"{ASSISTANT} "}
    return "".join(tags[m["role"]] + m["content"] for m in history) + ASSISTANT


def _check_turns(history: list[dict]) -> None:
    """Malformed unless user and assistant take turns, the user first, tools after their call."""
    start = 1 if history and history[0]["role"] == "system" else 0
    expected: tuple[str, ...] = ("user",)
    for number, turn in enumerate(history[start:], start=start + 1):
        role = turn["role"]
        if role not in expected:
            names = " or ".join(expected)
            raise Malformed(f"message {number} must be from the {names}, got role {role!r}")
        after = ("tool",) if "tool_calls" in turn else ("user",)
        expected = {"user": ("assistant",), "tool": ("assistant", "tool")}.get(role, after)
    if "assistant" not in expected:
        raise Malformed("an answer must follow a user message, but none comes just before it")


def _refuse_without_template(messages: list[dict], first: int) -> None:
    for number, message in enumerate(messages, start=first):
        if said := [key for key in SAID if key in message]:
            raise Malformed(
                f"message {number} has {said[0]}, which a chat template renders, and the tokenizer "
                "has none; write it into the content, or take a model with a chat template"
            )


def _apply_template(messages: list[dict], tokenizer, row: Fields, **options) -> str:
    for number, message in enumerate(messages, start=1):
        everything = json.dumps(message, ensure_ascii=False) if len(message) > 2 else ""
        for token in tokenizer.all_special_tokens:
            if token in message["content"] or token in everything:  # it would end or fake a turn
                raise Malformed(f"message {number} contains the special token {token!r}")

    rendered = partial(tokenizer.apply_chat_template, tokenize=False, **options)
    tools = {"tools": row.take("tools")} if holds(row.row.get("tools")) else {}
    try:
        whole = rendered(messages, **tools)
    except Exception as error:  # a template is a program and raises what it likes
        reason = (str(error).splitlines() or [""])[0][:120]
        if messages[0]["role"] == "system" and _tried(rendered, messages[1:], **tools):
            raise Malformed(
                f"the chat template takes no system message: {reason}; put its text into the "
                "first user message"
            ) from None
        raise Malformed(f"the chat template refuses the conversation: {reason}") from None
    if tools and _tried(rendered, messages) == whole:
        raise Malformed("the chat template does not render tools; describe them in a message")
    for number, message in enumerate(messages):
        for key in [key for key in (*SAID, *REFERS) if key in message]:
            less = {other: value for other, value in message.items() if other != key}
            if (
                _tried(rendered, [*messages[:number], less, *messages[number + 1 :]], **tools)
                != whole
            ):
                continue
            if key in REFERS:
                row.ignored.append(f"the field {key} of a message, which the template leaves out")
            elif key in REASONING and number < len(messages) - 1:
                row.notes.append(EARLIER_REASONING)
            else:
                raise Malformed(
                    f"the chat template does not render {key} of message {number + 1}; write it "
                    "into the content, or take a model whose template does"
                )
    return whole


def _thought(reasoning: str) -> str:
    return reasoning.replace("<think>", "").replace("</think>", "").strip()


def _tried(render, messages: list[dict], **options) -> str | None:
    """What a template makes of it, None if it raises."""
    try:
        return render(messages, **options)
    except Exception:  # as above
        return None


def _find_contents(messages: list[dict], whole: str, row: Fields, start: int = 0) -> int:
    """Where the content of the last message is, which ends after the start of the answer."""
    found = end = 0
    for number, message in enumerate(messages, start=1):
        content, last = message["content"], number == len(messages)
        spoken = content.rpartition("</think>")[2].strip()  # without its reasoning
        for kept in (content, content.strip(), spoken):
            found = whole.find(kept, max(end, last * (start - len(kept) + bool(kept))))
            if found >= 0:
                break
        else:
            raise Malformed(
                f"the chat template leaves out text of message {number}; put it elsewhere, or take "
                "a model whose template renders it"
            )
        if kept != content and kept == content.strip():
            row.notes.append("the chat template strips blanks around a message")
        elif kept != content:
            before = whole[max(end, start) : found]
            if last and _thought(before) != _thought(content.rpartition("</think>")[0]):
                if not spoken:
                    raise Useless(EMPTY_ANSWER)
                row.notes.append("the chat template strips the reasoning of an answer")
            elif last:
                row.notes.append("the chat template changes the blanks around reasoning")
                found = start  # what it writes before the answer is the row's
            else:
                row.notes.append(EARLIER_REASONING)
        if message["role"] != "system":  # some templates write it into the last question
            end = found + len(kept)
    return found
