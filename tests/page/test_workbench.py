import re

import pytest

from dpo_lib.page.workbench import workbench


def test_the_sentence_and_the_table_hold_the_numbers_of_chapter_5():
    found = workbench([2, 1, 0], [0.2, 0.3, 0.5], names=["best", "middle", "worst"])
    assert found.sentence() == (
        "At β = 1 the best policy gives best 0.529, middle 0.292, worst 0.179: expected reward "
        "1.350, KL 0.323 nats, so the objective is 1.027 = β log Z."
    )
    assert "<td>−0.027</td>" in found._repr_html_()


def test_while_the_book_is_built_it_carries_its_world_for_the_page(monkeypatch):
    monkeypatch.setenv("DPO_BOOK_BUILD", "1")
    text = workbench([1e6, 0], [1, 3], 0.5, ['"<b>"', "no"], [[0, 2], [1, 0]], "loss")._repr_html_()
    for part in ('rewards="1000000,0"', 'ref="1,3"', 'beta="0.5"', 'wins="0,2;1,0"', 'view="loss"'):
        assert f"data-{part}" in text
    assert "<b>" not in text and "<svg" not in text
    assert '<p class="dpo-title">' in text  # what numbers it


def test_in_a_notebook_it_has_a_picture_and_says_how_to_change_it(monkeypatch):
    monkeypatch.delenv("DPO_BOOK_BUILD", raising=False)
    text = workbench([1, 0], [0.5, 0.5])._repr_html_()
    assert "<svg" in text and "run it again" in text


def test_a_world_without_labels_in_the_view_of_the_loss_gets_ten_for_each_pair():
    assert workbench([1, 0], [1, 1], view="loss").wins.tolist() == [[[0, 7], [3, 0]]]


def test_labels_on_an_answer_that_the_reference_never_gives_have_no_loss():
    said = workbench([1, 0], [1, 0], wins=[[0, 1], [1, 0]], view="loss").sentence()
    assert said.startswith("There is no loss: the labels compare answer 2, which the reference")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"reward": [1]}, "reward needs 2 to 6 answers, got 1"),
        ({"reward": [1, float("nan")]}, "reward must be finite, got nan at (1,)"),
        ({"ref": [1, 1, 1]}, "reward, ref and names need one length, got 2, 3 and 2"),
        ({"ref": [1, -1]}, "ref must be at least 0 and not all 0, got [1.0, -1.0]"),
        ({"ref": [0, 0]}, "ref must be at least 0 and not all 0, got [0.0, 0.0]"),
        ({"beta": 0}, "beta must be a positive, finite number, got 0"),
        ({"names": ["a&b", "c"]}, "names must do without , ; & = # %, got 'a&b'"),
        ({"wins": [[0, 1]]}, "wins needs shape (2, 2), got (1, 2)"),
        ({"wins": [[1, 1], [0, 0]]}, "no answer wins against itself, got [1.0, 0.0]"),
        ({"view": "pie"}, "view must be one of optimum, preferences, loss, fibre, got 'pie'"),
        ({"view": "fibre"}, "view 'fibre' needs three answers, got 2"),
    ],
)
def test_bad_input_gets_one_clear_line(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        workbench(**({"reward": [1, 0], "ref": [1, 1]} | wrong))
