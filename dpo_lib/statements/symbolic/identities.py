"""The two questions asked of an identity: is it proved, is it refuted.

`is_zero` proves that an expression vanishes identically, `differs_from_zero` that it does not.
"""

import sympy as sp
from sympy import Expr, IndexedBase, Rational, Sum

from dpo_lib.statements.symbolic.sums import collapsed, expanded
from dpo_lib.statements.symbolic.symbols import ANSWER, K


def is_zero(expression: Expr) -> bool:
    """Whether sympy proves that an expression is identically zero.

    Logs and exponentials are taken apart, sums are written through basic ones (`collapsed`),
    everything is put over one denominator, and the numerator is multiplied out. False means
    "not proved"; `differs_from_zero` refutes.

    Raises:
        ValueError: if the expression contains a floating-point number.
    """
    expression = collapsed(_exact(expression))
    numerator, _ = sp.fraction(sp.together(expanded(expression)))
    return expanded(numerator) == 0


def differs_from_zero(expression: Expr) -> bool:
    """Whether an expression is non-zero at one point: symbols by name are 1/5, 1/7, 1/11, ...

    A symbolic number of answers K is 3 there, ANSWER is 2, and two other integer symbols, which
    name answers too, are 3 and 1. The value has 30 correct digits and must exceed 1e-20 in size,
    so True refutes an identity.

    Raises:
        ValueError: if the expression contains a floating-point number.
    """
    expression = _exact(expression)
    others = sorted((s for s in expression.free_symbols - {K, ANSWER} if s.is_integer), key=str)
    places = {K: 3, ANSWER: 2} | {symbol: 3 - 2 * n for n, symbol in enumerate(others[:2])}
    expression = _unrolled(expression.subs(places)).doit()
    # An indexed symbol such as r[1] counts as one symbol; its base alone is none.
    symbols = expression.free_symbols - {base.label for base in expression.atoms(IndexedBase)}
    values = {
        symbol: Rational(1, sp.prime(n))
        for n, symbol in enumerate(sorted(symbols, key=str), start=3)
    }
    return bool(abs(expression.subs(values).evalf(30)) > Rational(1, 10**20))


def _unrolled(expression: Expr) -> Expr:
    """Write out every sum whose limits are numbers, the outer ones first."""

    def is_ready(node):
        return isinstance(node, Sum) and all(limit.is_Integer for limit in node.limits[-1][1:])

    def write_out(node):
        *inner, (index, first, last) = node.limits
        body = Sum(node.function, *inner) if inner else node.function
        return sp.Add(*(body.subs(index, n) for n in range(first, last + 1)))

    while expression.has(Sum):
        expression = expression.replace(is_ready, write_out)
    return expression


def _exact(expression: Expr) -> Expr:
    expression = sp.sympify(expression)
    if expression.has(sp.Float):
        raise ValueError(f"floating-point numbers prove nothing, got {expression}")
    return expression
