"""What a reader's cell is told: proved, refuted at a point, undecided, or where it is broken."""

import re

import pytest
import sympy as sp

from dpo_lib.statements import symbolic
from dpo_lib.statements.proofs import PROOFS
from dpo_lib.statements.symbolic import identities
from dpo_lib.statements.trying import attempt
from dpo_lib.statements.witness import counterexample

SETUP = """\
import sympy as sp
from dpo_lib.statements import symbolic
from dpo_lib.statements.proofs.proof import Proof, Step
from dpo_lib.statements.symbolic import *

r, p, q, beta = answers(3)
"""
PROOF = """\
def prove_mine():
    return Proof("mine", "a test", (Step("a step", {}),), (Step("a slip", {}),))
"""
TANH = "sp.tanh(r[0] / 2) - 2 * sigmoid(r[0]) + 1"  # zero, and sympy does not see it
CELLS = [  # a cell, and how what it is told begins
    ("assert is_zero(sigmoid(r[0]) + sigmoid(-r[0]) - 1)", "Proved: 1 claim."),
    (
        "for x in p:\n    assert is_zero(x - x)\nassert differs_from_zero(p[0] - q[0])",
        "Proved: 3 claims, 1 false claim refuted.",
    ),
    (
        "assert is_zero(sigmoid(r[0]) + sigmoid(-r[0] / beta) - 1)",
        "Refuted at r_1 = 2, beta = 1/2: the two sides of line 1 differ by 0.1.",
    ),
    (
        "x = 1\nassert all(\n    is_zero(y) for y in (0, p[0] - q[0])\n)",
        "Refuted at p_1 = 1/2, q_1 = 1/3: the two sides of line 2 differ by 0.17.",
    ),
    ("is_zero(2 * r[0])", "Refuted at r_1 = 2: the two sides of line 1 differ by 4."),
    ("assert symbolic.is_zero(r[0])", "Refuted at r_1 = 2: the two sides of line 1 differ by 2."),
    ("assert not is_zero(r[0] - r[0])", "Refuted: line 1 does not hold."),
    ("assert not is_zero(r[0])\nassert is_zero(0)", "Proved: 1 claim."),
    (
        "assert differs_from_zero(r[0] - r[0])",
        "Refuted: line 1 says that two sides differ, and they are equal.",
    ),
    ("assert sp.diff(r[0]) == 2", "Refuted: line 1 does not hold, sp.diff(r[0]) == 2"),
    (f"assert is_zero({TANH})", "Undecided: sympy does not prove line 1, "),
    (f"assert differs_from_zero({TANH})", "Undecided: line 1 is neither proved nor refuted."),
    ("r[0] - r[0]", "The cell ran and claimed nothing: write assert is_zero(left - right)."),
    ("y = 1\nnothing", "NameError on line 2: name 'nothing' is not defined"),
    ("assert is_zero(r[0]", "SyntaxError on line 1: '(' was never closed"),
    ("assert is_zero(0.5 * r[0])", "ValueError on line 1: floating-point numbers prove nothing"),
    ("raise SystemExit(3)", "SystemExit on line 1: 3"),
    (PROOF.format("r[0] - r[0]", "r[0]"), "Proved: 1 claim, 1 false claim refuted."),
    (
        PROOF.format("r[0]", "r[0]"),
        "Refuted at r_1 = 2: the two sides of “a step” differ by 2.",
    ),
    (
        PROOF.format("0", "0"),
        "Refuted: “a slip” says that two sides differ, and they are equal.",
    ),
]


@pytest.mark.parametrize(("cell", "said"), CELLS)
def test_a_cell_is_told_what_became_of_its_claims(cell, said):
    verdict = attempt(SETUP, cell)
    assert verdict.sentence.startswith(said)
    word = re.match(r"\w+", verdict.sentence)[0].lower()
    words = {"proved", "refuted", "undecided"}
    assert verdict.word == (word if word in words else "undecided" if word == "the" else "error")


def test_what_was_printed_is_not_lost_when_a_claim_fails():
    verdict = attempt(SETUP, "print('half way')\nassert is_zero(r[0])\nprint('never')")
    assert (verdict.word, verdict.printed) == ("refuted", "half way\n")


def test_an_error_in_the_set_up_is_told_apart():
    said = attempt("1 / 0", "").sentence
    assert said == "ZeroDivisionError in the set-up, line 1: division by zero"


def test_the_two_questions_are_themselves_again_afterwards():
    before = symbolic.is_zero, identities.differs_from_zero
    attempt(SETUP, "1 / 0")
    assert (symbolic.is_zero, identities.differs_from_zero) == before


def test_the_point_of_a_refutation_gives_the_difference_that_is_told():
    r, p, q, beta = symbolic.answers(3)
    wrong = symbolic.objective(q, r, p, beta) - symbolic.expectation(q, r)
    point, size = counterexample(wrong)
    assert abs(wrong.subs(point).evalf()) == pytest.approx(size)
    assert sum(point[x] for x in p) == sum(point[x] for x in q) == 1


def test_sums_over_any_number_of_answers_are_refuted_at_three():
    r, _, q, _ = symbolic.answers_of_any_number()
    mean = symbolic.total(lambda j: q[j] * r[j])
    wrong = symbolic.normalised(mean - symbolic.total(lambda j: q[j]) * r[1], q)
    point, size = counterexample(wrong)  # `normalised` has made symbols of sums
    values = {str(symbol): value for symbol, value in point.items()}
    means = sum(values[f"q[{n}]"] * values[f"r[{n}]"] for n in (1, 2, 3))
    assert abs(means - values["r[1]"]) == pytest.approx(size)


def test_undefined_functions_get_slopes():
    x = sp.Symbol("x", real=True)
    f, g = (sp.Function(name, real=True)(x) for name in "fg")
    point, size = counterexample(sp.diff(f, x) - sp.diff(g, x))
    assert size == 1 and len(point) == 2


def test_no_point_is_claimed_for_what_vanishes():
    x = sp.Symbol("x", real=True)
    assert counterexample(sp.tanh(x / 2) - (1 - sp.exp(-x)) / (1 + sp.exp(-x))) is None


@pytest.mark.parametrize("number", ["(1)", "(5)", "(9)"])
def test_a_proof_of_the_library_is_proved(number):
    prove = PROOFS[number]
    cell = f"from {prove.__module__} import {prove.__name__}"
    assert attempt("", cell).word == "proved"
