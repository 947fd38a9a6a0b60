"""Texts to token ids. Ids such as B3 name the bug, seen elsewhere, that a test rules out."""

import ast
import hashlib
import random
from pathlib import Path

import pytest
from data_helpers import (
    CHAT,
    END,
    EOS,
    FILM,
    TOKENIZER,
    any_text,
    dropped,
    one_line,
    read_one,
    some_text,
    text_of,
    tiny_tokenizer,
    tokenize,
    turns,
    words,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lib.language_model import data
from dpo_lib.language_model.data import tokens
from dpo_lib.language_model.data.reading import Example, Report
from dpo_lib.language_model.data.rows import DataError
from dpo_lib.language_model.data.tokens import Pair, TokenExample

ROOT = Path(__file__).parents[3]


def test_l3_ties_duplicates_and_contradictions_are_counted_with_their_places(tmp_path):
    turned = FILM | {"chosen": " bad", "rejected": " good"}
    tie = FILM | {"chosen": " bad"}
    path = write(tmp_path, [FILM, FILM, turned, tie])
    found, report = data.read_preferences(path)
    assert (report.rows, report.used, len(found)) == (4, 3, 3)
    assert report.dropped == {"chosen and rejected are identical": [f"{path}:4"]}
    assert report.noted == {
        "repeats an earlier row": [f"{path}:2"],
        "contradicts an earlier row": [f"{path}:3"],
    }


def test_a_report_reads_as_totals_and_reasons_with_their_first_places():
    report = Report(rows=1200, used=1200)
    for number in range(1, 6):
        report.drop("too long", f"f:{number}")
    report.note("odd", "f:7")
    assert report.lines() == [
        "1,200 rows, 1,195 used",
        "dropped 5: too long (f:1, f:2, f:3 and 2 more)",
        "noted 1: odd (f:7)",
    ]


def test_b1_a_prompt_that_ends_in_a_space_is_noted(tmp_path):
    path = write(tmp_path, [FILM, FILM | {"prompt": "The film "}])
    _, report = data.read_preferences(path)
    assert list(report.noted.values()) == [[f"{path}:2"]]
    assert "ends in a space" in next(iter(report.noted))


@settings(deadline=None)  # a busy machine is no failure
@given(prompt=any_text, chosen=some_text, rejected=some_text)
def test_b1_b3_decoded_prompt_and_completions_are_the_text_and_one_eos(prompt, chosen, rejected):
    pairs, report = tokenize([(prompt, chosen, rejected), ("a", "b", "c")], max_length=10_000)
    assert report.rows == report.used + dropped(report)
    if chosen == rejected:
        assert len(pairs) == 1
        return
    assert text_of(pairs[0].prompt) == (prompt or EOS)
    for ids, text in ((pairs[0].chosen, chosen), (pairs[0].rejected, rejected)):
        assert ids[-1] == END and ids.count(END) == 1
        assert text_of(ids[:-1]) == text


@settings(deadline=None)  # a busy machine is no failure
@given(prompt=any_text, other=any_text, completion=some_text)
def test_b1_completion_ids_do_not_depend_on_the_prompt(prompt, other, completion):
    first, second = tokenize([(p, completion, completion + "!") for p in (prompt, other)])[0]
    assert first.chosen == second.chosen
    assert first.chosen[:-1] == tuple(TOKENIZER.encode(completion, split_special_tokens=True))


def test_b2_a_merge_across_the_boundary_never_moves_it():
    """Tokenised together, " film" is one token, and the boundary would fall inside it."""
    (pair,), _ = tokenize([("the fi", "lm", "nd")])
    assert len(TOKENIZER.encode("the film")) < len(pair.prompt) + len(pair.chosen) - 1
    assert (text_of(pair.prompt), text_of(pair.chosen[:-1])) == ("the fi", "lm")


@pytest.mark.parametrize("text", [EOS, f"{EOS}a", f"a{EOS}b", f"a{EOS}", f"a{EOS}{EOS}"])
def test_b3_b5_the_eos_string_in_a_text_is_text_and_the_end_stays_the_end(text):
    (pair,), _ = tokenize([(text, text, "x")])
    assert END not in pair.prompt and pair.chosen.index(END) == len(pair.chosen) - 1
    assert text_of(pair.prompt) == text_of(pair.chosen[:-1]) == text


def test_b3_a_tokenizer_without_eos_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^tokenizer '.*' has no EOS token$"):
        tokenize([("a", "b", "c")], tokenizer=tiny_tokenizer())


def test_b3_an_empty_prompt_is_bos_so_that_the_first_token_can_be_scored():
    assert tokenize([("", "b", "c")])[0][0].prompt == (END,)  # GPT-2's documents start so
    pair = tokenize([("", "b", "c"), ("a", "b", "c")], tokenizer=CHAT)[0]
    assert pair[0].prompt == (CHAT.bos_token_id,) and CHAT.bos_token_id not in pair[1].prompt
    assert data.tokenize_prompts([""], TOKENIZER, 8) == [(END,)]


def test_b3_b4_a_chat_template_gives_one_bos_and_one_eos_and_its_marks_are_tokens(tmp_path):
    row = read_one(tmp_path, {"chosen": turns("a", "b", "c", "d"),
                              "rejected": turns("a", "b", "c", "e")}, CHAT)  # fmt: skip
    (pair,) = data.tokenize_preferences([row], CHAT, 512, Report(1, 1))
    start, end = CHAT.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert pair.prompt[0] == CHAT.bos_token_id and pair.prompt.count(CHAT.bos_token_id) == 1
    assert (pair.prompt.count(start), pair.prompt.count(end)) == (4, 3)
    assert pair.chosen == (*CHAT.encode("d"), end)  # the line feed after it is nobody's token
    (ids,) = data.tokenize_prompts([row.prompt], CHAT, 512)
    assert ids == pair.prompt


@pytest.mark.parametrize("row", [("<s><s>a", "b", "c"), ("a", f"b{'<|im_end|>'}more", "c")])
def test_b3_a_template_with_two_bos_or_text_after_eos_is_refused_with_its_place(row):
    with pytest.raises(DataError, match=r"^f:1: the chat template writes "):
        tokenize([tuple(map(data.Rendered, row))], tokenizer=CHAT)


lengths = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))


@settings(deadline=None)  # a busy machine is no failure
@given(lengths, st.integers(2, 40))
def test_c1_to_c5_truncation_keeps_all_that_fits_and_no_side_looks_at_the_other(sizes, most):
    """C1 something to score is left; C3 sides are cut apart; C4 contiguous; C5 exact overflow."""
    prompt, chosen, rejected = (tuple(range(100 * k, 100 * k + n)) for k, n in enumerate(sizes))
    kept, *sides = tokens.truncate(prompt, chosen, rejected, max_length=most)
    longest = max(len(chosen), len(rejected))
    if len(prompt) >= most:
        assert kept == (prompt[len(prompt) + longest - most :] if longest < most else ())
    else:
        assert kept == prompt
    if kept:
        for side, full in zip(sides, (chosen, rejected), strict=True):
            assert side == full[: min(len(full), most - len(kept))] and side


def test_c1_a_prompt_as_long_as_the_window_keeps_its_answers():
    prompt = words(8) + words(2, " was")
    (pair,), report = tokenize([(prompt, " film was", " was")], max_length=8)
    assert pair.chosen[-1] == pair.rejected[-1] == END
    assert text_of(pair.prompt) == words(3) + words(2, " was")  # 10 + 3 - 8 = 5 tokens lost
    assert report.shortened == {"prompt cut from the left": ["f:1"]}


def test_c2_pairs_that_truncation_makes_equal_are_dropped_and_counted():
    same = (words(5), words(5) + " was", words(5))
    pairs, report = tokenize([same, ("a", " film", " was")], max_length=8)
    assert len(pairs) == 1 and (report.rows, report.used) == (2, 1)
    assert report.dropped == {"chosen and rejected are equal at 8 tokens": ["f:1"]}
    assert report.shortened == {}  # of used rows


def test_c3_each_answer_is_cut_by_its_own_length():
    (pair,), report = tokenize([(words(2), words(9), words(3, " was"))], max_length=6)
    assert (text_of(pair.chosen), text_of(pair.rejected[:-1])) == (words(4), words(3, " was"))
    assert report.shortened == {"chosen cut from the right": ["f:1"]}


def test_c5_a_cut_answer_has_no_eos_and_an_answer_that_just_fits_keeps_it():
    pairs, _ = tokenize([(words(2), words(3), words(4))], max_length=6)
    assert pairs[0].chosen[-1] == END and END not in pairs[0].rejected
    assert len(pairs[0].chosen) == len(pairs[0].rejected) == 4


def test_c1_l2_rows_that_do_not_fit_are_dropped_and_none_left_is_one_line():
    too_long = (words(9), words(9), " was")
    pairs, report = tokenize([too_long, ("a", "b", "c")], max_length=5)
    assert len(pairs) == 1 and report.used == 1 and list(report.dropped.values()) == [["f:1"]]
    with pytest.raises(DataError) as error:
        tokenize([too_long], max_length=5)
    assert "0 used; dropped 1" in one_line(error, "f: has no row that can be used: ")


def test_demonstrations_follow_the_same_rules():
    texts = [("", words(9)), (words(9), " was"), (words(9), words(9)), ("a", EOS)]
    found = [Example(*row, f"f:{n}") for n, row in enumerate(texts, start=1)]
    report = Report(rows=4, used=4)
    first, second, last = data.tokenize_examples(found, TOKENIZER, 6, report)
    film, was = (TOKENIZER.encode(word)[0] for word in (" film", " was"))
    assert first == TokenExample((END,), (film,) * 5)
    assert second == TokenExample((film,) * 4, (was, END))
    assert END not in last.completion  # EOS, written as text, is longer than the window
    assert report.used == 3 and list(report.dropped.values()) == [["f:3"]]
    assert report.shortened == {
        "completion cut from the right": ["f:1", "f:4"],
        "prompt cut from the left": ["f:2"],
    }


def test_prompts_lose_their_beginning_and_are_counted():
    report = Report(2, 2)
    long, short = data.tokenize_prompts([words(5) + " was", "a"], TOKENIZER, 3, report)
    assert text_of(long) == " film film was" and text_of(short) == "a"
    assert report.shortened == {"prompt cut from the left": ["prompt 1"]}


@pytest.mark.parametrize("max_length", [1, 0, -3, True, 2.5])
def test_a_window_without_room_is_refused_by_name(max_length):
    with pytest.raises(ValueError, match=f"^max_length must be .* got {max_length}$"):
        tokenize([("a", "b", "c")], max_length=max_length)


def test_settings_saved_in_the_tokenizer_change_nothing():
    tokenizer = tiny_tokenizer(eos_token=EOS, pad_token=EOS, model_max_length=4)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    assert tokenize([(words(9), " was", EOS)], tokenizer=tokenizer)[0] == tokenize(
        [(words(9), " was", EOS)]
    )[0]  # fmt: skip


def test_the_data_hash_sees_every_id_their_order_and_every_boundary():
    pair = Pair((1, 2), (3,), (4, 5))
    variants = [
        [pair],
        [Pair((1,), (2, 3), (4, 5))],
        [Pair((1, 2), (4, 5), (3,))],
        [pair, pair],
        [pair, Pair((9,), (3,), (4,))],
        [Pair((9,), (3,), (4,)), pair],
        [TokenExample((1, 2), (3,))],
        [(1, 2), (3,)],
        [(1, 2, 3)],
        [],
    ]
    assert len({data.data_hash(items) for items in variants}) == len(variants)
    assert data.data_hash(iter([pair])) == data.data_hash([Pair((1, 2), (3,), (4, 5))])


def test_the_data_hash_is_the_same_in_every_process():
    # the number of parts, then each part's length and ids, as 64-bit little-endian integers
    by_hand = hashlib.sha256(
        b"".join(n.to_bytes(8, "little") for n in (2, 1, 7, 2, 8, 9))
    ).hexdigest()
    assert data.data_hash([TokenExample((7,), (8, 9))]) == by_hand


def test_b5_no_check_is_an_assertion_that_python_o_would_remove():
    for path in Path(data.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def test_a_large_file_is_accounted_for_row_by_row(tmp_path):
    rng = random.Random(0)
    texts = [" good", " bad", " fine"]
    rows_ = [FILM | {"chosen": rng.choice(texts), "rejected": rng.choice(texts)}
             for _ in range(3000)]  # fmt: skip
    found, report = data.read_preferences(write(tmp_path, rows_, "preferences.jsonl.gz"))
    ties = sum(row["chosen"] == row["rejected"] for row in rows_)
    assert (report.rows, len(found), dropped(report)) == (3000, 3000 - ties, ties)
    pairs = data.tokenize_preferences(found, TOKENIZER, 64, report)
    assert len(pairs) == report.used == report.rows - dropped(report)
