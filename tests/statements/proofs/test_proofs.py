from dataclasses import replace
from math import prod

import pytest
from sympy import Rational, exp, log

from dpo_lib.statements import symbolic
from dpo_lib.statements.ledger import mutated
from dpo_lib.statements.proofs import PROOFS, Step
from dpo_lib.statements.symbolic import K, is_zero, total
from dpo_lib.statements.symbolic.any_number import Z, beta, p

WRONG_BLOCKS = {
    "preference for the worse answer": (
        "quantities.bradley_terry",
        lambda a, b: exp(b) / (exp(a) + exp(b)),
        "(1)",
    ),
    "sigmoid mirrored": ("quantities.sigmoid", lambda z: 1 / (1 + exp(z)), "(1)"),
    "chosen and rejected swapped": (
        "quantities.reward_loss",
        lambda a, b: log(1 + exp(a - b)),
        "(2)",
    ),
    "KL without its log": ("quantities.kl", lambda q, p: sum(q) - sum(p), "(3)"),
    "Z without 1 / beta": ("quantities.partition", lambda r, p, beta: sum(map(exp, r)), "(4)"),
    "optimum without the reward": ("quantities.optimal_policy", lambda r, p, beta: tuple(p), "(4)"),
    "implicit reward without beta": (
        "quantities.implicit_reward",
        lambda q, p, beta: symbolic.log_ratio(q, p),
        "(5)",
    ),
    "DPO loss without the reference": (
        "quantities.dpo_loss",
        lambda q, p, beta: log(1 + (q[1] / q[0]) ** beta),
        "(7)",
    ),
    "product instead of ratio": (
        "quantities.log_ratio",
        lambda q, p: tuple(log(a * b) for a, b in zip(q, p, strict=True)),
        "(14)",
    ),
    "Z without the reference": (
        "any_number.Z",
        lambda r: total(lambda j: exp(r(j) / beta)),
        "Theorem 1",
    ),
    "Z without beta": ("any_number.Z", lambda r: total(lambda j: p[j] * exp(r(j))), "Theorem 1"),
    "a choice among all": (
        "any_number.choice",
        lambda r, k: exp(r(k)) / total(lambda j: exp(r(j))),
        "(20)",
    ),
    "a choice by the reward itself": (
        "any_number.choice",
        lambda r, k: r(k) / total(lambda j: r(j), first=k),
        "Lemma 1",
    ),
    "implicit rewards without beta, for any K": (
        "any_number.implicit",
        lambda pi: lambda j: log(pi(j) / p[j]),
        "(24)",
    ),
    "projection by the mean": (
        "any_number.projection",
        lambda r: lambda j: r(j) - total(r) / K,
        "(9)",
    ),
    "projection by Z": ("any_number.projection", lambda r: lambda j: r(j) - Z(r), "(8)"),
    "order of the ranking lost": (
        "quantities.plackett_luce",
        lambda rewards: prod(exp(v) for v in rewards) / sum(map(exp, rewards)) ** len(rewards),
        "(18)",
    ),
}


@pytest.fixture(scope="module", params=PROOFS)
def proof(request):
    return PROOFS[request.param]()


def test_the_statement_holds_and_its_controls_fail(proof):
    proof.check()


def test_every_proof_has_steps_and_controls(proof):
    assert proof.steps
    assert proof.controls


def test_no_control_can_be_proved(proof):
    assert not any(is_zero(control.residual) for control in proof.controls)


def test_a_planted_wrong_step_is_named(proof):
    planted = Step("planted", proof.steps[-1].residual + Rational(1, 10**9))
    with pytest.raises(AssertionError, match="not proved: planted") as error:
        replace(proof, steps=(*proof.steps, planted)).check()
    assert str(error.value).startswith(proof.number)


def test_proofs_are_filed_under_their_numbers():
    assert [prove().number for prove in PROOFS.values()] == list(PROOFS)


def test_a_control_that_happens_to_be_true_is_named():
    proof = PROOFS["(1)"]()
    with pytest.raises(AssertionError, match=r"\(1\) not refuted: planted"):
        replace(proof, controls=(Step("planted", proof.steps[0].residual),)).check()


@pytest.mark.parametrize(("block", "wrong", "number"), WRONG_BLOCKS.values(), ids=WRONG_BLOCKS)
def test_a_wrong_building_block_breaks_its_proof(block, wrong, number):
    with (
        mutated(f"statements.symbolic.{block}", wrong),
        pytest.raises(AssertionError, match="not proved"),
    ):
        PROOFS[number]().check()
