import pytest
import sympy as sp
from sympy import exp, log

from dpo_lib.statements.symbolic import (
    K,
    differs_from_zero,
    is_zero,
    normalised,
    plackett_luce,
    total,
)
from dpo_lib.statements.symbolic.any_number import (
    Z,
    beta,
    c,
    choice,
    i,
    optimum,
    p,
    projection,
    r,
    ranking_logp,
    reward,
)


@pytest.mark.parametrize("answers", [1, 2, 5])
def test_for_each_number_of_answers_the_indexed_blocks_are_the_plain_sums(answers):
    def plain(expression):
        return expression.subs(K, answers).doit()

    weights = [p[j] * exp(r[j] / beta) for j in range(1, answers + 1)]
    assert is_zero(plain(Z(reward)) - sum(weights))
    assert is_zero(plain(optimum(reward)(1)) - weights[0] / sum(weights))
    rewards = tuple(r[j] for j in range(1, answers + 1))
    assert is_zero(plain(exp(ranking_logp(reward))) - plackett_luce(rewards))


def test_the_slope_of_the_soft_value_in_beta_is_minus_a_divergence_for_any_number_of_answers():
    soft_value = beta * log(Z(reward))
    star = optimum(reward)
    kl = total(lambda j: star(j) * log(star(j) / p[j]))
    assert is_zero(sp.diff(soft_value, beta) + kl)
    assert differs_from_zero(sp.diff(soft_value, beta) - kl)


def test_the_projection_of_equal_rewards_is_zero():
    flat = projection(lambda j: c)
    assert is_zero(normalised(flat(i), p))
    assert is_zero(choice(lambda j: c, i) - 1 / (K - i + 1))
