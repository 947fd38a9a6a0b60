import re
from dataclasses import fields
from importlib import import_module

import pytest
from conftest import ROOT

from dpo_lib.statements import LEDGER, PROOFS
from dpo_lib.statements.ledger import cases, holds, mutants, noticed

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
    assert list(PROOFS) == NUMBERS
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
    text = (ROOT / f"book/{statement.chapter}.ipynb").read_text()
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
