"""A point at which an expression that should vanish does not: numbers that a reader can check."""

import re
from itertools import count

import sympy as sp
from sympy import Expr, IndexedBase, Rational, Symbol

from dpo_lib.statements.symbolic.identities import _unrolled
from dpo_lib.statements.symbolic.symbols import ANSWER, K

# Any first few of these add up to less than 1, so that 1 - p_1 - p_2 is a probability too.
PARTS = [Rational(1, n) for n in (2, 3, 7, 43, 1807)]
REALS = [sp.Integer(n) for n in (2, 1, -1, 3, -2, 4, -3)]
DIGITS, LEAST = 30, Rational(1, 10**15)


def counterexample(expression: Expr) -> tuple[dict[Symbol, Expr], float] | None:
    """Symbols with their values, and the size of a non-zero expression there; None if none is found.

    Where the number of answers is a symbol it is 3.
    """
    places = {s: n for n, s in enumerate(_places(expression), start=1)} | {K: 3, ANSWER: 2}
    whole = _unrolled(sp.sympify(expression).subs(places)).doit()
    symbols = whole.free_symbols - {base.label for base in whole.atoms(IndexedBase)}
    names = sorted(symbols, key=lambda symbol: (bool(symbol.is_positive), str(symbol)))
    for point in (_readable(names), _primes(names)):
        value = whole.subs(point).evalf(DIGITS)
        if value.is_number and value.is_extended_real and value.is_finite and abs(value) > LEAST:
            return point, float(abs(value))
    return None


def _places(expression: Expr) -> list[Symbol]:
    """The integer symbols, which name answers, other than K and ANSWER."""
    return sorted((s for s in expression.free_symbols - {K, ANSWER} if s.is_integer), key=str)


def _readable(symbols: list[Symbol]) -> dict[Symbol, Expr]:
    """Rewards 2, 1, -1, ... and probabilities 1/2, 1/3, ..., no two tables of them alike."""
    point, tables = {}, {}
    reals = iter([*REALS, *map(sp.Integer, range(5, 5 + len(symbols)))])
    for symbol in symbols:
        if symbol.is_positive:
            table = re.sub(r"_?\d+$|\[.*", "", str(symbol))
            tables.setdefault(table, []).append(symbol)
        else:
            point[symbol] = next(reals)
    for turn, table in zip(count(), tables.values()):
        parts = [*PARTS, *(Rational(1, 2000 + n) for n in range(len(table)))]
        parts = parts[: max(3, len(table))]
        point |= {s: parts[(n + turn) % len(parts)] for n, s in enumerate(table)}
    return point


def _primes(symbols: list[Symbol]) -> dict[Symbol, Expr]:
    """1/5, 1/7, 1/11, ...: small enough for what only holds near 0."""
    return {s: Rational(1, sp.prime(n)) for n, s in enumerate(symbols, start=3)}


def in_words(point: dict[Symbol, Expr]) -> str:
    """A point as it is said: r_1 = 2, beta = 1/2."""
    return ", ".join(f"{symbol} = {value}" for symbol, value in point.items())
