"""The paper's quantities in sympy, and the two questions asked of an identity.

`is_zero` proves that an expression vanishes identically, `differs_from_zero` that it does not.
There is one prompt with K answers. K is a number for the blocks that take sequences; for any K
at once, `answers_of_any_number` gives indexed symbols, to be added up with `total`. The chapters
write their algebra with these building blocks, and `proofs` and `theory` the whole chain.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import sympy as sp
from sympy import Expr, IndexedBase, Rational, Sum, Symbol, exp, log


def is_zero(expression: Expr) -> bool:
    """Whether sympy proves that an expression is identically zero.

    Logs and exponentials are taken apart, sums are written through basic ones (`collapsed`),
    everything is put over one denominator, and the numerator is multiplied out. False means
    "not proved"; `differs_from_zero` refutes.

    Raises:
        ValueError: if the expression contains a floating-point number.
    """
    expression = collapsed(_exact(expression))
    numerator, _ = sp.fraction(sp.together(_expand(expression)))
    return _expand(numerator) == 0


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


def _expand(expression: Expr) -> Expr:
    """Multiply out, write x^u as exp(u log x), split logs of products where the signs allow it."""
    powers = expression.replace(
        lambda node: isinstance(node, sp.Pow) and node.exp.free_symbols,
        lambda power: exp(power.exp * log(power.base)),
    )
    return sp.expand(powers.replace(log, lambda argument: log(sp.factor(argument))))


class Answers(NamedTuple):
    """Symbols for the K answers to one prompt: rewards are real, everything else is positive."""

    reward: tuple[Symbol, ...]  # r_1, ..., r_K
    ref: tuple[Symbol, ...]  # p_1, ..., p_K: probabilities under the reference
    policy: tuple[Symbol, ...]  # q_1, ..., q_K: probabilities under the policy
    beta: Symbol


def answers(K: int = 3) -> Answers:
    """Symbols for K answers. Probabilities need not sum to one: that is what `normalised` adds."""
    return Answers(
        reward=sp.symbols(f"r_1:{K + 1}", real=True),
        ref=sp.symbols(f"p_1:{K + 1}", positive=True),
        policy=sp.symbols(f"q_1:{K + 1}", positive=True),
        beta=Symbol("beta", positive=True),
    )


K = Symbol("K", integer=True, positive=True)  # any number of answers
ANSWER = Symbol("i", integer=True, positive=True)  # any one of them


class AnyAnswers(NamedTuple):
    """Indexed symbols for K answers, K a symbol: reward[1], ..., reward[K] and so on."""

    reward: IndexedBase  # real
    ref: IndexedBase  # positive
    policy: IndexedBase  # positive
    beta: Symbol  # positive


def answers_of_any_number() -> AnyAnswers:
    """Symbols for any number of answers. Probabilities need not sum to one; see `total`."""
    return AnyAnswers(
        reward=IndexedBase("r", real=True),
        ref=IndexedBase("p", positive=True),
        policy=IndexedBase("q", positive=True),
        beta=Symbol("beta", positive=True),
    )


def total(term: Callable[[Expr], Expr], first: Expr | int = 1) -> Expr:
    """term(first) + ... + term(K), unevaluated, for any K."""
    place = sp.Dummy(integer=True, positive=True)
    summand = term(place)
    taken = {symbol.name for symbol in summand.atoms(Symbol)}  # indices of sums inside this one
    index = _index(next(name for name in "jlmn" if name not in taken))
    return Sum(summand.subs(place, index), (index, first, K))


def _index(name: str) -> Symbol:
    return Symbol(name, integer=True, positive=True)


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
        terms = (t.as_independent(index, as_Add=False) for t in sp.Add.make_args(_expand(result)))
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
    expression = _expand(collapsed(expression))
    for distribution in distributions:
        if isinstance(distribution, IndexedBase):
            whole = collapsed(total(lambda j: distribution[j]))  # noqa: B023
            expression = expression.subs(whole, 1)
        else:
            *others, last = distribution
            expression = expression.subs(last, 1 - sum(others))
    return expression


def expectation(weights: Iterable[Expr], values: Iterable[Expr]) -> Expr:
    """E_{y ~ weights}[value(y)], a sum over the answers."""
    return sp.Add(*(weight * value for weight, value in zip(weights, values, strict=True)))


def gradient(expression: Expr, variables: Iterable[Symbol]) -> tuple[Expr, ...]:
    """The partial derivatives, one for each variable."""
    return tuple(sp.diff(expression, variable) for variable in variables)


def sigmoid(z: Expr) -> Expr:
    """The logistic function 1 / (1 + exp(-z))."""
    return 1 / (1 + exp(-z))


def softmax(logits: Sequence[Expr]) -> tuple[Expr, ...]:
    """Probabilities proportional to exp(logit); every positive distribution has this form."""
    total = sp.Add(*map(exp, logits))
    return tuple(exp(logit) / total for logit in logits)


def bradley_terry(r1: Expr, r2: Expr) -> Expr:
    """Probability that answer 1 is preferred to answer 2, equation (1) as printed."""
    return exp(r1) / (exp(r1) + exp(r2))


def reward_loss(chosen: Expr, rejected: Expr) -> Expr:
    """Negative log-likelihood of one preference given its two rewards, equation (2)."""
    return -log(sigmoid(chosen - rejected))


def log_ratio(policy: Iterable[Expr], ref: Iterable[Expr]) -> tuple[Expr, ...]:
    """log(policy / ref) of each answer, nats."""
    return tuple(log(q / p) for q, p in zip(policy, ref, strict=True))


def kl(policy: Sequence[Expr], ref: Iterable[Expr]) -> Expr:
    """KL(policy || ref) = E_policy[log(policy / ref)], nats."""
    return expectation(policy, log_ratio(policy, ref))


def objective(
    policy: Sequence[Expr], reward: Iterable[Expr], ref: Iterable[Expr], beta: Expr
) -> Expr:
    """J = E_policy[r] - beta KL(policy || ref), objective (3) for one prompt."""
    return expectation(policy, reward) - beta * kl(policy, ref)


def partition(reward: Iterable[Expr], ref: Iterable[Expr], beta: Expr) -> Expr:
    """Z = E_ref[exp(r / beta)], below equation (4)."""
    return expectation(ref, (exp(r / beta) for r in reward))


def optimal_policy(reward: Sequence[Expr], ref: Sequence[Expr], beta: Expr) -> tuple[Expr, ...]:
    """The policy that maximises objective (3): ref exp(r / beta) / Z, equation (4)."""
    Z = partition(reward, ref, beta)
    return tuple(p * exp(r / beta) / Z for r, p in zip(reward, ref, strict=True))


def implicit_reward(policy: Iterable[Expr], ref: Iterable[Expr], beta: Expr) -> tuple[Expr, ...]:
    """beta log(policy / ref) of each answer: equation (5) without beta log Z."""
    return tuple(beta * ratio for ratio in log_ratio(policy, ref))


def dpo_loss(policy: Iterable[Expr], ref: Iterable[Expr], beta: Expr) -> Expr:
    """Equation (7) as printed, for one pair of answers with the chosen one first."""
    (q_w, q_l), (p_w, p_l) = policy, ref
    return -log(sigmoid(beta * log(q_w / p_w) - beta * log(q_l / p_l)))
