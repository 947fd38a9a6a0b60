from dataclasses import replace

import pytest

from dpo_lib import fitting as training
from dpo_lib import losses, objective, preferences
from dpo_lib.statements import ledger
from dpo_lib.statements.ledger import LEDGER, mutated


def test_a_mutant_takes_every_place_of_its_function_and_gives_each_back():
    places = [(objective, "implicit_reward"), (losses, "implicit_reward"),
              (training, "implicit_reward")]  # fmt: skip
    original = objective.implicit_reward

    def mutant(*_):
        return None

    with mutated("objective.implicit_reward", mutant):
        assert all(getattr(*place) is mutant for place in places)
    assert all(getattr(*place) is original for place in places)


def test_a_mutant_is_taken_back_after_an_error_too():
    original = preferences.bradley_terry
    with pytest.raises(KeyError), mutated("preferences.bradley_terry", lambda *_: None):
        assert objective.bradley_terry is not original
        raise KeyError
    assert objective.bradley_terry is preferences.bradley_terry is original


def test_a_run_reports_what_it_checked():
    (outcome,) = ledger.run(LEDGER[2:3], count=5, mutant_count=4)
    proof = LEDGER[2].proof()
    assert (outcome.steps, outcome.controls) == (len(proof.steps), len(proof.controls))
    assert outcome.statement.number == "Normalised reward"
    assert outcome.cases == 5
    assert outcome.caught == {"Normalised reward": 4}


def test_the_table_and_the_words_show_every_outcome():
    outcomes = ledger.run(LEDGER[2:3], count=5, mutant_count=4)
    assert ledger.table(outcomes, 4).endswith("| 3 | 2 | 5 | 4 of 4 | 1 | not asked |")
    assert "noticed here only\n- *kernel:* not asked" in ledger.details(outcomes)


def test_a_run_refuses_a_mutant_that_nobody_notices():
    planted = replace(LEDGER[0], mutant=preferences.bradley_terry)
    with pytest.raises(AssertionError, match=r"\(1\): its mutant breaks \[\], not \['\(1\)'"):
        ledger.run([planted], count=5)


def test_a_run_refuses_a_mutant_that_breaks_more_than_the_ledger_names():
    planted = replace(LEDGER[0], noticed_by=frozenset({"(1)"}))
    with pytest.raises(AssertionError, match=r"\(1\): its mutant breaks .*'\(6\)'"):
        ledger.run([planted, *LEDGER[1:10]], count=5)


def test_a_run_refuses_a_property_that_fails():
    def fails(case):
        raise AssertionError("planted")

    with pytest.raises(AssertionError, match="planted"):
        ledger.run([replace(LEDGER[0], property=fails)], count=5)
