"""The names that data sets give to prompt and answer, and the fields that nobody reads.

Every field that carries text or a verdict is used, or reported in the reader's `Report`.
"""

from dpo_lib.language_model.data.rows import Malformed, kind

# A prompt under another name, and what stands before it.
PROMPTS = ("prompt", "question", "instruction")
ANSWERS = ("completion", "output")
MESSAGE = {"role", "content", "from", "value"}
CALLS = ("tool_calls", "function_call", "tool_call_id")
SPEAKERS = {"human": "user", "gpt": "assistant"}  # of from/value conversations
# What a demonstration is read from: the first of these that a row has, and what goes with it.
DEMONSTRATIONS = {
    "completion": {"completion", "prompt", "label"},
    "messages": {"messages", "label"},
    "chosen": {"chosen", "prompt"},
    "text": {"text", "label"},
}


def renamed(row: dict) -> dict:
    """The row with `prompt`, `completion` and `messages` under these names.

    Orca's `question`, Alpaca's `instruction`, `input` and `output`, ShareGPT's `conversations`.

    Raises:
        Malformed: if a row names two prompts or two answers.
    """
    given = {name: value for name, value in row.items() if value is not None}
    found = dict(given)
    for ours, names in (("prompt", PROMPTS), ("completion", ANSWERS)):
        held = [name for name in names if name in found]
        if len(held) > 1:
            raise Malformed(f"has {held[0]} and {held[1]}: keep only the one that is the {ours}")
        if held and held[0] != ours:
            found[ours] = found.pop(held[0])
    context = found.pop("input", None) if "instruction" in given else None
    if "conversations" in found and "messages" not in found:
        found["messages"] = found.pop("conversations")
    if context:
        if not isinstance(context, str) or not isinstance(found["prompt"], str):
            raise Malformed("instruction and input must both be text")
        found["prompt"] = f"{found['prompt']}\n\n{context}"
    return found


def unread(row: dict, reader: str) -> list[str]:
    """Fields of a renamed row that carry something and that this reader does not look at.

    Args:
        reader: "preferences", "sft" or "prompts". The last looks at answers to find the prompt.
    """
    read = {"prompt", "chosen", "rejected"}
    if reader == "sft":
        read = next((used for name, used in DEMONSTRATIONS.items() if name in row), set())
    elif reader == "prompts":
        read |= {"completion", "messages"}
    names = [name for name, value in row.items() if name not in read and value not in ("", [])]
    for name in sorted(row.keys() & read):
        if isinstance(row[name], list):
            keys = {key for m in row[name] if isinstance(m, dict) for key, v in m.items() if v}
            names += [f"{name} message {key}" for key in sorted(keys - MESSAGE)]
    return names


def plain_message(found: object, where: str) -> dict:
    """A message as {"role", "content"}, also one of {"from", "value"} or of text parts.

    Raises:
        Malformed: for what would be lost: a call of a tool, a picture.
    """
    if not isinstance(found, dict):
        raise Malformed(f"{where} must be an object, got {kind(found)}")
    if calls := [name for name in CALLS if found.get(name)]:
        raise Malformed(f"{where} has {calls[0]}, which is not trained on: write it into content")
    if found.get("from") is not None and found.get("role") is None:
        speaker = found["from"]
        role = SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
        found = {"role": role, "content": found.get("value")}
    content = found.get("content")
    if isinstance(content, list):
        for part in content:
            if not (isinstance(part, dict) and isinstance(part.get("text"), str)):
                what = part.get("type") if isinstance(part, dict) else kind(part)
                raise Malformed(f"{where} has a part that is no text ({what}): leave it out")
        content = "".join(part["text"] for part in content)
    return {"role": found.get("role"), "content": content}
