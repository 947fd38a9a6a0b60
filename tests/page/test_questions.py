"""Questions as Python makes them: their words, their data, and what they refuse."""

import json
import math
import re
from collections import Counter

import fast_path
import pytest
import torch
from conftest import ROOT

from dpo_lib.page.questions import arrange, ask, blanks, predict, recall, revisit
from dpo_lib.page.questions.spaced import BANK
from dpo_lib.page.questions.words import number, rich, shuffled

CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("[0-9]*.ipynb"))
FORM = {"see-it-small", "the-statement", "the-derivation", "in-code", "the-experiment",
        "where-it-breaks"}  # fmt: skip
ROWS = [pytest.param(row, id=row.name) for name in sorted(BANK) for row in BANK[name]()]


def test_without_javascript_there_are_the_question_its_choices_and_a_folded_answer():
    page = ask("which", "Which?", "two", choices=("one", "two"), hint="Count.")._repr_html_()
    words = page.partition("<script")[0]
    assert "<p>Which?</p>" in words and "<li>one</li><li>two</li>" in words
    assert '<details class="dpo-hint"><summary>Hint</summary><p>Count.</p>' in words
    assert '<details class="dpo-answer"><summary>Answer</summary><p>two</p>' in words
    assert " open" not in words


def test_a_plain_text_view_has_the_question_and_not_the_answer():
    asked = ask("how-much", "How much?", 0.5329)
    assert repr(asked) == "Question: How much?"


def test_nothing_in_a_text_ends_its_script_or_becomes_markup():
    evil = "</script><b>&amp;"
    page = ask("evil", evil, evil, slips={"other": evil}, choices=(evil, "other"))._repr_html_()
    assert page.count("</script>") == 1 and "<b>" not in page
    data = json.loads(re.search(r"<script[^>]*>(.*?)</script>", page)[1])
    assert data["choices"][0] == "&lt;/script&gt;&lt;b&gt;&amp;amp;"


def test_mathematics_waits_for_a_notebook_and_is_marked_on_a_built_page(monkeypatch):
    assert rich("$a<b$ `x`") == "$a&lt;b$ <code>x</code>"
    assert rich("[Chapter 1](01_preferences.ipynb#in-code)") == (
        '<a href="01_preferences.ipynb#in-code">Chapter 1</a>'
    )
    monkeypatch.setenv("DPO_BOOK_BUILD", "1")
    assert rich("$a<b$") == r'<span class="math notranslate nohighlight">\(a&lt;b\)</span>'
    assert 'href="01_preferences.html"' in rich("[Chapter 1](01_preferences.ipynb)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5329, "0.533"), (-0.5, "−0.5"), (300000, "300000"), (12345.6, "12300"), (2.0, "2")],
)
def test_a_number_is_shown_as_a_reader_would_write_it(value, shown):
    assert number(value) == shown


def test_a_result_is_told_with_its_reason_and_waits_for_what_was_said():
    predict("share-of-best", "Which share?", low=0, high=1, unit="of 1")
    seen = revisit("share-of-best", torch.tensor(0.5329), "the tilt says so.")
    assert repr(seen) == "It is 0.533 of 1, because the tilt says so."
    assert '<span class="dpo-said">It</span> is <strong>0.533 of 1</strong>' in seen._repr_html_()
    predict("who-wins", "Who?", choices=("A", "B"))
    assert repr(revisit("who-wins", "B", "so.")) == repr(revisit("who-wins", 1, "so."))
    assert repr(revisit("who-wins", 1, "so.")) == "The answer is “B”, because so."


def test_a_turned_sign_and_a_bare_percentage_are_known_slips():
    slips = {round(value, 9) for value, _, _ in ask("share", "?", 0.25).data["slips"]}
    assert slips == {-0.25, 25.0}
    assert [value for value, _, _ in ask("large", "?", 3.0).data["slips"]] == [-3.0]
    told = ask("told", "?", 0.25, slips={"my own words": -0.25}).data["slips"]
    assert [says for value, _, says in told if value < 0] == ["my own words"]


REFUSED = {
    "a name with capitals": ("is like a-over-c", lambda: predict("Name", "?")),
    "one choice": ("two or more", lambda: predict("name", "?", choices=("a",))),
    "a choice twice": ("each of them once", lambda: ask("name", "?", "a", choices=("a", "a"))),
    "an answer that is no choice": (
        "none of the choices",
        lambda: ask("name", "?", "c", choices=("a", "b")),
    ),
    "a place that is no choice": (
        "none of the choices",
        lambda: ask("name", "?", 2, choices=("a", "b")),
    ),
    "the right choice as a slip": (
        "among the slips",
        lambda: ask("name", "?", 0, {"a": "why"}, choices=("a", "b")),
    ),
    "a slip as near as the answer": (
        "cannot be told",
        lambda: ask("name", "?", 1.0, {"why": 1.015}),
    ),
    "two slips that cannot be told apart": (
        "cannot be told",
        lambda: ask("name", "?", 1.0, {"x": 2.0, "y": 2.01}),
    ),
    "percent as a unit": ("ask for the fraction", lambda: ask("name", "?", 53, unit="%")),
    "a result without its prediction": (
        "run its cell first",
        lambda: revisit("never-asked", 1.0, "so."),
    ),
    "a step twice": ("each of them once", lambda: arrange("name", "?", ("a", "b", "a"))),
    "a wrong step that is right": (
        "each of them once",
        lambda: arrange("name", "?", ("a", "b"), {"a": "why"}),
    ),
    "a gap without an answer": (
        "but 1 answers",
        lambda: blanks("name", "?", "[1] [2]", ("a", "b"), ("a",)),
    ),
    "an answer that is no option": (
        "not among the options",
        lambda: blanks("name", "?", "[1]", ("a", "b"), ("c",)),
    ),
    "a slip that is no option": (
        "not among the options",
        lambda: blanks("name", "?", "[1]", ("a", "b"), "a", {"c": "why"}),
    ),
    "a right filling as a slip": (
        "is the right filling",
        lambda: blanks("n", "?", "[1]", ("a", "b"), "a", {(1, "a"): "why"}),
    ),
}


@pytest.mark.parametrize(("words", "call"), REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_judged_is_refused(words, call):
    with pytest.raises(ValueError, match=words):
        call()


def test_steps_are_never_offered_in_their_right_order_and_always_in_the_same():
    for size in range(2, 6):
        steps = [str(step) for step in range(size)]
        for name in map(str, range(200)):
            assert shuffled(steps, name) != steps
            assert sorted(shuffled(steps, name)) == steps
            assert shuffled(steps, name) == shuffled(steps, name)


def test_a_puzzle_s_data_name_the_right_order_in_what_is_offered():
    data = arrange("order", "?", ("first", "second", "third"), {"never": "because"}).data
    assert [data["steps"][place] for place in data["answer"]] == ["first", "second", "third"]
    assert {data["steps"][place]: why for place, why in data["slips"].items()} == {
        "never": "because"
    }
    data = blanks("gaps", "?", "[2] of [1]", ("a", "b", "c"), ("a", "b"),
                  {"c": "no", (2, "c"): "not here", "b": "too far"}).data  # fmt: skip
    assert [data["options"][place] for place in data["answer"]] == ["a", "b"]
    a, b, c = map(data["options"].index, "abc")
    assert data["slips"] == {f"0/{c}": "no", f"1/{c}": "not here", f"0/{b}": "too far"}
    assert a != b


def test_the_bank_has_two_questions_of_every_chapter_under_names_of_their_own():
    assert sorted(BANK) == CHAPTERS
    names = Counter(row.name for name in BANK for row in BANK[name]())
    assert max(names.values()) == 1
    assert all(len(BANK[name]()) >= 2 for name in BANK)


@pytest.mark.parametrize("row", ROWS)
def test_each_question_of_the_bank_knows_why_a_wrong_answer_tempts_and_where_the_right_one_is(row):
    says = row.data["slips"]
    words = says.values() if isinstance(says, dict) else [slip[2] for slip in says]
    assert len(words) >= 2 and all(len(text) > 8 for text in words)
    if row.kind == "choice":
        assert len(says) == len(row.data["choices"]) - 1  # every wrong choice is explained
    home, section = re.search(r"\((\w+)\.ipynb(?:#([\w-]+))?\)", row.answer).groups()
    assert row.name in {asked.name for asked in BANK[home]()}
    assert section is None or section in FORM


@pytest.mark.parametrize("chapter", CHAPTERS[2:])
def test_a_chapter_recalls_two_earlier_ones_and_on_the_fast_path_only_pages_of_it(chapter):
    asked = recall(chapter).questions
    homes = [re.search(r"\((\w+)\.ipynb", question.answer)[1] for question in asked]
    assert len(homes) == 2 and all(home < chapter for home in homes)
    assert chapter not in fast_path.PATH or set(homes) <= set(fast_path.PATH)


def test_no_question_of_the_bank_is_asked_in_two_chapters():
    asked = Counter(q.name for chapter in CHAPTERS[2:] for q in recall(chapter).questions)
    assert max(asked.values()) == 1
    with pytest.raises(ValueError, match="asks nothing"):
        recall("00_start")


def test_the_numbers_of_the_bank_are_those_of_the_chapters():
    known = {row.name: row.data["answer"] for name in BANK for row in BANK[name]()}
    weights = [0.2 * math.exp(2), 0.3 * math.exp(1), 0.5]
    wanted = {
        "recall-gap": 1 / (1 + math.exp(-2)),
        "recall-eighty": math.log(4),
        "recall-always-best": 2 + math.log(0.2),
        "recall-tilt": weights[0] / (weights[0] + 0.8),
        "recall-read-off": math.log(2),
        "recall-weight": 1 - math.exp(-0.1),
        "recall-projection": 2 - math.log(sum(weights)),
        "recall-ranking-start": math.log(24),
        "recall-best-of-two": 1 - 0.8**2,
        "recall-ipo": 0.3,
        "recall-credit": 0.6,
        "recall-bytes": 1.6,
        "recall-floor": -math.log(1 / (1 + math.exp(-0.5))),
    }
    assert {name: known[name] for name in wanted} == pytest.approx(wanted)
