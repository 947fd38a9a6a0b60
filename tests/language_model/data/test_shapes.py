"""Rows in every shape. Ids such as B7 name the bug, seen elsewhere, that a test rules out."""

from pathlib import Path

import pytest
from data_helpers import (
    CHAT,
    CHATML,
    FILM,
    answer,
    one_line,
    read_one,
    some_text,
    tiny_tokenizer,
    turns,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lib.language_model import data
from dpo_lib.language_model.data.reading import Preference
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.shapes import texts

ROOT = Path(__file__).parents[3]


def test_texts_come_back_as_they_were_written_with_their_place(tmp_path):
    path = write(tmp_path, [FILM, FILM | {"chosen": " fine", "extra": 1}])
    found, report = data.read_preferences(path)
    assert found[1] == Preference("The film was", " fine", " bad", f"{path}:2")
    assert (report.rows, report.used, report.dropped) == (2, 2, {})


def test_b7_a_transcript_is_split_at_its_last_assistant_tag(tmp_path):
    start = "\n\nHuman: a\n\nAssistant: Assistant: b\n\nHuman: c\n\nAssistant:"
    row = read_one(tmp_path, {"chosen": f"{start} xy", "rejected": f"{start} xz Human: d"})
    assert (row.prompt, row.chosen, row.rejected) == (start, " xy", " xz Human: d")


def test_b7_different_histories_are_dropped_and_named(tmp_path):
    """The rejected side is one turn longer, and its slice by the chosen prompt would be wrong."""
    short, long = "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c\n\nHuman: d"
    longer = {"chosen": short, "rejected": f"{long}\n\nAssistant: e"}
    talks = {"chosen": turns("a", "b"), "rejected": turns("a", "c", "d", "e")}
    none = {"chosen": short, "rejected": "no tag"}
    unanswered = {"chosen": long, "rejected": long}
    silent = {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": short}
    path = write(tmp_path, [FILM, longer, talks, none, unanswered, silent])
    found, report = data.read_preferences(path)
    assert len(found) == 1 and report.rows == 6 and report.used == 1
    assert report.dropped == {
        texts.DIFFERENT_HISTORIES: [f"{path}:2", f"{path}:3", f"{path}:4"],
        texts.NO_ANSWER: [f"{path}:5"],
        texts.EMPTY_ANSWER: [f"{path}:6"],
    }


def test_b6_answers_that_share_a_beginning_but_no_turn_have_an_empty_prompt(tmp_path):
    path = write(tmp_path, [{"chosen": "Paris ", "rejected": "London"}, FILM])
    (row, _), report = data.read_preferences(path)
    assert (row.prompt, row.chosen, row.rejected) == ("", "Paris ", "London")
    assert report.noted == {"the prompt is empty": [f"{path}:1"]}


untagged = some_text.filter(lambda text: ":" not in text)


@settings(deadline=None)  # a busy machine is no failure
@given(prompt=untagged, chosen=untagged, rejected=untagged, tagged=st.booleans())
def test_b6_prompt_and_answer_rebuild_both_inputs(prompt, chosen, rejected, tagged):
    tag = texts.ASSISTANT if tagged else ""
    whole = {"chosen": prompt + tag + chosen, "rejected": prompt + tag + rejected}
    try:
        found, good, bad = texts.preference(whole)
    except texts.Useless as reason:
        assert str(reason) == texts.EMPTY_ANSWER and not (chosen.strip() and rejected.strip())
    else:
        assert (found + good, found + bad) == (whole["chosen"], whole["rejected"])


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(some_text, min_size=2, max_size=6).filter(lambda x: len(x) % 2 == 0),
       some_text, st.booleans(), st.booleans())  # fmt: skip
def test_b8_explicit_and_implicit_prompts_agree_and_rebuild_the_conversation(
    contents, other, with_system, templated
):
    tokenizer = CHAT if templated else None
    talk = turns(*contents, system="Be kind." if with_system else None)
    talks = [talk, [*talk[:-1], *answer(other)]]
    try:
        implicit = texts.preference({"chosen": talks[0], "rejected": talks[1]}, tokenizer)
    except texts.Useless:
        assert not (contents[-1].strip() and other.strip())
        return
    sides = {"chosen": answer(contents[-1]), "rejected": answer(other)}
    assert texts.preference({"prompt": talk[:-1], **sides}, tokenizer) == implicit
    prompt, *completions = implicit
    for whole, completion in zip(talks, completions, strict=True):
        if templated:
            rendered = CHAT.apply_chat_template(whole, tokenize=False)
        else:
            tags = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
            rendered = "".join(tags[m["role"]] + m["content"] for m in whole)
        assert prompt + completion == rendered


def test_a_plain_conversation_is_written_like_a_transcript(tmp_path):
    row = read_one(tmp_path, {"chosen": turns("a", "b", system="S"),
                              "rejected": turns("a", "c", system="S")})  # fmt: skip
    assert (row.prompt, row.chosen) == ("S\n\nHuman: a\n\nAssistant:", " b")


@pytest.mark.parametrize("prompt", ["a", turns("a"), None])
def test_whole_conversations_may_repeat_their_prompt(tmp_path, prompt):
    """The shape of UltraFeedback: the prompt's text, and lists that start with it."""
    row = {"prompt": prompt, "chosen": turns("a", "b"), "rejected": turns("a", "c")}
    assert read_one(tmp_path, row).prompt == "\n\nHuman: a\n\nAssistant:"
    row = {"prompt": "a", "chosen": answer("b"), "rejected": answer("c")}
    assert read_one(tmp_path, row).prompt == "\n\nHuman: a\n\nAssistant:"
    row = {"prompt": turns("a"), "chosen": "b", "rejected": "c"}
    assert read_one(tmp_path, row).chosen == " b"


def test_demonstrations_come_from_every_shape(tmp_path):
    path = write(
        tmp_path,
        [
            {"text": "A film."},
            {"prompt": "A", "completion": " film"},
            {"messages": turns("a", "b", "c", "d")},
            {"prompt": turns("a"), "completion": answer("b")},
            FILM,
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "whatever"},
        ],
        "sft.jsonl",
    )
    found, report = data.read_examples(tmp_path)
    start = "\n\nHuman: a\n\nAssistant:"
    assert [(e.prompt, e.completion) for e in found] == [
        ("", "A film."),
        ("A", " film"),
        (f"{start} b\n\nHuman: c\n\nAssistant:", " d"),
        (start, " b"),
        ("The film was", " good"),
        (start, " b"),
    ]
    assert found[2].place == f"{path}:3" and report.used == report.rows == 6


def test_prompts_come_from_every_shape_that_has_one(tmp_path):
    start = "\n\nHuman: a\n\nAssistant:"
    shapes_ = [{"prompt": "A"}, {"prompt": turns("a")}, {"prompt": "A", "text": "A film"}]
    shapes_ += [{"messages": turns("a", "b")}, FILM]
    write(tmp_path, shapes_, "prompts.jsonl")
    found, report = data.read_prompts(tmp_path)
    assert found == ["A", start, "A", start, "The film was"] and report.used == 5


@pytest.mark.parametrize("row", [{"prompt": "a"}, {"completion": "a"}, {"text": 1},
                                 {"prompt": "a", "text": "ab"}, {"messages": "a"}])  # fmt: skip
def test_l1_a_malformed_demonstration_stops_with_its_place(tmp_path, row):
    path = write(tmp_path, [{"text": "a"}, row])
    with pytest.raises(DataError) as error:
        data.read_examples(path)
    one_line(error, f"{path}:2: ")


@pytest.mark.parametrize("row", [{"text": "a"}, {"prompt": []}, {"prompt": turns("a", "b")},
                                 {"prompt": 1}])  # fmt: skip
def test_l1_a_row_without_a_prompt_stops_with_its_place(tmp_path, row):
    path = write(tmp_path, [{"prompt": "a"}, row])
    with pytest.raises(DataError) as error:
        data.read_prompts(path)
    one_line(error, f"{path}:2: ")


@pytest.mark.parametrize("template, reason", [
    (CHATML, "message 1 contains the special token '<|im_end|>'"),
    ("{{ raise_exception('no user today') }}", "refuses the conversation: no user today"),
    (
        "{% if add_generation_prompt %}x{% endif %}{{ messages|map(attribute='content')|join }}",
        "changes the prompt",
    ),
    ("{{ nonsense.deep.deeper }}", "refuses the conversation"),
])  # fmt: skip
def test_b5_b8_what_a_template_cannot_render_faithfully_is_refused(tmp_path, template, reason):
    tokenizer = tiny_tokenizer(eos_token="<|im_end|>", bos_token="<s>")
    tokenizer.chat_template = template
    content = "a<|im_end|>" if template is CHATML else "a"
    path = write(tmp_path, [{"chosen": turns(content, "b"), "rejected": turns(content, "c")}])
    with pytest.raises(DataError) as error:
        data.read_preferences(path, tokenizer)
    assert reason in one_line(error, f"{path}:1: ")
