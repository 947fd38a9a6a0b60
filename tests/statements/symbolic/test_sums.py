import sympy as sp
from sympy import exp

from dpo_lib.statements.symbolic import (
    ANSWER,
    K,
    answers,
    answers_of_any_number,
    collapsed,
    differs_from_zero,
    is_zero,
    normalised,
    total,
)
from dpo_lib.statements.symbolic.any_number import Z, reward

r, p, q, beta = answers_of_any_number()
i = ANSWER
c = sp.Symbol("c", real=True)


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
    assert collapsed(Z(reward)).is_positive
    assert collapsed(total(reward)).is_positive is None
    assert collapsed(total(reward)).is_real


def test_normalised_makes_each_distribution_sum_to_one_and_leaves_the_others():
    _, p, q, _ = answers()
    assert is_zero(normalised(sum(p) + sum(q) - 2, p, q))
    assert is_zero(normalised(sum(p) + sum(q), p) - 1 - sum(q))


def test_only_the_named_distribution_sums_to_one():
    expression = total(lambda j: p[j]) + total(lambda j: q[j]) - 2
    assert is_zero(normalised(expression, p, q))
    assert not is_zero(normalised(expression, p))
