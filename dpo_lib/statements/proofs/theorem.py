"""Appendix A.6: the theorem of section 5 in three lines, (23) to (25), and Proposition 1.

Sums run over answers 1 to K with K a symbol; a statement about every answer is proved at i.

Source: Rafailov et al. 2023, appendix A.6. Its lines have no numbers there.
"""

import sympy as sp
from sympy import exp, log

from dpo_lib.statements.proofs.proof import Proof, Step
from dpo_lib.statements.symbolic.any_number import (
    Z,
    beta,
    c,
    centred,
    doubled,
    i,
    implicit,
    optimum,
    p,
    projection,
    q,
    r,
    reward,
    shifted,
)
from dpo_lib.statements.symbolic.sums import normalised, total


def prove_theorem_line_1() -> Proof:
    """Equation (23): A.6 starts from (5), for any reward and any number of answers."""
    implied = implicit(optimum(reward))
    steps = (
        Step("r = beta log(pi_r / ref) + beta log Z", r[i] - implied(i) - beta * log(Z(reward))),
    )
    controls = (Step("with a minus sign", r[i] - implied(i) + beta * log(Z(reward))),)
    return Proof("(23)", "A.6: the reward through its policy", steps, controls)


def prove_theorem_line_2() -> Proof:
    """Equation (24): f(r) is the implicit reward of the optimal policy."""
    f = projection(reward)
    steps = (Step("f(r) = beta log(pi_r / ref)", f(i) - implicit(optimum(reward))(i)),)
    controls = (
        Step("so does the centred reward", centred(i) - implicit(optimum(reward))(i)),
        Step("so does r", normalised(r[i] - implicit(optimum(reward))(i), p)),
    )
    return Proof("(24)", "A.6: the projection is an implicit reward", steps, controls)


def prove_theorem_line_3() -> Proof:
    """Equation (25): all members of a class have one projection, by Lemma 2."""
    f, g = projection(reward), projection(shifted)
    steps = (
        Step("f(r) = beta log(pi_r / ref)", f(i) - implicit(optimum(reward))(i)),
        Step("pi_r = pi_r'", implicit(optimum(reward))(i) - implicit(optimum(shifted))(i)),
        Step("beta log(pi_r' / ref) = f(r')", implicit(optimum(shifted))(i) - g(i)),
    )
    controls = (Step("2 r has this projection too", projection(doubled)(i) - f(i)),)
    return Proof("(25)", "A.6: one projection for a class", steps, controls)


def prove_uniqueness() -> Proof:
    """Proposition 1 by contradiction: two implicit rewards of one class are equal.

    Suppose beta log(pi' / ref) = beta log(pi / ref) + f. Then pi' = pi exp(f / beta). Both sum
    to one, so exp(f / beta) = 1, and f = beta log 1 = 0.
    """

    def other(j):
        return q[j] * exp(c / beta)

    steps = (
        Step("pi' = pi exp(f / beta)", implicit(other)(i) - implicit(lambda j: q[j])(i) - c),
        Step("pi' sums to exp(f / beta)", normalised(total(other) - exp(c / beta), q)),
        Step("f = beta log of that sum", c - beta * log(exp(c / beta))),
        Step("which is 0 where the sum is 1", beta * log(sp.S.One)),
    )
    controls = (Step("pi' sums to 1 for any f", normalised(total(other) - 1, q)),)
    return Proof("Proposition 1", "The representative is unique", steps, controls)
