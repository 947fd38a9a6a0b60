import re
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from dpo_lib import fitting as training
from dpo_lib import losses, objective, preferences
from dpo_lib.statements import ledger, mutants
from dpo_lib.statements.ledger import cases, holds, mutated, noticed
from dpo_lib.statements.paper import LEDGER
from dpo_lib.statements.proofs import PROOFS
from dpo_lib.statements.theory import THEORY

BOOK = Path(__file__).parents[2] / "book"
# The statements in the order in which the paper makes them, then its slips.
NUMBERS = (
    """
(1); (2); Normalised reward; (3); PPO reward
(4); Z; (5); (6); (7); DPO gradient; DPO outline
Definition 1; Lemma 1; Lemma 2; Theorem 1; (8); (9); (10)
(11); (12); Valid distribution; (13); (14); (15); (16); (17); (18); (19); (20); (21); (22)
(23); (24); (25); Proposition 1
Slip in A.4; Slip in 5.2; Slip on Table 3
""".strip()
    .replace("\n", "; ")
    .split("; ")
)
CASES = list(cases(200, seed=1))
statements = pytest.mark.parametrize("statement", LEDGER, ids=lambda statement: statement.number)


def resolve(statement):
    module, name = statement.function.split(".")
    return getattr(import_module(f"dpo_lib.{module}"), name)


def test_the_ledger_holds_every_statement_once_in_the_paper_s_order():
    assert [statement.number for statement in LEDGER] == NUMBERS


def test_the_numbered_equations_run_from_1_to_25_without_a_gap():
    numbered = {int(n[1:-1]) for n in NUMBERS if re.fullmatch(r"\(\d+\)", n)}
    assert numbered == set(range(1, 26))


def test_every_proof_belongs_to_a_statement_and_says_its_number():
    assert sorted(PROOFS | THEORY) == sorted(NUMBERS)
    assert not PROOFS.keys() & THEORY.keys()
    assert [statement.proof().number for statement in LEDGER] == NUMBERS


@statements
def test_no_field_of_a_row_is_empty(statement):
    assert all(getattr(statement, field.name) for field in fields(statement))
    for piece in (statement.proof, statement.property, statement.mutant):
        assert piece.__doc__


@statements
def test_the_function_exists_and_says_what_it_computes(statement):
    assert callable(resolve(statement))
    assert resolve(statement).__doc__


@statements
def test_the_chapter_exists_and_names_the_statement(statement):
    text = (BOOK / f"{statement.chapter}.ipynb").read_text()
    if re.fullmatch(r"\(\d+\)", statement.number):
        named = rf"\\\\tag\{{{statement.number[1:-1]}\}}|{re.escape(statement.number)}"
        assert re.search(named, text)


@statements
def test_the_property_holds_on_two_hundred_worlds(statement):
    for case in CASES:
        statement.property(case)


@statements
def test_the_mutant_breaks_exactly_the_checks_that_the_ledger_names(statement):
    caught = noticed(statement, LEDGER, CASES[:20])
    assert caught.keys() == statement.noticed_by
    assert min(caught.values()) > 10  # not by a rare accident
    assert all(holds(other, case) for other in LEDGER for case in CASES[:1])  # taken back


def test_each_mutant_differs_from_the_library_and_serves_a_statement():
    used = [statement.mutant for statement in LEDGER]
    ours = {f for f in vars(mutants).values() if getattr(f, "__module__", "") == mutants.__name__}
    assert set(used) == ours
    assert not [s.number for s in LEDGER if s.mutant.__module__ == resolve(s).__module__]


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


def test_cases_repeat_and_cover_what_they_promise():
    again = list(cases(200, seed=1))
    assert all(a.world.log_ref.equal(b.world.log_ref) for a, b in zip(CASES, again, strict=True))
    assert {case.world.prompts for case in CASES} == set(range(1, 11))
    assert {2, 50} <= {case.world.responses for case in CASES} <= set(range(2, 51))
    assert min(case.beta for case in CASES) < 0.1 < 10 < max(case.beta for case in CASES)
    assert all(0.05 <= case.beta <= 20 for case in CASES)
    assert any(case.impossible.any() for case in CASES)


def test_a_case_ranks_each_possible_response_once():
    for case in CASES:
        possible = (~case.impossible).sum(-1)
        assert (possible == case.ranking.shape[-1]).all() and case.ranking.shape[-1] >= 2
        assert not case.impossible.gather(-1, case.ranking).any()
        assert (case.ranking.sort(-1).values.diff(dim=-1) > 0).all()


def test_a_run_reports_what_it_checked():
    (outcome,) = ledger.run(LEDGER[2:3], count=5, mutant_count=4)
    proof = LEDGER[2].proof()
    assert (outcome.steps, outcome.controls) == (len(proof.steps), len(proof.controls))
    assert outcome.statement.number == "Normalised reward"
    assert outcome.cases == 5
    assert outcome.caught == {"Normalised reward": 4}


def test_the_table_and_the_words_show_every_outcome():
    outcomes = ledger.run(LEDGER[2:3], count=5, mutant_count=4)
    assert ledger.table(outcomes, 4).endswith("| 3 | 2 | 5 | 4 of 4 | 1 |")
    assert "noticed here only" in ledger.details(outcomes)


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
