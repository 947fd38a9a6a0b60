"""The paper's quantities for any number K of answers, and what is done to a reward.

A reward or a policy is a table here: a function from the answer to its value, so that sums over
it run from 1 to K with K a symbol.
"""

from collections.abc import Callable

from sympy import Expr, Symbol, exp, log

from dpo_lib.statements.symbolic.sums import total
from dpo_lib.statements.symbolic.symbols import ANSWER, K, answers_of_any_number

r, p, q, beta = answers_of_any_number()
c = Symbol("c", real=True)  # f(x): one number for the prompt
i = ANSWER
Table = Callable[[Expr], Expr]  # answer -> its value


def reward(j: Expr) -> Expr:
    """r_j."""
    return r[j]


def shifted(j: Expr) -> Expr:
    """Another member of the class of r: r_j + f(x)."""
    return r[j] + c


def doubled(j: Expr) -> Expr:
    """Not a member of the class of r: 2 r_j."""
    return 2 * r[j]


def centred(j: Expr) -> Expr:
    """The member of the class of r whose rewards average to zero."""
    return r[j] - total(reward) / K


def Z(reward: Table) -> Expr:
    """The partition function for K answers, below equation (4)."""
    return total(lambda j: p[j] * exp(reward(j) / beta))


def optimum(reward: Table) -> Table:
    """Equation (4) for K answers."""
    return lambda j: p[j] * exp(reward(j) / beta) / Z(reward)


def implicit(policy: Table) -> Table:
    """beta log(policy / ref), the implicit reward of (5) for K answers."""
    return lambda j: beta * log(policy(j) / p[j])


def projection(reward: Table) -> Table:
    """f(r) = r - beta log Z, equation (8) for K answers."""
    return lambda j: reward(j) - beta * log(Z(reward))


def choice(reward: Table, place: Expr) -> Expr:
    """The factor of (18) at one place: a softmax over this answer and those ranked below.

    The answers are named by their places, so that answer k is the one ranked k-th.
    """
    return exp(reward(place)) / total(lambda j: exp(reward(j)), first=place)


def ranking_logp(reward: Table) -> Expr:
    """The logarithm of (18) for K answers, named by their places."""
    return total(lambda place: log(choice(reward, place)))
