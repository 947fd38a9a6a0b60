"""The paper's quantities for a few answers: losses, KL, objective, optimum, rankings.

Each takes sequences with one entry for each answer. The chapters write their algebra with these
building blocks, and `proofs` the whole chain.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import mul

import sympy as sp
from sympy import Expr, Symbol, exp, log


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


def plackett_luce(rewards: tuple[Expr, ...]) -> Expr:
    """Equation (18) for a few answers, from best to worst."""
    tails = [sp.Add(*map(exp, rewards[k:])) for k in range(len(rewards))]
    return reduce(mul, (exp(value) / tail for value, tail in zip(rewards, tails, strict=True)))
