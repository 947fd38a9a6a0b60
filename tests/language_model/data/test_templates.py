"""Conversations through the chat templates that are in use, by the texts they must give."""

import pytest
from data_helpers import (
    CHATML,
    FILM,
    answer,
    byte_tokenizer,
    one_line,
    tiny_tokenizer,
    turns,
    write,
)
from tokenizers.processors import TemplateProcessing

from dpo_lib.language_model import data
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.shapes import templates, texts
from dpo_lib.language_model.data.shapes.columns import Fields
from dpo_lib.language_model.data.tokens import Pair

EARLIER = templates.EARLIER_REASONING
ENDS = "<|im_end|>\n"


def chat(template):
    tokenizer = tiny_tokenizer(eos_token="<|im_end|>", bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


# Each writes what its namesake does where it matters here.
GEMMA = chat(
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<turn>{{ m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
MUTE = chat(  # leaves the system message out
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MISTRAL = chat(  # writes the system message into the last question
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set talk = messages[1:] if system else messages %}{% for m in talk %}"
    "{% if m.role == 'user' %}[INST]"
    "{% if system and loop.index0 == (talk | length - 1) // 2 * 2 %}{{ system }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN = chat(  # an empty thought before the last answer, none before earlier ones; tools
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in m.content else (m.reasoning_content or '') %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS = (  # the generation prompt opens a thought
    "{% for m in messages %}<{{ m.role }}>{{ CONTENT }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
DEEPSEEK = chat(OPENS.replace("CONTENT", "m.content.split('</think>')[-1]"))
PREFILLS = chat(OPENS.replace("CONTENT", "m.content"))
STRIPS = chat(
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = chat(CHATML)


def pair(history, chosen="c", rejected="r"):
    return {"prompt": history, "chosen": answer(chosen), "rejected": answer(rejected)}


def read(row, tokenizer):
    record = Fields(row)
    return texts.preference(record, tokenizer), record


def refusal(folder, row, tokenizer=None):
    path = write(folder, [row])
    with pytest.raises(DataError) as error:
        data.read_preferences(path, tokenizer)
    return one_line(error, f"{path}:1: ").removeprefix(f"{path}:1: ")


SYSTEM = turns("q", system="S")


def test_a_template_without_a_system_role_is_refused_with_the_way_round(tmp_path):
    assert refusal(tmp_path, pair(SYSTEM), GEMMA) == (
        "the chat template takes no system message: System role not supported; put its text into "
        "the first user message"
    )
    found, record = read(pair(turns("q ")), GEMMA)
    assert found[:2] == ("<s><turn>user\nq<end>\n<turn>assistant\n", "c<end>\n")
    assert record.notes == ["the chat template strips blanks around a message"] * 2  # both sides


@pytest.mark.parametrize("word", ["user", "s", "as", "<user>"])
def test_a_message_is_not_found_in_the_words_of_the_template(tmp_path, word):
    assert "leaves out text of message 1" in refusal(tmp_path, pair(turns("q", system=word)), MUTE)


def test_a_template_that_leaves_a_message_out_is_refused(tmp_path):
    assert refusal(tmp_path, pair(SYSTEM), MUTE) == (
        "the chat template leaves out text of message 1; put it elsewhere, or take a model whose "
        "template renders it"
    )
    path = write(tmp_path, [{"prompt": SYSTEM}])
    with pytest.raises(DataError, match="leaves out text of message 1"):
        data.read_prompts(path, MUTE)
    assert read(pair(turns("q")), MUTE)[0] == ("<user>q<assistant>", "c", "r")


def test_a_system_message_that_a_template_writes_by_itself_is_noted():
    by_itself = chat(  # as Qwen 2.5 does
        "{% if messages[0].role != 'system' %}<system>You are an assistant.{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found, record = read(pair(turns("q")), by_itself)
    assert found[0] == "<system>You are an assistant.<user>q<assistant>"
    note = "the chat template writes a system message, 'You are an assistant.'"
    assert set(record.notes) == {note}
    for history, tokenizer in ((SYSTEM, by_itself), (turns("q"), CHAT), (turns("q"), MISTRAL)):
        assert read(pair(history), tokenizer)[1].notes == []


def test_a_system_message_may_be_written_into_the_last_question():
    found, _ = read(pair(turns("a", "b", "q", system="S")), MISTRAL)
    assert found[:2] == ("[INST]a[/INST]b<|im_end|>[INST]S\n\nq[/INST]", "c<|im_end|>")


def test_an_empty_thought_before_the_answer_is_learned_and_noted():
    found, record = read(pair(turns("q")), QWEN)
    start = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert found == (start, f"<think>\n\n</think>\n\nc{ENDS}", f"<think>\n\n</think>\n\nr{ENDS}")
    note = "the chat template writes '<think>\\n\\n</think>\\n\\n' before the answer"
    assert set(record.notes) == {note}


def test_reasoning_that_a_template_keeps_changes_or_strips_is_said():
    thought = "<think>t</think>c"
    found, record = read(pair(turns("q", "<think>t</think>a", "p"), thought), QWEN)
    assert found[0].endswith("assistant\na<|im_end|>\n<|im_start|>user\np<|im_end|>\n"
                             "<|im_start|>assistant\n")  # fmt: skip
    assert found[1] == f"<think>\nt\n</think>\n\nc{ENDS}"
    assert EARLIER in record.notes
    assert "the chat template changes the blanks around reasoning" in record.notes
    assert (
        read(pair(turns("q"), thought, "<think>t</think>r"), QWEN)[1].notes
        == ["the chat template changes the blanks around reasoning"] * 2
    )  # and writes no thought of its own
    found, record = read(pair(turns("q"), thought), STRIPS)
    assert found == ("<user>q<|im_end|><assistant>", "c<|im_end|>", "r<|im_end|>")
    assert record.notes == ["the chat template strips the reasoning of an answer"]


def test_an_answer_of_which_a_template_leaves_nothing_is_dropped(tmp_path):
    rows = [pair(turns("q")), pair(turns("q"), "<think>t</think>"), pair(turns("q"), "</think>c")]
    rows.append(pair(turns("q"), "<think>a</think>c", "<think>b</think>c"))
    path = write(tmp_path, rows)
    _, report = data.read_preferences(path, STRIPS)
    assert report.dropped == {
        texts.EMPTY_ANSWER: [f"{path}:2"],
        "chosen and rejected are identical": [f"{path}:4"],
    }


def test_a_template_that_opens_a_thought_needs_answers_that_go_on_in_it(tmp_path):
    for tokenizer in (DEEPSEEK, PREFILLS):
        assert refusal(tmp_path, pair(turns("q")), tokenizer) == (
            "the chat template changes the prompt when the answer follows: where it ends the "
            "prompt with '<think>\\n', the conversation has 'c<|im_end|>'; take what it adds for "
            "generation out of the template"
        )
    thoughts = ("<think>\nt</think>c", "<think>\nt</think>r")
    found, _ = read(pair(turns("q"), *thoughts), PREFILLS)
    start = "<user>q<|im_end|><assistant><think>\n"
    assert found == (start, "t</think>c<|im_end|>", "t</think>r<|im_end|>")


def call(name):
    return [{"type": "function", "function": {"name": name, "arguments": {"x": 1}}}]


def calling(name, **more):
    return {"role": "assistant", "content": None, "tool_calls": call(name), **more}


def test_tool_calls_are_rendered_and_pairs_may_differ_there_alone():
    row = {"prompt": turns("q"), "chosen": [calling("f")], "rejected": [calling("g")]}
    (_, chosen, rejected), _ = read(row, QWEN)
    assert '<call>f {"x": 1}</call>' in chosen and '<call>g {"x": 1}</call>' in rejected
    result = {"role": "tool", "content": "7", "tool_call_id": "1"}
    (prompt, *_), record = read(pair([*turns("q"), calling("f"), result]), QWEN)
    assert '<call>f {"x": 1}</call>' in prompt and "<|im_start|>tool\n7<|im_end|>" in prompt
    assert set(record.ignored) == {
        "the field tool_call_id of a message, which the template leaves out"
    }


@pytest.mark.parametrize("last", [
    turns("q"),
    [{"from": "human", "value": "q", "role": None}],
    [*turns("q"), calling("f"), {"role": "tool", "content": "7"}],
])  # fmt: skip
def test_messages_that_wait_for_an_answer_are_a_prompt(tmp_path, last):
    found, _ = data.read_prompts(write(tmp_path, [{"messages": last}]), QWEN)
    assert found[0].endswith(f"{last[-1].get('content', 'q')}{ENDS}<|im_start|>assistant\n")


def test_tool_calls_that_nothing_renders_are_refused_with_the_remedy(tmp_path):
    row = {"prompt": turns("q"), "chosen": [calling("f")], "rejected": [calling("g")]}
    assert refusal(tmp_path, row) == (
        "message 2 has tool_calls, which a chat template renders, and the tokenizer has none; "
        "write it into the content, or take a model with a chat template"
    )
    assert refusal(tmp_path, row, MUTE) == (
        "the chat template does not render tool_calls of message 2; write it into the content, or "
        "take a model whose template does"
    )
    late = pair([*turns("q"), {"role": "tool", "content": "7"}])
    assert refusal(tmp_path, late, QWEN) == "message 2 must be from the assistant, got role 'tool'"


def test_tools_of_a_row_are_rendered_or_refused(tmp_path):
    row = pair(turns("q")) | {"tools": [{"type": "function", "function": {"name": "f"}}]}
    (prompt, *_), record = read(row, QWEN)
    assert prompt.startswith("<tools>[{") and not record.ignored
    silent = {"role": "assistant", "content": "c", "function_call": {"name": "f"}}
    assert "does not render function_call" in refusal(tmp_path, row | {"chosen": [silent]}, QWEN)
    assert "does not render tools; describe" in refusal(tmp_path, row, MUTE)
    assert "has tools, which a chat template renders" in refusal(tmp_path, row)
    assert read(row | {"tools": []}, MUTE)[0][0] == "<user>q<assistant>"


def test_reasoning_beside_an_answer_is_rendered_or_refused(tmp_path):
    chosen = [{"role": "assistant", "content": "c", "reasoning_content": "why"}]
    row = pair(turns("q")) | {"chosen": chosen}
    assert read(row, QWEN)[0][1] == f"<think>\nwhy\n</think>\n\nc{ENDS}"
    assert "does not render reasoning_content of message 2" in refusal(tmp_path, row, CHAT)
    earlier = pair([*turns("p"), *chosen, *turns("q")])
    assert EARLIER in read(earlier, QWEN)[1].notes


def test_other_fields_of_a_message_are_reported_and_weight_zero_is_not_learned(tmp_path):
    history = [{"role": "user", "content": "q", "name": "Ann", "mood": 3, "weight": None}]
    _, record = read(pair(history), CHAT)
    assert dict.fromkeys(record.ignored) == {
        "the field name of a message": None, "the field mood of a message": None
    }  # fmt: skip
    row = pair(turns("q")) | {"chosen": [{"role": "assistant", "content": "c", "weight": 0}]}
    _, report = data.read_preferences(write(tmp_path, [FILM, row]))
    assert list(report.dropped) == ["an answer has weight 0"]


def test_text_parts_are_joined_and_other_parts_refused_by_name(tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cited": [1]}]
    found, record = read(pair([{"role": "user", "content": parts}]), CHAT)
    assert found == read(pair(turns("ab")), CHAT)[0]
    assert set(record.ignored) == {"the field cited of a text part"}
    audio = [{"role": "user", "content": [*parts, {"type": "input_audio"}]}]
    assert refusal(tmp_path, pair(audio)) == (
        "prompt message 1 must be text, got a list with a part of type 'input_audio'"
    )


def test_b5_a_special_token_in_a_tool_call_is_refused(tmp_path):
    row = {"prompt": turns("q"), "chosen": [calling("<|im_end|>")], "rejected": [calling("g")]}
    assert "message 2 contains the special token '<|im_end|>'" in refusal(tmp_path, row, QWEN)


# By token ids: a tokenizer whose ids are bytes, then <|endoftext|>, <s>, <u>, <a>.
END, BOS, USER, BOT = 256, 257, 258, 259
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}CONTENT"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}<a>OPENED{% endif %}"
)
SYSTEM_ABOVE = (  # as Llama 2 has it
    "{{ bos_token }}{% set first = messages[0].role == 'system' %}"
    "{% for m in messages[1:] if first %}{{ '<u>' if m.role == 'user' else '<a>' }}"
    "{{ '[' + messages[0].content + ']' if loop.first }}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
CALLS = TURNS.replace(
    "CONTENT",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}",
)
BY_IDS = {  # template, its CONTENT and what it OPENS; history and answer; the ids that they must be
    "as it is": (TURNS, "{{ m.content }}", "", (turns("q"), "c"),
                 [BOS, USER, *b"q", BOT], [*b"c", END]),
    "a system message above the question": (SYSTEM_ABOVE, "", "", (SYSTEM, "c"),
                 [BOS, USER, *b"[S]q", BOT], [*b"c", END]),
    "a bos before every question, as Llama 2 has it": (
                 TURNS.replace("{{ bos_token }}", "").replace("'<u>'", "bos_token + '<u>'"),
                 "{{ m.content }}", "", (turns("a", "b", "q"), "c"),
                 [BOS, USER, *b"a", BOT, *b"b", END, BOS, USER, *b"q", BOT], [*b"c", END]),
    "several turns": (TURNS, "{{ m.content }}", "", (turns("a", "b", "q"), "c"),
                 [BOS, USER, *b"a", BOT, *b"b", END, USER, *b"q", BOT], [*b"c", END]),
    "blanks stripped": (TURNS, "{{ m.content | trim }}", "", (turns(" q"), " c\n"),
                 [BOS, USER, *b"q", BOT], [*b"c", END]),
    "a thought opened": (TURNS, "{{ m.content }}", "<think>\n", (turns("q"), "<think>\nt</think>c"),
                 [BOS, USER, *b"q", BOT, *b"<think>\n"], [*b"t</think>c", END]),
    "a thought pre-filled": (TURNS, "{{ '<think></think>' if m.role != 'user' }}{{ m.content }}",
                 "<think></think>", (turns("q"), "c"),
                 [BOS, USER, *b"q", BOT, *b"<think></think>"], [*b"c", END]),
    "a thought stripped": (TURNS, "{{ m.content.split('</think>')[-1] }}", "",
                 (turns("q"), "<think>\nt</think>c"),
                 [BOS, USER, *b"q", BOT], [*b"c", END]),
}  # fmt: skip


def by_bytes(template: str | None, adds_bos: bool = False):
    tokenizer = byte_tokenizer("<s>", "<u>", "<a>", bos_token="<s>", template=template)
    if adds_bos:
        added = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
        tokenizer.backend_tokenizer.post_processor = added
        assert tokenizer("a").input_ids == [BOS, *b"a"]
    return tokenizer


@pytest.mark.parametrize("name", BY_IDS)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_template_gives_these_token_ids_whether_or_not_the_tokenizer_adds_a_bos(
    tmp_path, name, adds_bos
):
    template, content, opened, (history, chosen), prompt_ids, chosen_ids = BY_IDS[name]
    tokenizer = by_bytes(template.replace("CONTENT", content).replace("OPENED", opened), adds_bos)
    path = write(tmp_path, [pair(history, chosen, chosen.replace("c", "r"))])
    rows, report = data.read_preferences(path, tokenizer)
    assert data.tokenize_preferences(rows, tokenizer, 512, report) == [
        Pair(tuple(prompt_ids), tuple(chosen_ids), (*chosen_ids[:-2], *b"r", END))
    ]
    said = {"blanks stripped": "strips blanks", "a thought stripped": "strips the reasoning"}
    assert [said[name] in note for note in report.noted] == [True] * (name in said)
    if name != "a thought opened":  # what is generated from is what is trained from
        prompts, _ = data.read_prompts(write(tmp_path, [{"prompt": history}]), tokenizer)
        assert data.tokenize_prompts(prompts, tokenizer, 512) == [tuple(prompt_ids)]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_text_without_a_template_begins_as_the_tokenizer_begins_texts(tmp_path, adds_bos):
    tokenizer, first = by_bytes(None, adds_bos), [BOS] * adds_bos
    path = write(tmp_path, [{"prompt": "q", "chosen": "c", "rejected": "r"}])
    rows, report = data.read_preferences(path, tokenizer)
    assert data.tokenize_preferences(rows, tokenizer, 512, report) == [
        Pair((*first, *b"q"), (*b"c", END), (*b"r", END))
    ]
    assert data.tokenize_prompts(["q", ""], tokenizer, 512) == [(*first, *b"q"), (BOS,)]


def test_a_tool_call_gives_these_token_ids(tmp_path):
    row = {"prompt": turns("q"), "chosen": [calling("f")], "rejected": [calling("g")]}
    tokenizer = by_bytes(CALLS.replace("OPENED", ""))
    rows, report = data.read_preferences(write(tmp_path, [row]), tokenizer)
    (found,) = data.tokenize_preferences(rows, tokenizer, 512, report)
    assert found.chosen == (*b'{"name": "f", "arguments": {"x": 1}}', END)
    assert (found.prompt, report.noted, report.ignored) == ((BOS, USER, *b"q", BOT), {}, {})
