"""The paper's quantities in sympy, and the two questions asked of an identity.

`is_zero` proves that an expression vanishes identically, `differs_from_zero` that it does not.
There is one prompt with K answers. The chapters write their algebra with these building blocks,
and `proofs` the whole chain.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import sympy as sp
from sympy import Expr, Rational, Symbol, exp, log


def is_zero(expression: Expr) -> bool:
    """Whether sympy proves that an expression is identically zero.

    Logs and exponentials are taken apart, everything is put over one denominator, and the
    numerator is multiplied out. False means "not proved"; `differs_from_zero` refutes.

    Raises:
        ValueError: if the expression contains a floating-point number.
    """
    numerator, _ = sp.fraction(sp.together(_expand(_exact(expression))))
    return _expand(numerator) == 0


def differs_from_zero(expression: Expr) -> bool:
    """Whether an expression is non-zero at one point: symbols by name are 1/5, 1/7, 1/11, ...

    The value has 30 correct digits and must exceed 1e-20 in size, so True refutes an identity.

    Raises:
        ValueError: if the expression contains a floating-point number.
    """
    expression = _exact(expression)
    symbols = sorted(expression.free_symbols, key=str)
    point = {symbol: Rational(1, sp.prime(n)) for n, symbol in enumerate(symbols, start=3)}
    return bool(abs(expression.subs(point).evalf(30)) > Rational(1, 10**20))


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


def normalised(expression: Expr, *distributions: Sequence[Symbol]) -> Expr:
    """The expression with the last probability of each distribution as 1 - sum of the others."""
    expression = _expand(expression)  # now, while every probability is known to be positive
    return expression.subs({last: 1 - sum(others) for *others, last in distributions})


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
