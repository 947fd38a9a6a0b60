import itertools
from math import prod

import pytest
import sympy as sp
from sympy import Rational, exp, log

from dpo_lib.statements import theory
from dpo_lib.statements.symbolic import (
    ANSWER,
    K,
    answers_of_any_number,
    collapsed,
    differs_from_zero,
    is_zero,
    normalised,
    total,
)
from dpo_lib.statements.theory import (
    choice,
    optimum,
    plackett_luce,
    projection,
    ranking_logp,
    reward,
)

r, p, q, beta = answers_of_any_number()
i = ANSWER
c = sp.Symbol("c", real=True)
WRONG = {
    "Z without the reference": ("Z", lambda r: total(lambda j: exp(r(j) / beta)), "Theorem 1"),
    "Z without beta": ("Z", lambda r: total(lambda j: p[j] * exp(r(j))), "Theorem 1"),
    "a choice among all": (
        "choice",
        lambda r, k: exp(r(k)) / total(lambda j: exp(r(j))),
        "(20)",
    ),
    "a choice by the reward itself": (
        "choice",
        lambda r, k: r(k) / total(lambda j: r(j), first=k),
        "Lemma 1",
    ),
    "implicit reward without beta": ("implicit", lambda pi: lambda j: log(pi(j) / p[j]), "(24)"),
    "projection by the mean": (
        "projection",
        lambda r: lambda j: r(j) - total(r) / K,
        "(9)",
    ),
    "projection by Z": ("projection", lambda r: lambda j: r(j) - theory.Z(r), "(8)"),
    "order of the ranking lost": (
        "plackett_luce",
        lambda rewards: prod(exp(v) for v in rewards) / sum(map(exp, rewards)) ** len(rewards),
        "(18)",
    ),
}


@pytest.mark.parametrize(("name", "wrong", "number"), WRONG.values(), ids=WRONG)
def test_a_wrong_building_block_breaks_its_proof(monkeypatch, name, wrong, number):
    monkeypatch.setattr(theory, name, wrong)
    with pytest.raises(AssertionError, match="not proved"):
        theory.THEORY[number]().check()


@pytest.mark.parametrize("answers", [1, 2, 5])
def test_for_each_number_of_answers_the_indexed_blocks_are_the_plain_sums(answers):
    def plain(expression):
        return expression.subs(K, answers).doit()

    weights = [p[j] * exp(r[j] / beta) for j in range(1, answers + 1)]
    assert is_zero(plain(theory.Z(reward)) - sum(weights))
    assert is_zero(plain(optimum(reward)(1)) - weights[0] / sum(weights))
    rewards = tuple(r[j] for j in range(1, answers + 1))
    assert is_zero(plain(exp(ranking_logp(reward))) - plackett_luce(rewards))


def test_plackett_luce_worked_by_hand():
    # Weights 3, 2, 1: the best of all is 3/6, then the better of the rest 2/3.
    assert plackett_luce((log(3), log(2), sp.S.Zero)) == Rational(1, 3)
    orders = itertools.permutations((log(3), log(2), sp.S.Zero))
    assert sum(map(plackett_luce, orders)) == 1


def test_a_sum_is_linear_and_its_index_has_no_name():
    twice = total(lambda j: 2 * p[j] + 3 * r[j] + 5)
    assert is_zero(twice - 2 * total(lambda m: p[m]) - 3 * total(lambda j: r[j]) - 5 * K)
    assert is_zero(total(lambda j: p[j] * exp(c)) - exp(c) * total(lambda j: p[j]))


def test_sums_over_different_ranges_are_different():
    whole, rest = total(lambda j: p[j]), total(lambda j: p[j], first=2)
    assert not is_zero(whole - rest)
    assert differs_from_zero(whole - rest)
    assert not is_zero(total(lambda j: p[j], first=i) - total(lambda j: p[j], first=i + 1))


def test_any_integer_symbol_may_name_an_answer():
    k = sp.Symbol("k", integer=True, positive=True)
    assert not differs_from_zero(total(lambda j: p[j], first=k) - p[3])  # k is 3 there
    assert differs_from_zero(r[k] - r[i])


def test_a_sum_inside_a_sum_keeps_its_own_index():
    double = total(lambda k: p[k] * total(lambda j: q[j]))
    assert is_zero(double - total(lambda j: p[j]) * total(lambda j: q[j]))
    tails = total(lambda k: total(lambda j: p[j], first=k))
    assert is_zero(tails - total(lambda k: total(lambda j: p[j], first=k)))
    at_three = p[1] + 2 * p[2] + 3 * p[3]
    assert not differs_from_zero(tails - at_three)  # K is 3 there
    assert differs_from_zero(tails - at_three - p[1])


def test_a_product_inside_a_sum_is_not_the_product_of_sums():
    mixed = total(lambda j: p[j] * q[j]) - total(lambda j: p[j]) * total(lambda j: q[j])
    assert not is_zero(mixed)
    assert differs_from_zero(mixed)


def test_a_constant_summed_from_k_to_the_last_counts_the_places():
    assert is_zero(total(lambda j: sp.S.One, first=i) - (K - i + 1))
    assert is_zero(total(lambda j: p[j], first=K) - p[K])


def test_a_collapsed_sum_is_positive_only_if_its_terms_are():
    assert collapsed(theory.Z(reward)).is_positive
    assert collapsed(total(reward)).is_positive is None
    assert collapsed(total(reward)).is_real


def test_only_the_named_distribution_sums_to_one():
    expression = total(lambda j: p[j]) + total(lambda j: q[j]) - 2
    assert is_zero(normalised(expression, p, q))
    assert not is_zero(normalised(expression, p))


def test_the_slope_of_the_soft_value_in_beta_is_minus_a_divergence_for_any_number_of_answers():
    soft_value = beta * log(theory.Z(reward))
    star = optimum(reward)
    kl = total(lambda j: star(j) * log(star(j) / p[j]))
    assert is_zero(sp.diff(soft_value, beta) + kl)
    assert differs_from_zero(sp.diff(soft_value, beta) - kl)


def test_the_projection_of_equal_rewards_is_zero():
    flat = projection(lambda j: c)
    assert is_zero(normalised(flat(i), p))
    assert is_zero(choice(lambda j: c, i) - 1 / (K - i + 1))
