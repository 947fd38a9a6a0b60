from dataclasses import replace

import pytest
import sympy as sp
from sympy import Rational, exp, log, sqrt

from dpo_lib.statements import proofs, symbolic
from dpo_lib.statements.proofs import PROOFS, Step
from dpo_lib.statements.symbolic import answers, differs_from_zero, is_zero, normalised
from dpo_lib.statements.theory import THEORY

x, y = sp.symbols("x y", positive=True)
u, v = sp.symbols("u v", real=True)

DISGUISED_ZEROS = {
    "log of a fraction": log(x * exp(u) / y) - log(x) - u + log(y),
    "log of a sum of exponentials": log(1 + exp(-u)) - log(1 + exp(u)) + u,
    "exponential of a log": exp(u * log(x / y)) - x**u * y ** (-u),
    "two denominators": 1 / (1 + exp(-u)) + 1 / (1 + exp(u)) - 1,
    "difference of squares": (x + y) ** 2 - (x - y) ** 2 - 4 * x * y,
}
NEAR_MISSES = {
    "one part in 10^9": x - x * (1 + Rational(1, 10**9)),
    "log of a sum": log(x + y) - log(x) - log(y),
    "exponential of a product": exp(u * v) - exp(u) * exp(v),
    "sigmoid and its mirror image": symbolic.sigmoid(u) - symbolic.sigmoid(-u),
}
WRONG_BLOCKS = {
    "preference for the worse answer": (
        "bradley_terry",
        lambda a, b: exp(b) / (exp(a) + exp(b)),
        "(1)",
    ),
    "sigmoid mirrored": ("sigmoid", lambda z: 1 / (1 + exp(z)), "(1)"),
    "chosen and rejected swapped": ("reward_loss", lambda a, b: log(1 + exp(a - b)), "(2)"),
    "KL without its log": ("kl", lambda q, p: sum(q) - sum(p), "(3)"),
    "Z without 1 / beta": ("partition", lambda r, p, beta: sum(map(exp, r)), "(4)"),
    "optimum without the reward": ("optimal_policy", lambda r, p, beta: tuple(p), "(4)"),
    "implicit reward without beta": (
        "implicit_reward",
        lambda q, p, beta: symbolic.log_ratio(q, p),
        "(5)",
    ),
    "DPO loss without the reference": (
        "dpo_loss",
        lambda q, p, beta: log(1 + (q[1] / q[0]) ** beta),
        "(7)",
    ),
    "product instead of ratio": (
        "log_ratio",
        lambda q, p: tuple(log(a * b) for a, b in zip(q, p, strict=True)),
        "(14)",
    ),
}


@pytest.fixture(scope="module", params=PROOFS | THEORY)
def proof(request):
    return (PROOFS | THEORY)[request.param]()


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
    for proofs_ in (PROOFS, THEORY):
        assert [prove().number for prove in proofs_.values()] == list(proofs_)


def test_a_control_that_happens_to_be_true_is_named():
    proof = PROOFS["(1)"]()
    with pytest.raises(AssertionError, match=r"\(1\) not refuted: planted"):
        replace(proof, controls=(Step("planted", proof.steps[0].residual),)).check()


@pytest.mark.parametrize(("name", "wrong", "number"), WRONG_BLOCKS.values(), ids=WRONG_BLOCKS)
def test_a_wrong_building_block_breaks_its_proof(monkeypatch, name, wrong, number):
    for module in (symbolic, proofs):
        monkeypatch.setattr(module, name, wrong, raising=False)
    with pytest.raises(AssertionError, match="not proved"):
        PROOFS[number]().check()


@pytest.mark.parametrize("expression", DISGUISED_ZEROS.values(), ids=DISGUISED_ZEROS)
def test_a_disguised_zero_is_proved_and_not_refuted(expression):
    assert is_zero(expression)
    assert not differs_from_zero(expression)


@pytest.mark.parametrize("expression", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_a_near_miss_is_refuted_and_not_proved(expression):
    assert not is_zero(expression)
    assert differs_from_zero(expression)


@pytest.mark.parametrize("expression", [sqrt(u**2) - u, log(u**2) - 2 * log(u)])
def test_what_holds_for_positive_numbers_only_is_not_proved_for_real_ones(expression):
    assert not is_zero(expression)
    assert is_zero(expression.subs(u, x))


@pytest.mark.parametrize("decide", [is_zero, differs_from_zero])
def test_floating_point_numbers_are_refused(decide):
    with pytest.raises(ValueError, match="floating-point"):
        decide(0.1 * x + 0.2 * y)


# Two answers, equally likely under the reference, with rewards beta log 3 and 0: the weights
# exp(r / beta) are 3 and 1, so Z = (3 + 1) / 2 = 2 and pi* = (3/4, 1/4).
HALF = (Rational(1, 2), Rational(1, 2))
OPTIMUM = (Rational(3, 4), Rational(1, 4))


@pytest.mark.parametrize("beta", [Rational(1, 10), Rational(1), Rational(5)])
def test_the_building_blocks_give_the_values_worked_by_hand(beta):
    reward = (beta * log(3), 0)
    assert symbolic.partition(reward, HALF, beta) == 2
    assert symbolic.optimal_policy(reward, HALF, beta) == OPTIMUM
    kl = Rational(3, 4) * log(Rational(3, 2)) + Rational(1, 4) * log(Rational(1, 2))
    assert is_zero(symbolic.kl(OPTIMUM, HALF) - kl)
    assert is_zero(symbolic.objective(OPTIMUM, reward, HALF, beta) - beta * log(2))
    chosen, rejected = symbolic.implicit_reward(OPTIMUM, HALF, beta)
    assert is_zero(chosen - beta * log(Rational(3, 2)))
    assert is_zero(rejected + beta * log(2))
    assert is_zero(symbolic.dpo_loss(OPTIMUM, HALF, beta) - log(1 + 3 ** (-beta)))


def test_preferences_give_the_values_worked_by_hand():
    assert symbolic.bradley_terry(log(3), 0) == Rational(3, 4)
    assert symbolic.sigmoid(log(3)) == Rational(3, 4)
    assert symbolic.softmax((log(3), 0)) == OPTIMUM
    assert is_zero(symbolic.reward_loss(log(3), 0) - log(Rational(4, 3)))


@pytest.mark.parametrize("K", [2, 3, 5])
def test_the_distance_to_the_optimum_is_a_kl_for_any_number_of_answers(K):
    r, p, q, beta = answers(K)
    optimal = symbolic.optimal_policy(r, p, beta)
    best = beta * log(symbolic.partition(r, p, beta))
    residual = symbolic.objective(q, r, p, beta) - best + beta * symbolic.kl(q, optimal)
    assert is_zero(normalised(residual, q))
    assert differs_from_zero(residual)


def test_normalised_makes_each_distribution_sum_to_one_and_leaves_the_others():
    _, p, q, _ = answers()
    assert is_zero(normalised(sum(p) + sum(q) - 2, p, q))
    assert is_zero(normalised(sum(p) + sum(q), p) - 1 - sum(q))
