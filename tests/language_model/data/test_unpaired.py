"""Rows of prompt, completion and label: all accounted for, and each beside another's answer."""

import json
from collections import Counter

import pytest
from data_helpers import (
    CHAT,
    END,
    FILM,
    TOKENIZER,
    answer,
    dropped,
    one_line,
    text_of,
    turns,
    words,
    write,
)
from hypothesis import given
from hypothesis import strategies as st

from dpo_lib.language_model import data
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.tokens import data_hash
from dpo_lib.language_model.data.unpaired import (
    Answers,
    Labelled,
    TokenLabelled,
    counted,
    imbalance,
    mismatched,
    read_labelled,
    require_both,
    tokenize_labelled,
)

GOOD = {"prompt": "The film was", "completion": " good", "label": True}
BAD = {"prompt": "The film was", "completion": " bad", "label": False}


def read(folder, *rows, tokenizer=None):
    return read_labelled(write(folder, rows), tokenizer)


def triples(found):
    return [(one.prompt, one.completion, one.label) for one in found]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        *((label, True) for label in (True, 1, "true", "True", " 1 ")),
        *((label, False) for label in (False, 0, "false", "0")),
    ],
)
def test_a_label_is_a_truth_value_however_it_is_written(tmp_path, label, wanted):
    found, report = read(tmp_path, GOOD | {"label": label})
    assert triples(found) == [("The film was", " good", wanted)]
    assert report.lines() == ["1 rows, 1 used"]


def test_a_pair_is_two_answers_and_the_report_says_so(tmp_path):
    found, report = read(tmp_path, FILM, GOOD | {"completion": " long"}, FILM | {"prompt": "A"})
    assert triples(found) == [
        ("The film was", " good", True),
        ("The film was", " bad", False),
        ("The film was", " long", True),
        ("A", " good", True),
        ("A", " bad", False),
    ]
    assert report.lines() == ["3 rows, 3 used, giving 5 answers"]
    assert counted(found) == "3 desirable and 2 undesirable answers"


TALK = [
    {"prompt": turns("q"), "completion": answer("c"), "label": False},
    {"messages": turns("q", "c"), "label": False},
    {"question": "q", "output": "c", "label": "0"},
]


@pytest.mark.parametrize("row", TALK, ids=lambda row: next(iter(row)))
def test_conversations_go_through_the_chat_template(tmp_path, row):
    found, _ = read(tmp_path, row, tokenizer=CHAT)
    rendered = "<s><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert triples(found) == [(rendered, "c<|im_end|>\n", False)]


def test_a_pair_of_conversations_is_two_of_them(tmp_path):
    pair = {"chosen": turns("q", "c"), "rejected": turns("q", "r")}
    found, _ = read(tmp_path, pair, tokenizer=CHAT)
    assert [one.label for one in found] == [True, False]
    assert found[0].prompt == found[1].prompt and found[1].completion.startswith("r")


def test_csv_rows_have_labels_too(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label\nq, a,True\nq, b,0\n")
    found, _ = read_labelled(path)
    assert triples(found) == [("q", " a", True), ("q", " b", False)]


def test_l3_blank_answers_are_dropped_repeated_and_contradicted_ones_are_noted(tmp_path):
    rows = [GOOD, GOOD, GOOD | {"label": 0}, GOOD | {"completion": "  "}, FILM | {"chosen": " bad"}]
    path = write(tmp_path, [*rows, BAD | {"source": "s"}])
    found, report = read_labelled(path)
    assert len(found) == 4 and (report.rows, report.used, dropped(report)) == (6, 4, 2)
    assert report.noted == {
        "repeats an earlier row": [f"{path}:2"],
        "contradicts an earlier row": [f"{path}:3"],
    }
    assert report.ignored == {"the field source": [f"{path}:6"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "completion": "c"}, "has no field 'label'; KTO learns from prompt, comp"),
        ({"prompt": "q", "completion": "c", "label": None}, "has no field 'label'; KTO learns"),
        ({"prompt": "q", "label": True}, "has a label and no completion; KTO learns from"),
        ({"text": "A film.", "label": 1}, "has a label and no completion; KTO learns from"),
        ({"completion": "c", "label": True}, "has no field 'prompt'"),
        (GOOD | {"label": "good"}, "label must be true or false, got 'good'"),
        (GOOD | {"label": 2}, "label must be true or false, got '2'"),
        (GOOD | {"label": ""}, "label must be true or false, got ''"),
        (GOOD | {"context": "c"}, "context is an instruction that would not be used; "),
        (GOOD | {"winner": 1}, "winner is a verdict that would not be used; "),
        (FILM | {"label": 1}, "label is a verdict that would not be used; "),
        (GOOD | {"completion": 3}, "completion must be text, got a number"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]}, "a list of answers has no la"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_row_that_would_be_misread_is_refused_with_its_place(tmp_path, row, message):
    path = write(tmp_path, [GOOD, row])
    with pytest.raises(DataError) as error:
        read_labelled(path)
    assert one_line(error, f"{path}:2: {message}")


def test_dpo_and_reward_say_who_learns_from_labels(tmp_path):
    with pytest.raises(DataError, match="completion and label are no pair; dpo kto learns from th"):
        data.read_preferences(write(tmp_path, [GOOD]))


@pytest.mark.parametrize("row", [GOOD, BAD])
def test_labels_that_are_all_the_same_are_refused(tmp_path, row):
    found, _ = read(tmp_path, row, row | {"prompt": "A"})
    with pytest.raises(DataError) as error:
        require_both("f", found)
    one_line(error, "f: has ")
    assert "and KTO needs both; dpo sft learns from good ones alone" in str(error.value)
    require_both("f", [*found, Labelled("q", "c", not row["label"], "f:3")])


def tokens(*rows, max_length=64, pairs=None):
    found = [Labelled(*row, f"f:{n}") for n, row in enumerate(rows, start=1)]
    report = data.reading.Report(rows=len(found), used=len(found))
    return tokenize_labelled(found, TOKENIZER, max_length, report), report


def test_an_answer_ends_in_eos_and_keeps_its_label_when_others_are_dropped():
    rows = [(words(9), words(9), True), ("the", " film", False), ("the", " bad", True)]
    found, report = tokens(*rows, max_length=5)
    assert [(text_of(one.prompt), one.label) for one in found] == [("the", False), ("the", True)]
    assert all(one.completion[-1] == END for one in found)
    assert report.used == 2 and dropped(report) == 1


def test_a_pair_of_which_one_answer_is_too_long_gives_the_other(tmp_path):
    rows = [FILM | {"prompt": words(4), "chosen": words(30)}, FILM]
    found, report = read(tmp_path, *rows)
    items = tokenize_labelled(found, TOKENIZER, 4, report)
    assert [item.label for item in items] == [False, True, False]
    assert report.lines()[0] == "2 rows, 2 used, giving 3 answers"
    assert report.lines()[1].startswith("answers dropped 1: the prompt is too long beside an")


def test_the_hash_of_the_data_sees_a_turned_label():
    items, _ = tokens(("a", " b", True), ("a", " c", False))
    turned = [items[0], items[1].relabelled()]
    assert len({data_hash(items), data_hash(turned), data_hash(items[::-1])}) == 3
    assert data_hash(items) == data_hash(tokens(("a", " b", True), ("a", " c", False))[0])


def item(prompt, completion, label=True):
    return TokenLabelled((prompt,), (completion,), label)


def test_where_prompts_differ_each_gets_the_answer_before_it():
    """As TRL rotates within a micro-batch: (x_1, y_n), (x_2, y_1), ..."""
    assert mismatched([item(n, 10 * n) for n in range(1, 5)], 9) == [
        ((1,), (40,)),
        ((2,), (10,)),
        ((3,), (20,)),
        ((4,), (30,)),
    ]


def test_the_sides_of_pairs_get_those_of_the_pair_before():
    """One place back would set every rejected answer beside its own prompt."""
    pairs = [item(n, 10 * n + side) for n in range(1, 4) for side in (0, 1)]
    assert mismatched(pairs, 9) == [
        ((1,), (30,)), ((1,), (31,)), ((2,), (10,)), ((2,), (11,)), ((3,), (20,)), ((3,), (21,)),
    ]  # fmt: skip


@given(st.lists(st.integers(0, 4), min_size=2, max_size=14))
def test_every_answer_is_used_once_and_none_beside_its_own_prompt_if_it_can_be_helped(prompts):
    items = [item(prompt, 100 + n) for n, prompt in enumerate(prompts)]
    found = mismatched(items, 9)
    assert [prompt for prompt, _ in found] == [one.prompt for one in items]
    others = [completion[0] - 100 for _, completion in found]
    assert sorted(others) == list(range(len(items)))
    assert all(other != n for n, other in enumerate(others))
    beside_its_own = [n for n, other in enumerate(others) if prompts[other] == prompts[n]]
    if max(Counter(prompts).values()) <= len(prompts) / 2:
        assert beside_its_own == []


def test_another_s_answer_is_cut_to_what_the_prompt_leaves():
    items = [TokenLabelled((1,) * 7, (2,), True), TokenLabelled((1,), (3, 4, 5, 6), False)]
    assert mismatched(items, 9) == [((1,) * 7, (3, 4)), ((1,), (2,))]
    assert mismatched([], 9) == []
    answers = Answers(items, 9)
    assert answers.tokens([0, 1]) == 8 + 5 and answers.labels.tolist() == [True, False]


def test_weights_outside_one_to_four_thirds_are_named_with_what_would_do():
    found = [item(n, n, n < 8) for n in range(10)]  # 8 good, 2 bad
    assert imbalance(found, 1.0, 1.0) == (
        "desirable answers weigh 4 times the others, at desirable_weight 1 and undesirable_weight "
        "1; the paper advises 1 to 1.33 times: --desirable-weight 0.25 to 0.333, or "
        "--undesirable-weight 3 to 4"
    )
    for good, bad in ((0.25, 1), (0.333, 1), (1, 3), (1, 4), (2, 6.5)):
        assert imbalance(found, good, bad) is None
    for good, bad in ((0.24, 1), (0.35, 1), (1, 4.2), (1, 2.8)):
        assert "the paper advises" in imbalance(found, good, bad)
    assert imbalance(found[6:], 1.0, 1.0) is None  # 2 and 2


def test_check_says_what_kto_would_train_on_below_what_sft_would(tmp_path):
    path = write(tmp_path, [GOOD, BAD, BAD | {"completion": " dull"}])
    plain = data.overview(str(path))
    assert plain[:3] == [
        f"{path}: examples",
        "3 rows, 1 used",
        f"dropped 2: label is false, and a bad answer is not learned ({path}:2, {path}:3)",
    ]
    said = ["for dpo kto: 3 rows, 3 used", "for dpo kto: 1 desirable and 2 undesirable answers"]
    assert plain[-2:] == said
    assert data.overview(str(path), TOKENIZER)[-2:] == said
    path = write(tmp_path, [GOOD, GOOD | {"prompt": "A"}])
    assert data.overview(str(path))[-1].startswith(f"for dpo kto: {path}: has 2 desirable and 0 un")
    path = write(tmp_path, [GOOD, {"prompt": "q", "completion": " c"}])
    assert data.overview(str(path))[-1].startswith(f"for dpo kto: {path}:2: has no field 'label'")


@pytest.mark.parametrize(
    "row", [{"prompt": "q", "completion": " c"}, FILM, {"text": "a", "label": 1}]
)
def test_check_says_nothing_of_kto_where_there_are_no_labelled_answers(tmp_path, row):
    assert not any("dpo kto" in line for line in data.overview(str(write(tmp_path, [row]))))


def test_a_folder_is_read_by_its_pairs(tmp_path):
    (tmp_path / "preferences.jsonl").write_text(json.dumps(FILM) + "\n")
    found, _ = read_labelled(tmp_path)
    assert [one.place for one in found] == [f"{tmp_path}/preferences.jsonl:1"] * 2
