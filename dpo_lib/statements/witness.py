"""A point at which an expression that should vanish does not: numbers that a reader can check."""

import re

import sympy as sp
from sympy import Expr, IndexedBase, Rational, Sum, Symbol
from sympy.core.function import AppliedUndef

from dpo_lib.statements.symbolic.identities import _unrolled
from dpo_lib.statements.symbolic.symbols import ANSWER, K, answers_of_any_number

THREE = [Rational(1, n) for n in (2, 3, 6)]  # probabilities: they add up to 1
REALS = [2, 1, -1, 3, -2]
X = Symbol("x")
DIGITS, LEAST = 30, Rational(1, 10**15)
SUM = re.compile(r"\((.*), (\d+), K\)")  # the name that `collapsed` gives to a sum over answers


def counterexample(expression: Expr) -> tuple[dict[Expr, Expr], float] | None:
    """Symbols with their values, and the size of a non-zero expression there; None if not found.

    Where the number of answers is a symbol it is 3, and undefined functions are 2x, 3x, ...
    """
    whole = sp.sympify(expression)
    whole = whole.subs({s: _decoded(s) for s in whole.free_symbols if SUM.fullmatch(str(s))})
    functions = sorted({node.func for node in whole.atoms(AppliedUndef)}, key=str)
    if any("#" in str(function) for function in functions):
        return None  # sums from k to K, which are no functions of their own
    lines = {function: n * X for n, function in enumerate(functions, start=2)}
    for function, line in lines.items():
        whole = whole.replace(function, sp.Lambda(X, line))
    whole = _for_three_answers(whole.doit() if lines else whole)
    symbols = whole.free_symbols - {base.label for base in whole.atoms(IndexedBase)}
    names = sorted(symbols, key=lambda symbol: (bool(symbol.is_positive), str(symbol)))
    for point in (_readable(names), _primes(names)):
        value = whole.subs(point).evalf(DIGITS)
        if value.is_number and value.is_extended_real and value.is_finite and abs(value) > LEAST:
            said = {function(X): line for function, line in lines.items()}
            return said | point, float(abs(value))
    return None


def _for_three_answers(expression: Expr) -> Expr:
    """Sums written out; symbols that name answers stand for some of the three."""
    others = sorted((s for s in expression.free_symbols - {K, ANSWER} if s.is_integer), key=str)
    places = {K: 3, ANSWER: 2} | dict(zip(others, (3, 1), strict=False))
    return _unrolled(expression.subs(places)).doit()


def _decoded(symbol: Symbol) -> Expr:
    """The sum that a symbol stands for after `normalised`: its name holds the summand."""
    text, first = SUM.fullmatch(str(symbol)).groups()
    index = Symbol("j", integer=True, positive=True)
    known = {str(base): base for base in answers_of_any_number()}
    for letter in re.findall(r"\b(\w+)\[", text):
        known.setdefault(letter, IndexedBase(letter, real=True))
    for name in set(re.findall(r"\b[A-Za-z]\w*\b(?![\[(])", text)):
        known.setdefault(name, Symbol(name, real=True))
    return Sum(sp.parse_expr(text.replace("#", "j"), known | {"j": index}), (index, int(first), K))


def _readable(symbols: list[Symbol]) -> dict[Symbol, Expr]:
    """Rewards 2, 1, -1, ... and probabilities 1/2, 1/3, 1/6, no two tables of them alike."""
    point, tables = {}, {}
    for symbol in symbols:
        if symbol.is_positive:
            tables.setdefault(re.sub(r"_?\d+$|\[.*", "", str(symbol)), []).append(symbol)
        else:
            turn, place = divmod(len(point), len(REALS))
            point[symbol] = sp.Integer(REALS[place] + 5 * turn)
    for turn, table in enumerate(tables.values()):
        parts = THREE if len(table) <= 3 else [Rational(1, n) for n in range(5, 5 + len(table))]
        point |= {s: parts[(n + turn) % len(parts)] for n, s in enumerate(table)}
    return point


def _primes(symbols: list[Symbol]) -> dict[Symbol, Expr]:
    """1/5, 1/7, 1/11, ...: small enough for what only holds near 0."""
    return {s: Rational(1, sp.prime(n)) for n, s in enumerate(symbols, start=3)}


def in_words(point: dict[Expr, Expr]) -> str:
    """A point as it is said: r_1 = 2, beta = 1/2."""
    return ", ".join(f"{symbol} = {value}" for symbol, value in point.items())
