"""Sums over all K answers, K a symbol: written, taken apart, and normalised to one.

`total` writes a sum, `collapsed` brings it into a form that can be compared, and `normalised`
adds that probabilities sum to one.
"""

from collections.abc import Callable, Sequence

import sympy as sp
from sympy import Expr, IndexedBase, Sum, Symbol, exp, log

from dpo_lib.statements.symbolic.symbols import K


def total(term: Callable[[Expr], Expr], first: Expr | int = 1) -> Expr:
    """term(first) + ... + term(K), unevaluated, for any K."""
    place = sp.Dummy(integer=True, positive=True)
    summand = term(place)
    taken = {symbol.name for symbol in summand.atoms(Symbol)}  # indices of sums inside this one
    index = _index(next(name for name in "jlmn" if name not in taken))
    return Sum(summand.subs(place, index), (index, first, K))


def _index(name: str) -> Symbol:
    return Symbol(name, integer=True, positive=True)


def expanded(expression: Expr) -> Expr:
    """Multiply out, write x^u as exp(u log x), split logs of products where the signs allow it."""
    powers = expression.replace(
        lambda node: isinstance(node, sp.Pow) and node.exp.free_symbols,
        lambda power: exp(power.exp * log(power.base)),
    )
    return sp.expand(powers.replace(log, lambda argument: log(sp.factor(argument))))


def collapsed(expression: Expr) -> Expr:
    """Write every `total` through basic sums, and every basic sum as one symbol.

    A sum is linear: each summand is multiplied out, its terms are summed apart, and what does
    not depend on the index goes in front. Equal basic sums become equal symbols, positive if all
    their terms are, so that `is_zero` can decide the rest as if K were a number.
    """
    return sp.sympify(expression).replace(lambda node: isinstance(node, Sum), _linear)


def _linear(node: Sum) -> Expr:
    result = node.function
    for index, first, last in node.limits:  # from the inner sum to the outer
        if first == last:
            result = result.subs(index, first)
            continue
        terms = (t.as_independent(index, as_Add=False) for t in sp.Add.make_args(expanded(result)))
        result = sp.Add(
            *(
                front * (last - first + 1 if basic == 1 else _basic(basic, index, first, last))
                for front, basic in terms
            )
        )
    return result


def _basic(term: Expr, index: Symbol, first: Expr, last: Expr) -> Expr:
    """A sum as a symbol named by its content; a function of k where it runs from k to K."""
    outer = sorted(first.free_symbols, key=str)
    canonical = {index: _index("#")} | {k: _index(f"#{n}") for n, k in enumerate(outer)}
    name = str((term.subs(canonical), first.subs(canonical), last))
    signs = {"positive": True} if term.is_positive else {"real": True}
    return sp.Function(name, **signs)(*outer) if outer else Symbol(name, **signs)


def normalised(expression: Expr, *distributions: Sequence[Symbol] | IndexedBase) -> Expr:
    """The expression where each distribution sums to one.

    The last of several probabilities becomes 1 - sum of the others; of an indexed distribution,
    the sum over all K becomes 1.
    """
    # Now, while every probability is known to be positive:
    expression = expanded(collapsed(expression))
    for distribution in distributions:
        if isinstance(distribution, IndexedBase):
            whole = collapsed(total(lambda j: distribution[j]))  # noqa: B023
            expression = expression.subs(whole, 1)
        else:
            *others, last = distribution
            expression = expression.subs(last, 1 - sum(others))
    return expression
