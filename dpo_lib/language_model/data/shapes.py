"""From a row, in any shape in use, to prompt and answer as text.

- Texts: {"prompt", "chosen", "rejected"} or {"prompt", "completion"}.
- Whole transcripts without a prompt, "\\n\\nHuman: ...\\n\\nAssistant: ...": everything up to and
  including the LAST assistant tag is the prompt.
- A text in "system" stands before the prompt: as a system message where there is a chat
  template, else untagged, with an empty line after it.
- Conversations, lists of {"role", "content"} with roles system (first only), user, assistant:
  the last assistant message is the answer, everything before it the prompt. A list that starts
  with an assistant message continues the row's prompt; any other list is a whole conversation.

A conversation is rendered by the tokenizer's chat template. Without one it is written as a
transcript, a system message first and untagged. In every shape, prompt + answer is the whole
text, character for character.
"""

from itertools import cycle

from dpo_lib.language_model.data.columns import plain_message
from dpo_lib.language_model.data.rows import Malformed, kind

USER, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = ("system", "user", "assistant")
DIFFERENT_HISTORIES = "the histories of chosen and rejected differ"
EMPTY_ANSWER = "an answer is empty"
NO_ANSWER = "a transcript does not end with an answer"


class Rendered(str):
    """Text from a chat template: here, and only here, special tokens are tokens, not text."""


class Useless(Exception):
    """The reason why a row that can be read is of no use for training."""


def preference(row: dict, tokenizer=None) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of a preference row."""
    if has(row, "label") and not has(row, "chosen"):
        raise Malformed("has a label and no pair: dpo sft learns from the rows whose label is true")
    chosen, rejected = required(row, "chosen"), required(row, "rejected")
    if type(chosen) is not type(rejected):
        raise Malformed(f"chosen is {kind(chosen)}, but rejected is {kind(rejected)}")
    prompt, answer = _side(row, "chosen", tokenizer)
    other_prompt, other_answer = _side(row, "rejected", tokenizer)
    if prompt != other_prompt:
        raise Useless(DIFFERENT_HISTORIES)
    return prompt, answer, other_answer


def example(row: dict, tokenizer=None) -> tuple[str, str]:
    """(prompt, completion) of a row for supervised fine-tuning.

    The first of these that the row has: "completion", "messages" (the last answer), "chosen",
    "text" (the prompt is empty: every token is learned).
    """
    if has(row, "label") and not has(row, "chosen"):  # of unpaired preferences: KTO's data
        if not isinstance(row["label"], bool):
            raise Malformed(f"label must be a truth value, got {kind(row['label'])}")
        if not row["label"]:
            raise Useless("its label is false")
    if has(row, "completion"):
        required(row, "prompt")
        return _side(row, "completion", tokenizer)
    if has(row, "messages"):
        return render(_turns(row["messages"], "messages"), tokenizer)
    if has(row, "chosen"):
        return _side(row, "chosen", tokenizer)
    if has(row, "text") and not has(row, "prompt"):
        return "", _answer(row, "text")
    raise Malformed("needs text, prompt and completion, messages, or prompt and chosen")


def prompt_only(row: dict, tokenizer=None) -> str:
    """The prompt of a row of any shape that has one."""
    if any(has(row, name) for name in ("completion", "messages", "chosen")):
        return example(row, tokenizer)[0]
    prompt = required(row, "prompt")
    if isinstance(prompt, list):
        return render_prompt(_turns(prompt, "prompt"), tokenizer)
    return text(prompt, "prompt")


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


def render(messages: list[dict], tokenizer=None) -> tuple[str, str]:
    """(prompt, answer) of a conversation; together they are the rendered conversation."""
    *history, answer = messages
    if answer["role"] != "assistant":
        raise Malformed(f"the last message must be the assistant's, got role {answer['role']!r}")
    prompt = render_prompt(history, tokenizer)
    if not answer["content"].strip():
        raise Useless(EMPTY_ANSWER)
    if not isinstance(prompt, Rendered):
        return prompt, f" {answer['content']}"
    whole = _apply_template(messages, tokenizer)
    if not whole.startswith(prompt):
        raise Malformed("the chat template changes the prompt when the answer follows")
    return prompt, Rendered(whole[len(prompt) :])


def render_prompt(history: list[dict], tokenizer=None) -> str:
    """A conversation that waits for the assistant, up to where the answer starts."""
    _check_turns(history)
    if getattr(tokenizer, "chat_template", None):
        return Rendered(_apply_template(history, tokenizer, add_generation_prompt=True))
    tags = {"system": "", "user": f"{USER} ", "assistant": f"{ASSISTANT} "}
    return "".join(tags[m["role"]] + m["content"] for m in history) + ASSISTANT


def with_system(row: dict, tokenizer=None) -> dict:
    """The row with its `system` in its prompt.

    Raises:
        Malformed: if there is no prompt to put it before, or the conversation has one already.
    """
    row = dict(row)
    system = text(row.pop("system", None) or "", "system")
    if not system.strip():
        return row
    prompt = row.get("prompt")
    if prompt is None:
        raise Malformed("has a system text and no prompt: make it the first message")
    if isinstance(prompt, str) and not getattr(tokenizer, "chat_template", None):
        return row | {"prompt": f"{system}\n\n{prompt}"}
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    if turns and isinstance(turns[0], dict) and turns[0].get("role") == "system":
        raise Malformed("has a system text and a system message: leave one out")
    return row | {"prompt": [{"role": "system", "content": system}, *turns]}


def has(row: dict, name: str) -> bool:
    """Whether a row has a field; null, which hub tables use for "nothing here", is none."""
    return row.get(name) is not None


def required(row: dict, name: str) -> object:
    if not has(row, name):
        raise Malformed(f"has no field {name!r}")
    return row[name]


def text(value: object, name: str) -> str:
    """The value if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise Malformed(f"{name} must be text, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} has half a surrogate pair, {value[error.start]!r}") from None
    return value


def _answer(row: dict, name: str) -> str:
    if not text(row[name], name):
        raise Malformed(f"{name} is empty")
    if not row[name].strip():
        raise Useless(EMPTY_ANSWER)
    return row[name]


def _side(row: dict, name: str, tokenizer) -> tuple[str, str]:
    """(prompt, answer) of one side of a row."""
    if isinstance(row[name], list) or isinstance(row.get("prompt"), list):
        return render(_conversation(row, name), tokenizer)
    answer = _answer(row, name)
    return (
        (text(row["prompt"], "prompt"), answer) if has(row, "prompt") else split_transcript(answer)
    )


def _conversation(row: dict, name: str) -> list[dict]:
    """Every message of one side, the row's prompt included once."""
    side, prompt = row[name], row.get("prompt")
    if isinstance(side, str):
        side = [{"role": "assistant", "content": _answer(row, name)}]
    side = _turns(side, name)
    if prompt is None:
        return side
    as_text = not isinstance(prompt, list)
    before = _turns([{"role": "user", "content": prompt}] if as_text else prompt, "prompt")
    if side[0]["role"] == "assistant":
        return before + side
    repeated = before[0] in side if as_text else side[: len(before)] == before
    if not repeated:
        raise Malformed(f"{name} is a whole conversation, but not one with this prompt")
    return side


def _turns(messages: object, name: str) -> list[dict]:
    """The messages, reduced to role and content, if each has both."""
    if not (isinstance(messages, list) and messages):
        found = "an empty list" if messages == [] else kind(messages)
        raise Malformed(f"{name} must be text or a list of messages, got {found}")
    turns = []
    for number, given in enumerate(messages, start=1):
        where = f"{name} message {number}"
        found = plain_message(given, where)
        for key in ("role", "content"):
            if not has(found, key):
                raise Malformed(f"{where} has no {key}")
        role = text(found["role"], f"role of {where}")
        if role not in ROLES:
            raise Malformed(f"{where} must be from {', '.join(ROLES)}, got role {role[:40]!r}")
        turns.append({"role": role, "content": text(found["content"], where)})
    return turns


def _check_turns(history: list[dict]) -> None:
    """Malformed unless user and assistant take turns, the user first and last."""
    start = 1 if history and history[0]["role"] == "system" else 0
    turns = history[start:]
    for number, (turn, role) in enumerate(zip(turns, cycle(ROLES[1:])), start=start + 1):
        if turn["role"] != role:
            raise Malformed(f"message {number} must be from the {role}, got role {turn['role']!r}")
    if len(turns) % 2 == 0:
        raise Malformed("an answer must follow a user message, but none comes just before it")


def _apply_template(messages: list[dict], tokenizer, **options) -> str:
    for number, message in enumerate(messages, start=1):
        for token in tokenizer.all_special_tokens:
            if token in message["content"]:  # it would end or fake a turn
                raise Malformed(f"message {number} contains the special token {token!r}")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template is a program and raises what it likes
        reason = (str(error).splitlines() or [""])[0]
        raise Malformed(f"the chat template refuses the conversation: {reason}") from None
