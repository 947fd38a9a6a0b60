"""What people call their columns, and that no field is passed over without a word."""

import pytest
from data_helpers import CHAT, FILM, answer, one_line, read_one, turns, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lib.language_model import data
from dpo_lib.language_model.data.rows import DataError

SIDES = {"chosen": " yes", "rejected": " no"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}


def refusal(tmp_path, row, read=data.read_preferences, tokenizer=None):
    path = write(tmp_path, [row])
    with pytest.raises(DataError) as error:
        read(path, tokenizer)
    return one_line(error, f"{path}")


PROMPTS = {  # whose columns, the row beside chosen and rejected, the prompt that it must give
    "Orca": ({"question": "Why?"}, "Why?"),
    "Orca with a system text": ({"system": "Be brief.", "question": "Why?"}, "Be brief.\n\nWhy?"),
    "Orca with an empty one": ({"system": "", "question": "Why?"}, "Why?"),
    "Alpaca": ({"instruction": "Sum up:", "input": "a text"}, "Sum up:\n\na text"),
    "Alpaca without input": ({"instruction": "Sing.", "input": ""}, "Sing."),
    "system beside prompt": ({"system": "Be brief.", "prompt": "Why?"}, "Be brief.\n\nWhy?"),
}


@pytest.mark.parametrize(("row", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_is_read_whatever_its_column_is_called(tmp_path, row, prompt):
    found = read_one(tmp_path, row | SIDES)
    assert (found.prompt, found.chosen, found.rejected) == (prompt, " yes", " no")


def test_with_a_chat_template_a_system_text_is_a_system_message(tmp_path):
    row = {"system": "Be brief.", "question": "Why?", "chosen": "yes", "rejected": "no"}
    talk = {side: turns("Why?", row[side], system="Be brief.") for side in ("chosen", "rejected")}
    assert read_one(tmp_path, row, CHAT).prompt == read_one(tmp_path, talk, CHAT).prompt
    listed = {"system": "Be brief.", "prompt": turns("Why?")}
    listed |= {side: answer(row[side]) for side in ("chosen", "rejected")}
    assert read_one(tmp_path, listed, CHAT).prompt == read_one(tmp_path, row, CHAT).prompt


def test_alpaca_s_output_and_sharegpt_s_conversations_are_demonstrations(tmp_path):
    talk = [{"from": "system", "value": "S"}, {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"}]  # fmt: skip
    rows = [{"instruction": "Sing.", "output": " la"}, {"conversations": talk}]
    found, report = data.read_examples(write(tmp_path, rows))
    assert [(e.prompt, e.completion) for e in found] == [
        ("Sing.", " la"),
        ("S\n\nHuman: q\n\nAssistant:", " a"),
    ]
    assert (report.used, report.ignored) == (2, {})


def test_text_parts_of_a_message_are_its_text(tmp_path):
    parts = [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]
    row = {"prompt": "Why?", "chosen": answer(parts), "rejected": answer("no")}
    assert read_one(tmp_path, row).chosen == " yes"
    row["chosen"] = answer([{"type": "image_url", "image_url": "x"}])
    assert "message 1 has a part that is no text (image_url): leave it out" in refusal(
        tmp_path, row
    )


def test_of_unpaired_preferences_only_the_wanted_completions_are_learned(tmp_path):
    rows = [{"prompt": "p", "completion": f" {n}", "label": n != 1} for n in range(3)]
    found, report = data.read_examples(write(tmp_path, rows))
    assert [e.completion for e in found] == [" 0", " 2"]
    assert report.dropped == {"its label is false": [f"{tmp_path}/rows.jsonl:2"]}
    assert "label must be a truth value, got a number" in refusal(
        tmp_path, rows[0] | {"label": 1}, data.read_examples
    )
    assert "has a label and no pair: dpo sft learns from" in refusal(tmp_path, rows[0])


REFUSED = {
    "a call of a tool": (
        {"prompt": turns("q"), "chosen": [CALL], "rejected": answer("a")},
        "chosen message 1 has tool_calls, which is not trained on: write it into content",
    ),
    "two prompts": (FILM | {"question": "q"}, "has prompt and question: keep only the one that is"),
    "two system texts": (
        {"system": "S", "prompt": turns("q", system="T"), "chosen": "a", "rejected": "b"},
        "has a system text and a system message: leave one out",
    ),
    "a system text and whole conversations": (
        {"system": "S", "chosen": turns("q", "a"), "rejected": turns("q", "b")},
        "has a system text and no prompt: make it the first message",
    ),
    "no prompt in any row": (SIDES, "every prompt is empty: call the field that has it prompt"),
}


@pytest.mark.parametrize(("row", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_lost_is_refused_with_the_way_round(tmp_path, row, reason):
    assert reason in refusal(tmp_path, row)


def test_an_answer_of_white_space_is_none_in_every_shape(tmp_path):
    rows = [{"prompt": "p", "chosen": " a", "rejected": " \n"}, FILM,
            {"prompt": "p", "chosen": answer("  "), "rejected": answer("b")}]  # fmt: skip
    found, report = data.read_preferences(write(tmp_path, rows))
    assert len(found) == 1 and report.rows == 3
    assert [len(places) for places in report.dropped.values()] == [2]


@settings(deadline=None)
@given(
    name=st.text("abcdefgh_", min_size=1),
    value=st.text(min_size=1) | st.booleans() | st.integers() | st.lists(st.integers(), min_size=1),
    with_it=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_a_field_that_nobody_named_is_reported_with_its_rows(
    tmp_path_factory, name, value, with_it
):
    rows = [
        FILM | {"chosen": f" {n}"} | ({name: value} if has else {}) for n, has in enumerate(with_it)
    ]
    path = write(tmp_path_factory.mktemp("fields"), rows)
    found, report = data.read_preferences(path)
    places = [f"{path}:{n}" for n, has in enumerate(with_it, start=1) if has]
    assert report.ignored == ({f"the field {name}": places} if places else {})
    assert len(found) == report.used == report.rows == len(rows)
    assert len(report.lines()) == 1 + bool(places)


def test_a_field_of_a_message_that_nobody_reads_is_reported(tmp_path):
    said = answer("yes")[0] | {"weight": 0.5}
    row = {"prompt": "Why?", "chosen": [said], "rejected": answer("no")}
    _, report = data.read_preferences(write(tmp_path, [row]))
    assert list(report.ignored) == ["the field chosen message weight"]


@pytest.mark.parametrize(
    ("row", "ignored"),
    [
        (FILM, ["rejected"]),
        ({"messages": turns("q", "a"), "prompt": "p"}, ["prompt"]),
        ({"prompt": "p", "completion": " c", "messages": turns("q", "a")}, ["messages"]),
        (FILM | {"label": 1}, ["label", "rejected"]),
    ],
)
def test_a_demonstration_reports_what_it_was_not_read_from(tmp_path, row, ignored):
    _, report = data.read_examples(write(tmp_path, [row]))
    assert sorted(report.ignored) == [f"the field {name}" for name in ignored]


def test_an_input_without_an_instruction_is_a_field_like_any_other(tmp_path):
    row = {"prompt": "p", "instruction": None, "input": "x"} | SIDES
    (found,), report = data.read_preferences(write(tmp_path, [row]))
    assert (found.prompt, list(report.ignored)) == ("p", ["the field input"])
