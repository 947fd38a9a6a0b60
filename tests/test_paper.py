from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from dpo_lib import losses, objective, paper, preferences, training
from dpo_lib.paper import LEDGER, cases, holds, mutated
from dpo_lib.proofs import PROOFS

BOOK = Path(__file__).parents[1] / "book"
# The statements in the order in which the paper makes them.
STATEMENTS = (
    "(1) (2) (3) | PPO reward | (4) | Z | (5) (6) (7) | DPO gradient | "
    "(11) (12) (13) (14) (15) (16) (17) (21) (22)"
)
NUMBERS = [
    number
    for part in STATEMENTS.split(" | ")
    for number in (part.split() if part.startswith("(") else [part])
]
CASES = list(cases(200, seed=1))
statements = pytest.mark.parametrize("statement", LEDGER, ids=lambda statement: statement.number)


def resolve(statement):
    module, name = statement.function.split(".")
    return getattr(import_module(f"dpo_lib.{module}"), name)


def test_the_ledger_holds_every_statement_once_in_the_paper_s_order():
    assert [statement.number for statement in LEDGER] == NUMBERS


def test_every_statement_has_its_proof():
    assert set(PROOFS) == set(NUMBERS)
    assert [statement.proof.number for statement in LEDGER] == NUMBERS


@statements
def test_no_field_of_a_row_is_empty(statement):
    assert all(getattr(statement, field.name) for field in fields(statement))
    assert statement.property.__doc__
    assert statement.mutant.__doc__


@statements
def test_the_function_exists_and_says_what_it_computes(statement):
    assert callable(resolve(statement))
    assert resolve(statement).__doc__


@statements
def test_the_chapter_exists(statement):
    assert (BOOK / f"{statement.chapter}.ipynb").is_file()


@statements
def test_the_property_holds_on_two_hundred_worlds(statement):
    for case in CASES:
        statement.property(case)


@statements
def test_the_mutant_is_caught(statement):
    with mutated(statement.function, statement.mutant):
        caught = sum(not holds(statement, case) for case in CASES[:40])
    assert caught > 20  # not by a rare accident
    assert all(holds(statement, case) for case in CASES[:5])


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
    possible = [(~case.world.log_ref.isneginf()).sum(-1) for case in CASES]
    assert all((count >= 2).all() for count in possible)
    assert any(
        (count < case.world.responses).any() for count, case in zip(possible, CASES, strict=True)
    )
    assert {case.world.prompts for case in CASES} == {1, 2, 3, 4}
    assert {case.world.responses for case in CASES} == set(range(2, 9))
    assert min(case.beta for case in CASES) < 0.1 < 10 < max(case.beta for case in CASES)
    assert all(0.05 <= case.beta <= 20 for case in CASES)


def run_with(monkeypatch, **changes):
    monkeypatch.setattr(paper, "LEDGER", [replace(LEDGER[0], **changes)])
    return paper.run(count=5)


def test_a_run_reports_what_it_checked(monkeypatch):
    (outcome,) = run_with(monkeypatch)
    proof = LEDGER[0].proof
    assert (outcome.steps, outcome.controls) == (len(proof.steps), len(proof.controls))
    assert outcome.statement.number == "(1)"
    assert outcome.cases == outcome.caught == 5


def test_a_run_refuses_a_mutant_that_nobody_notices(monkeypatch):
    with pytest.raises(AssertionError, match=r"\(1\): its mutant passes on all 5 worlds"):
        run_with(monkeypatch, mutant=preferences.bradley_terry)


def test_a_run_refuses_a_property_that_fails(monkeypatch):
    def fails(case):
        raise AssertionError("planted")

    with pytest.raises(AssertionError, match="planted"):
        run_with(monkeypatch, property=fails)
