import itertools

import pytest
import sympy as sp
from sympy import Rational, log

from dpo_lib.statements import symbolic
from dpo_lib.statements.symbolic import (
    answers,
    differs_from_zero,
    is_zero,
    normalised,
    plackett_luce,
)

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


def test_plackett_luce_worked_by_hand():
    # Weights 3, 2, 1: the best of all is 3/6, then the better of the rest 2/3.
    assert plackett_luce((log(3), log(2), sp.S.Zero)) == Rational(1, 3)
    orders = itertools.permutations((log(3), log(2), sp.S.Zero))
    assert sum(map(plackett_luce, orders)) == 1
