"""No row is trained on as something it is not: every field is used, refused or reported."""

import json

import pytest
from data_helpers import BYTES, CHAT, FILM, dropped, one_line, turns, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lib.language_model import data
from dpo_lib.language_model.data.rows import DataError, Malformed
from dpo_lib.language_model.data.shapes import columns, texts
from dpo_lib.language_model.data.shapes.columns import Fields
from dpo_lib.language_model.data.tokens import Pair, TokenExample

ASKED = "\n\nHuman: q\n\nAssistant:"
PAIR = {"chosen": "c", "rejected": "r"}
TALKED = {"messages": turns("q", "a")}
TALKS = {"chosen": turns("q", "c"), "rejected": turns("q", "r")}


def read(folder, row, reader=data.read_preferences, tokenizer=None):
    """What two rows, the one given and a plain talk, become: the first, and the report."""
    plain = (
        FILM | {"prompt": f"Well?{ASKED}"}
        if reader is data.read_preferences
        else {"prompt": "p", "completion": " c"}
    )
    found, report = reader(write(folder, [row, plain]), tokenizer)
    assert report.rows == 2 == report.used + dropped(report)
    return found[0], report


def refusal(folder, row, reader=data.read_preferences, tokenizer=None) -> str:
    path = write(folder, [row])
    with pytest.raises(DataError) as error:
        reader(path, tokenizer)
    return one_line(error, f"{path}:1: ").removeprefix(f"{path}:1: ")


PREFERENCES = {
    "Orca": ({"system": "S", "question": "q", **PAIR}, f"S{ASKED}"),
    "Orca without system": ({"system": "", "question": "q", **PAIR}, ASKED),
    "Intel's Orca": ({"system_prompt": "S", "question": "q", **PAIR}, f"S{ASKED}"),
    "a system beside a prompt": ({"system": "S", "prompt": "q", **PAIR}, f"S{ASKED}"),
    "a system beside a transcript": (
        {"system": "S", "chosen": f"{ASKED} c", "rejected": f"{ASKED} r"},
        f"S{ASKED}",
    ),
    "a system beside a prompt that is a transcript": (
        {"system": "S", "prompt": ASKED, "chosen": " c", "rejected": " r"},
        f"S{ASKED}",
    ),
    "a system beside a transcript that begins at once": (
        {"system": "S", "prompt": ASKED.strip(), "chosen": " c", "rejected": " r"},
        "S" + ASKED,
    ),
    "a system beside messages": ({"system": "S", **TALKS}, f"S{ASKED}"),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", **PAIR},
        "\n\nHuman: Add.\n\n1, 2\n\nAssistant:",
    ),
    "Alpaca without input": ({"instruction": "q", "input": "", **PAIR}, ASKED),
    "ShareGPT": (
        {
            side: [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": a},
            ]
            for side, a in PAIR.items()
        },
        f"S{ASKED}",
    ),
    "UltraFeedback": ({"prompt": "q", **TALKS}, ASKED),
    "UltraFeedback with system": (
        {"prompt": "q", **{s: turns("q", a, system="S") for s, a in PAIR.items()}},
        f"S{ASKED}",
    ),
    "text parts": (
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}]}],
            **PAIR,
        },
        ASKED,
    ),
    "LLaMA-Factory": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            **{side: {"from": "gpt", "value": a} for side, a in PAIR.items()},
        },
        ASKED,
    ),
    "messages before the answers": ({"system": "S", "messages": turns("q"), **PAIR}, f"S{ASKED}"),
    "two names of one prompt": ({"prompt": "q", "question": "q", "system": "", **PAIR}, ASKED),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_as_people_have_them_are_read_whole(tmp_path, name):
    row, prompt = PREFERENCES[name]
    found, report = read(tmp_path, row)
    assert (found.prompt, found.chosen, found.rejected) == (prompt, " c", " r")
    assert not report.ignored and not report.noted
    (pair,) = data.tokenize_preferences([found], BYTES, 512, report)
    assert pair == Pair((*prompt.encode(),), (*b" c", 256), (*b" r", 256))


def test_a_question_with_its_system_is_a_conversation_for_the_chat_template(tmp_path):
    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]
    expected = CHAT.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    for row in (PREFERENCES["Orca"][0], {"system": "S", "prompt": "q", **PAIR}):
        found, _ = read(tmp_path, row, tokenizer=CHAT)
        assert found.prompt == expected and found.chosen == "c<|im_end|>\n"
    found, _ = read(tmp_path, {"system": "S", "instruction": "q"}, data.read_prompts, CHAT)
    assert found == expected


@pytest.mark.parametrize("tokenizer", [None, CHAT])
def test_a_prompt_that_is_no_conversation_is_noted_where_others_are(tmp_path, tokenizer):
    rows = [PREFERENCES["Orca"][0], FILM, {"prompt": "q", **TALKS}]
    _, report = data.read_preferences(write(tmp_path, rows), tokenizer)
    assert report.noted == {
        "the prompt is no conversation, unlike others of the file": [f"{tmp_path}/rows.jsonl:2"]
    }
    assert data.read_preferences(write(tmp_path, rows[1:2]), tokenizer)[1].noted == {}


def test_ultrafeedback_says_that_its_scores_were_ignored(tmp_path):
    row = {"prompt": "q", **TALKS, "score_chosen": 8.5, "score_rejected": 2, "messages": turns("q")}
    _, report = read(tmp_path, row)
    place = [f"{tmp_path}/rows.jsonl:1"]
    names = ("score_chosen", "score_rejected", "messages")
    assert report.ignored == {f"the field {name}": place for name in names}
    assert report.lines()[1] == f"ignored 1: the field score_chosen ({place[0]})"


DEMONSTRATIONS = {
    "KTO, true": ({"prompt": "q", "completion": " c", "label": True}, ("q", " c")),
    "Alpaca": ({"instruction": "q", "input": "", "output": "c"}, (ASKED, " c")),
    "Alpaca's text": (
        {"instruction": "q", "input": "i", "text": "Do q with i.", "label": 3},
        ("", "Do q with i."),
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "c"}]},
        (ASKED, " c"),
    ),
    "UltraChat": ({"prompt": "q", "messages": turns("q", "c")}, (ASKED, " c")),
    "a system beside messages": ({"system": "S", "messages": turns("q", "c")}, (f"S{ASKED}", " c")),
    "Orca": ({"system": "S", "question": "q", **PAIR}, (f"S{ASKED}", " c")),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_demonstrations_as_people_have_them_are_read_whole(tmp_path, name):
    row, expected = DEMONSTRATIONS[name]
    found, report = read(tmp_path, row, data.read_examples)
    assert (found.prompt, found.completion) == expected
    (ids,) = data.tokenize_examples([found], BYTES, 512, report)
    prompt, completion = (part.encode() for part in expected)
    assert ids == TokenExample((*(prompt or [256]),), (*completion, 256))


@pytest.mark.parametrize("label", [False, 0, "False", "0"])
def test_kto_answers_that_are_labelled_false_are_not_learned(tmp_path, label):
    rows = [{"prompt": "q", "completion": "c", "label": label}, {"prompt": "q", "completion": "d"}]
    (found,), report = data.read_examples(write(tmp_path, rows))
    assert found.completion == "d"
    assert report.dropped == {texts.FALSE_LABEL: [f"{tmp_path}/rows.jsonl:1"]}


def test_what_sft_and_prompts_leave_aside_is_said_with_the_reason(tmp_path):
    _, report = read(tmp_path, DEMONSTRATIONS["KTO, true"][0] | TALKED, data.read_examples)
    assert list(report.ignored) == ["the field messages"]
    _, report = read(tmp_path, FILM, data.read_examples)
    assert list(report.ignored) == [f"the field rejected, {texts.NOT_LEARNED['rejected']}"]
    row = {"prompt": "q", "completion": "c", "label": False, "source": "s"}
    found, report = read(tmp_path, row, data.read_prompts)
    assert found == "q" and list(report.ignored) == [
        f"the field {name}, {texts.ONLY_PROMPTS}" for name in ("completion", "label", "source")
    ]


REFUSED = {
    "KTO for DPO": (
        {"prompt": "q", "completion": "c", "label": True},
        "label are no pair; dpo kto learns",
    ),
    "a ranking": ({"prompt": "q", "responses": ["a"], "ranks": [1]}, "is no pair; --pairs-from"),
    "a label beside a pair": (FILM | {"label": 0}, "label is a verdict that would not be used; "),
    "an input without instruction": (FILM | {"input": "i"}, "input is an instruction that would"),
    "a context": (FILM | {"context": "i"}, "context is an instruction that would not be used; "),
    "tools beside texts": (FILM | {"tools": [{}]}, "write the row as a list of messages"),
    "a capital": (FILM | {"System": "S"}, "System is an instruction that would not be used; "),
    "two prompts": (FILM | {"question": "?"}, "prompt and question differ; leave one"),
    "two systems": (
        {"system": "T", **{s: turns("q", a, system="S") for s, a in PAIR.items()}},
        "differ; leave one of them out",
    ),
    "a system without a prompt": ({"system": "S", **PAIR}, "but no prompt before chosen"),
    "a picture beside the prompt": (FILM | {"images": ["x"]}, "only text is trained on"),
    "messages as text": (
        {"prompt": "q", **{side: str(talk) for side, talk in TALKS.items()}},
        "chosen is a list of messages written as text; write the list itself, in JSON Lines or",
    ),
    "a prompt of messages as text": (
        {"prompt": json.dumps(turns("q")), **PAIR},
        "prompt is a list",
    ),
    "a number as system": (FILM | {"system": 3}, "system must be text, got a number"),
    "a picture": (
        {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}], **PAIR},
        "got a list with a part of type 'image_url'",
    ),
    "ShareGPT's tools": (
        {side: [{"from": "function_call", "value": "f"}] for side in PAIR},
        "message 1 must be from human, gpt, system, got from 'function_call'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_meaning_is_refused_in_one_line(tmp_path, name):
    row, reason = REFUSED[name]
    assert reason in refusal(tmp_path, row)


def test_an_answer_may_be_a_list_of_messages_if_its_rival_is_none(tmp_path):
    """Code for chats: only if both look so, they are messages that a table has made text."""
    found, _ = read(tmp_path, FILM | {"chosen": str(turns("q", "c"))})
    assert found.chosen == str(turns("q", "c"))
    row = {"prompt": "q", "completion": json.dumps(turns("q", "c"))}
    assert "completion is a list of messages" in refusal(tmp_path, row, data.read_examples)
    row = {"messages": turns("q", "c", "q")}
    assert "needs text, prompt and completion, messages with" in refusal(
        tmp_path, row, data.read_examples
    )


def test_a_label_that_is_no_verdict_is_refused(tmp_path):
    row = {"prompt": "q", "completion": "c", "label": "good"}
    assert refusal(tmp_path, row, data.read_examples) == "label must be true or false, got 'good'"


KNOWN = {*columns.INSTRUCTIONS, *columns.VERDICTS, *columns.ANSWERS, "rejected", "output",
         "conversations"}  # fmt: skip
something = st.one_of(
    st.booleans(), st.integers(), st.text(min_size=1), st.lists(st.text(), min_size=1)
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(min_size=1).filter(lambda name: name.lower() not in KNOWN), something)
def test_a_field_that_nobody_named_is_reported_wherever_it_stands(name, value):
    for reading, row in (
        (texts.preference, FILM),
        (texts.preference, TALKS),
        (texts.preference, PREFERENCES["Orca"][0]),
        (texts.example, {"prompt": "q", "completion": "c"}),
        (texts.example, {"messages": turns("q", "c")}),
        (texts.example, {"text": "c"}),
        (texts.prompt_only, {"prompt": "q"}),
    ):
        record = Fields(row | {name: value})
        assert reading(record) == reading(row)
        reported = [line for line in record.ignored if columns.printable(name) in line]
        assert bool(reported) == columns.holds(value) and len(record.ignored) <= 1
        assert all(line.isprintable() for line in record.ignored)


@pytest.mark.parametrize("name", sorted({*columns.INSTRUCTIONS, *columns.VERDICTS}))
def test_a_known_instruction_or_verdict_is_used_or_refused_but_never_only_ignored(name):
    """Used: with another value, or with none, the row is another one."""
    for row in (FILM, TALKS, {"text": "c"}, {"messages": turns("q", "c")}):
        reading = texts.preference if "chosen" in row else texts.example
        record = Fields({**row, name: "something else"})
        try:
            found = reading(record)
        except (Malformed, columns.Useless):
            continue
        if "text" in row and name == "label":  # a class of the text, as in reviews
            assert record.ignored
        else:
            assert found != reading(row)


def test_a_prompt_that_is_empty_in_every_row_is_an_error(tmp_path):
    empty = [{"prompt": "", **PAIR}, {"chosen": "d", "rejected": "e"}, {"query": "q", **PAIR}]
    for rows in (empty, empty[:1]):
        with pytest.raises(DataError) as error:
            data.read_preferences(write(tmp_path, rows))
        assert "is empty in every row; call the field" in one_line(error, f"{tmp_path}/rows.jsonl:")
    for reader, row in (
        (data.read_examples, {"prompt": "", "completion": "c"}),
        (data.read_prompts, {"prompt": ""}),
    ):
        with pytest.raises(DataError, match="the prompt is empty in every row"):
            reader(write(tmp_path, [row]))
    assert data.read_examples(write(tmp_path, [{"text": "c"}]))[1].noted == {}


@pytest.mark.parametrize("blank", ["", " ", "\n", "\u3000"])
def test_an_answer_of_nothing_or_blanks_is_dropped_from_every_shape(tmp_path, blank):
    rows = [FILM, FILM | {"chosen": blank}, FILM | {"rejected": blank},
            {"chosen": turns("a", blank), "rejected": turns("a", "b")}]  # fmt: skip
    _, report = data.read_preferences(write(tmp_path, rows))
    assert report.used == 1 and list(map(len, report.dropped.values())) == [3]
    demonstrations = [{"text": "c"}, {"text": blank}, {"prompt": "q", "completion": blank},
                      {"question": "q", "output": blank}]  # fmt: skip
    _, report = data.read_examples(write(tmp_path, demonstrations))
    assert {reason: len(places) for reason, places in report.dropped.items()} == {
        texts.EMPTY_ANSWER: 3
    }


@pytest.mark.parametrize("row, kind", [
    (PREFERENCES["Orca"][0], "preferences"),
    (DEMONSTRATIONS["KTO, true"][0], "examples"),
    (DEMONSTRATIONS["Alpaca"][0], "examples"),
    (DEMONSTRATIONS["ShareGPT"][0], "examples"),
    ({"question": "q"}, "prompts"),
    ({"messages": turns("q")}, "prompts"),
    ({"instruction": "q", "input": "i", "system": "S"}, "prompts"),
])  # fmt: skip
def test_check_names_the_kind_of_every_shape(tmp_path, row, kind):
    path = write(tmp_path, [row])
    assert data.overview(str(path))[:2] == [f"{path}: {kind}", "1 rows, 1 used"]
    assert json.loads(path.read_text()) == row


@settings(deadline=None)
@given(st.text("abcdefgh_", min_size=1), something, st.lists(st.booleans(), min_size=1, max_size=5))
def test_a_field_that_was_ignored_is_reported_with_exactly_its_rows(
    tmp_path_factory, name, value, with_it
):
    rows = [
        FILM | {"chosen": f" {n}"} | ({name: value} if has else {}) for n, has in enumerate(with_it)
    ]
    path = write(tmp_path_factory.mktemp("fields"), rows)
    found, report = data.read_preferences(path)
    places = [f"{path}:{n}" for n, has in enumerate(with_it, start=1) if has]
    said = {f"the field {name}": places} if places and columns.holds(value) else {}
    assert report.ignored == said and len(report.lines()) == 1 + bool(said)
    assert len(found) == report.used == report.rows == len(rows)


def test_check_shows_what_the_first_row_has_become(tmp_path):
    orca = PREFERENCES["Orca"][0]
    path = write(tmp_path, [orca])
    assert data.overview(str(path))[2:] == [
        f"prompt of the first: {f'S{ASKED}'!r}",
        "chosen of the first: ' c'",
        "rejected of the first: ' r'",
    ]
    shown = data.overview(str(write(tmp_path, [orca | {"question": f"{'q' * 300}\n"}])), CHAT)
    assert "q' ... 'q" in shown[2] and all(len(line.splitlines()) == 1 for line in shown)
    assert shown[2].endswith(repr("q\n<|im_end|>\n<|im_start|>assistant\n")[1:])
    assert shown[3] == "chosen of the first: 'c<|im_end|>\\n'"
    shown = data.overview(str(write(tmp_path, [{"text": "A film."}, {"text": "A plot."}])))
    assert shown[2:] == ["prompt of the first: ''", "completion of the first: 'A film.'"]
    shown = data.overview(str(write(tmp_path, [{"question": "q"}])))
    assert shown[2:] == [f"prompt of the first: {ASKED!r}"]
