"""Conversations: lists of messages, read and checked.

A message is {"role", "content"}, or ShareGPT's {"from", "value"}; content is text, or a list of
text parts, which are joined as they are. Roles are system (first only), user and assistant, and
tool, after a message that calls one.
"""

from dpo_lib.language_model.data.rows import Malformed, kind
from dpo_lib.language_model.data.shapes.columns import Fields, Useless, holds, text

ROLES = ("system", "user", "assistant")
SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}
# Beside the content of a message: what is part of what it says, and what only refers.
SAID = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
REASONING = SAID[2:]
REFERS = ("name", "tool_call_id")


def read_messages(messages: object, name: str, row: Fields) -> list[dict]:
    """The messages with role, content and what else they say.

    Raises:
        Malformed: it is no list of messages; which message is wrong, and how.
        Useless: its last message is an answer of weight 0, not to be learned.
    """
    if not (isinstance(messages, list) and messages):
        found = "an empty list" if messages == [] else kind(messages)
        raise Malformed(f"{name} must be text or a list of messages, got {found}")
    found = [_message(m, f"{name} message {n}", row) for n, m in enumerate(messages, start=1)]
    if found[-1]["role"] == "assistant" and messages[-1].get("weight") in (0, False):
        raise Useless("an answer has weight 0")
    return found


def check_turns(history: list[dict]) -> None:
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


def _message(message: object, where: str, row: Fields) -> dict:
    if not isinstance(message, dict):
        raise Malformed(f"{where} must be an object, got {kind(message)}")
    said = {key: value for key, value in message.items() if key in SAID and holds(value)}
    by, content, roles = "role", "content", dict.fromkeys(ROLES) | {"tool": None}
    if message.get(by) is None and message.get("from") is not None:
        by, content, roles = "from", "value", SHAREGPT
    for key in (by, content):
        if message.get(key) is None and not (key == "content" and said):
            raise Malformed(f"{where} has no {key}")
    role = text(message[by], f"{by} of {where}")
    if role not in roles:
        listed = ", ".join(ROLES if by == "role" else SHAREGPT)
        raise Malformed(f"{where} must be from {listed}, got {by} {role[:40]!r}")
    role = roles[role] or role
    found = {"role": role, "content": _content(message.get(content), where, row), **said}
    for key, value in message.items():
        if key in REFERS and role == "tool" and holds(value):
            found[key] = value
        elif key not in (by, content, *SAID):
            row.ignore("a message", {key: value})
    return found


def _content(content: object, where: str, row: Fields) -> str:
    if content is None:  # beside a tool call
        return ""
    if not isinstance(content, list):
        return text(content, where)
    joined = ""
    for part in content:
        kind_of_part = part.get("type") if isinstance(part, dict) else kind(part)
        if kind_of_part != "text":
            named = f"type {str(kind_of_part)[:40]!r}" if kind_of_part else "no type"
            raise Malformed(f"{where} must be text, got a list with a part of {named}")
        row.ignore("a text part", {k: v for k, v in part.items() if k not in ("type", "text")})
        joined += text(part.get("text"), f"a text part of {where}")
    return joined
