import pytest
import sympy as sp
from sympy import Rational, exp, log, sqrt

from dpo_lib.statements.symbolic import differs_from_zero, is_zero, sigmoid

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
    "sigmoid and its mirror image": sigmoid(u) - sigmoid(-u),
}


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
