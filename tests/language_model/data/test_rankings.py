"""Several scored answers to one prompt, and the pairs that are made of them only on demand."""

import itertools
import math
from typing import get_args

import pyarrow
import pytest
from data_helpers import CHAT, FILM, TOKENIZER, answer, dropped, one_line, turns, write
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dpo_lib.language_model import data
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.shapes import rankings, texts
from dpo_lib.language_model.settings import PairsFrom

ULTRAFEEDBACK = {
    "source": "s",
    "instruction": "q",
    "completions": [
        {"response": "a", "overall_score": 7.5, "critique": "x"},
        {"response": "b", "overall_score": 4, "critique": ""},
        {"response": "c", "overall_score": 7.5},
        {"response": "d", "overall_score": 1},
    ],
}
NECTAR = {
    "prompt": "\n\nHuman: q\n\nAssistant:",
    "answers": [{"answer": f" {a}", "rank": r} for a, r in (("d", 4.0), ("a", 1.0), ("b", 2.0))],
}
PARALLEL = {"prompt": "p", "responses": [" a", " b"], "scores": [0, -1]}
DISTILABEL = {"instruction": "q", "generations": ["b", "a"], "rating": [1.0, 5.0]}
TALKS = {"prompt": turns("q"), "completions": [answer("b"), answer("a")], "ranks": [2, 1]}


def read(folder, rows, pairs_from="all", tokenizer=None):
    found, report = data.read_preferences(write(folder, rows), tokenizer, pairs_from)
    assert report.rows == len(rows) == report.used + dropped(report)
    return [(p.chosen.strip(), p.rejected.strip()) for p in found], report


def refusal(folder, row, pairs_from="all", reader=data.read_preferences) -> str:
    path = write(folder, [row])
    with pytest.raises(DataError) as error:
        reader(path, None, *[pairs_from] * (reader is data.read_preferences))
    return one_line(error, f"{path}").removeprefix(f"{path}").removeprefix(":1").removeprefix(": ")


@pytest.mark.parametrize(
    ("row", "pairs_from", "expected"),
    [
        (ULTRAFEEDBACK, "all", "ab ad cb cd bd"),
        (ULTRAFEEDBACK, "best_and_worst", "ad cd"),
        (ULTRAFEEDBACK, "adjacent", "ab cb bd"),
        (NECTAR, "all", "ab ad bd"),
        (NECTAR, "best_and_worst", "ad"),
        (NECTAR, "adjacent", "ab bd"),
        *(
            (row, choice, "ab")
            for row in (PARALLEL, DISTILABEL, TALKS)
            for choice in rankings.CHOICES
        ),
    ],
)
def test_scored_answers_become_the_pairs_that_were_asked_for(tmp_path, row, pairs_from, expected):
    found, report = read(tmp_path, [row], pairs_from)
    assert sorted(found) == sorted(tuple(pair) for pair in expected.split())
    assert report.used == 1


@pytest.mark.parametrize(
    ("row", "pairs", "tokenizer"),
    [(ULTRAFEEDBACK, ("ab", "cb", "bd"), TOKENIZER), (ULTRAFEEDBACK, ("ab", "cb", "bd"), CHAT),
     (TALKS, ("ab",), CHAT)],
)  # fmt: skip
def test_pairs_have_the_token_ids_of_the_same_pairs_written_out(tmp_path, row, pairs, tokenizer):
    written = [{"prompt": turns("q"), "chosen": answer(c), "rejected": answer(r)} for c, r in pairs]
    ids = []
    for rows in ([row], written):
        found, report = data.read_preferences(write(tmp_path, rows), tokenizer, "adjacent")
        ids.append(data.tokenize_preferences(found, tokenizer, 512, report))
    assert sorted(map(repr, ids[0])) == sorted(map(repr, ids[1])) and len(ids[0]) == len(pairs)


@pytest.mark.parametrize("row", [ULTRAFEEDBACK, NECTAR, PARALLEL, DISTILABEL, TALKS])
def test_without_being_asked_for_no_pair_is_made_and_the_flag_is_named(tmp_path, row):
    assert refusal(tmp_path, row, None) == (
        "a list of answers is no pair; --pairs-from makes pairs of it (all, best_and_worst, "
        "adjacent)"
    )
    assert "no demonstration; write the one to learn" in refusal(
        tmp_path, row, reader=data.read_examples
    )
    prompts, report = data.read_prompts(write(tmp_path, [row]))
    assert prompts[0].strip() in ("p", "Human: q\n\nAssistant:")
    assert any(name in " ".join(report.ignored) for name in rankings.LISTS)


def test_a_report_counts_rows_and_the_pairs_that_they_give(tmp_path):
    tied = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 1]}
    unscored = {"prompt": "p", "responses": ["a", "b"], "scores": [1, None]}
    twins = {"prompt": "p", "responses": ["a", "a ", "a", ""], "ranks": [3, 2, 1, 4]}
    _, report = read(tmp_path, [ULTRAFEEDBACK, FILM, tied, unscored, twins])
    path = tmp_path / "rows.jsonl"
    assert report.lines() == [
        "5 rows, 3 used, giving 8 pairs",
        f"dropped 1: {rankings.TIED} ({path}:3)",
        f"dropped 1: {rankings.UNSCORED} ({path}:4)",
        f"pairs dropped 1: chosen and rejected are identical ({path}:5)",
        f"pairs dropped 3: {texts.EMPTY_ANSWER} ({path}:5, {path}:5, {path}:5)",
        f"noted 2: the prompt is no conversation, unlike others of the file ({path}:2, {path}:5)",
        f"noted 1: contradicts an earlier row ({path}:5)",
        f"ignored 1: the field critique of an answer ({path}:1)",
        f"ignored 1: the field source ({path}:1)",
    ]
    _, report = read(tmp_path, [FILM, {"prompt": "p", "responses": ["", ""], "ranks": [2, 1]}])
    assert report.lines()[0] == "2 rows, 1 used" and report.pairs == {}


def test_pairs_that_are_lost_to_truncation_leave_the_row_used_until_none_is_left(tmp_path):
    row = {"prompt": "p", "responses": ["x film", "x was", "y"], "scores": [3, 2, 1]}
    rows, report = data.read_preferences(write(tmp_path, [row]), TOKENIZER, "all")
    assert len(data.tokenize_preferences(rows, TOKENIZER, 2, report)) == 2
    assert (report.used, report.pairs) == (1, {rows[0].place: 2})
    row["responses"][2] = "x good"
    rows, report = data.read_preferences(write(tmp_path, [row]), TOKENIZER, "all")
    with pytest.raises(DataError, match="1 rows, 0 used; dropped 1: chosen and rejected are equal"):
        data.tokenize_preferences(rows, TOKENIZER, 2, report)


REFUSED = {
    "no scores": ({"responses": ["a", "b"]}, "responses need scores, the larger the better, or "),
    "an order": ({"responses": ["a", "b"], "ranking": [1, 0]}, "ranking does not say which of"),
    "too few": ({"responses": ["a", "b"], "scores": [1]}, "scores must be a list of 2 numbers, as"),
    "no list": ({"responses": ["a", "b"], "scores": 3}, "scores must be a list of 2 numbers, as"),
    "two scales": (PARALLEL | {"ranks": [1, 2]}, "has scores and ranks; leave one of them out"),
    "two scales of one": (
        {"answers": [{"text": "a", "score": 1, "rank": 1}] * 2},
        "answers 1: has score and rank; leave one of them out",
    ),
    "a scale inside, one beside": (
        ULTRAFEEDBACK | {"ratings": [1] * 4},
        "completions have overall_score and ratings; leave one of them out",
    ),
    "two lists": (PARALLEL | {"answers": ["a", "b"]}, "has responses and answers; leave one"),
    "a grade": (PARALLEL | {"scores": ["A", "B"]}, "scores must be a number, got 'A'"),
    "a truth value": (PARALLEL | {"scores": [True, False]}, "scores must be a number, got 'True'"),
    "text": (PARALLEL | {"scores": ["4", "5"]}, "scores must be a number, got '4'"),
    "a number": ({"responses": [1, 2], "scores": [1, 2]}, "responses 1 must be text or an object"),
    "no text": ({"responses": [{"score": 1}] * 2}, "responses 1: has none of response, completion"),
    "an instruction inside": (
        {"responses": [{"text": "a", "score": 1, "system_prompt": "Be rude."}] * 2},
        "responses 1: system_prompt is an instruction that would not be used; ",
    ),
    "a verdict beside": (PARALLEL | {"winner": 1}, "winner is a verdict that would not be used; "),
    "a context beside": (PARALLEL | {"context": "c"}, "context is an instruction that would not"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_ranking_is_refused_in_one_line(tmp_path, name):
    row, reason = REFUSED[name]
    assert reason in refusal(tmp_path, {"prompt": "p"} | row)


def test_a_table_s_nan_is_no_score_and_infinity_no_number(tmp_path):
    path = tmp_path / "rows.parquet"
    for scores, reason in (
        ([math.nan, 1.0], f"{path}: has no row that can be used: 1 rows, 0 used; dropped 1: an "),
        ([-math.inf, 1.0], f"{path}:1: scores must be a number, got '-inf'"),
    ):
        parquet.write_table(pyarrow.Table.from_pylist([PARALLEL | {"scores": scores}]), path)
        with pytest.raises(DataError) as error:
            data.read_preferences(path, None, "all")
        one_line(error, reason)


def test_a_score_may_have_more_digits_than_a_float(tmp_path):
    assert read(tmp_path, [PARALLEL | {"scores": [10**400, 10**400 + 1]}])[0] == [("b", "a")]


def test_a_pair_beside_a_list_of_answers_is_the_one_that_is_used(tmp_path):
    found, report = read(tmp_path, [PARALLEL | FILM])
    assert found == [("good", "bad")]
    assert list(report.ignored) == ["the field responses", "the field scores"]


def test_the_flag_offers_the_choices_and_no_other_is_taken():
    assert list(get_args(PairsFrom)) == list(rankings.CHOICES)
    with pytest.raises(ValueError, match=r"^pairs_from must be one of all, best_and_worst, adj"):
        rankings.choose([1, 2], "some")


@given(st.lists(st.integers(0, 4), max_size=7))
def test_all_pairs_are_those_of_which_one_is_better_and_the_others_are_some_of_them(scores):
    places = range(len(scores))
    better = {(i, j) for i in places for j in places if scores[i] > scores[j]}
    found = {choice: rankings.choose(scores, choice) for choice in rankings.CHOICES}
    assert all(len(pairs) == len(set(pairs)) for pairs in found.values())
    assert set(found["all"]) == better
    assert set(found["best_and_worst"]) == {
        (i, j) for i, j in better if scores[i] == max(scores) and scores[j] == min(scores)
    }
    assert set(found["adjacent"]) == {
        (i, j) for i, j in better if not {*range(scores[j] + 1, scores[i])} & {*scores}
    }


@pytest.mark.parametrize("choice", rankings.CHOICES)
def test_of_rankings_by_plackett_luce_only_all_pairs_have_the_odds_of_bradley_terry(choice):
    """By the sum over all orders of four answers, whose odds are those of their weights."""
    weights = (8.0, 4.0, 2.0, 1.0)
    won = dict.fromkeys(itertools.permutations(range(4), 2), 0.0)
    for order in itertools.permutations(range(4)):
        left = [sum(weights[i] for i in order[n:]) for n in range(4)]
        probability = math.prod(weights[i] / total for i, total in zip(order, left, strict=True))
        scores = [-order.index(i) for i in range(4)]
        for pair in rankings.choose(scores, choice):
            won[pair] += probability
    wrong = [abs(math.log(won[i, j] / won[j, i] * weights[j] / weights[i]))
             for i, j in itertools.combinations(range(4), 2)]  # fmt: skip
    assert (max(wrong) < 1e-12) == (choice == "all") and (choice == "all" or max(wrong) > 0.1)


def test_check_counts_the_pairs_that_a_run_would_see(tmp_path):
    path = str(write(tmp_path, [ULTRAFEEDBACK, NECTAR]))
    lines = data.overview(path, TOKENIZER, pairs_from="all")
    assert lines[:2] == [f"{path}: preferences", "2 rows, 2 used, giving 8 pairs"]
    with pytest.raises(DataError, match="--pairs-from makes pairs of it"):
        data.overview(path)
    path = str(write(tmp_path, [{"prompt": "p", "completion": "c"}, NECTAR]))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: has no field 'chosen'"):
        data.overview(path, pairs_from="all")
