"""Section 5: equivalent rewards, the lemmas, the theorem, projection (8), (9), objective (10).

Sums run over answers 1 to K with K a symbol. A statement about every answer is proved at the
answer i, a statement about every place of a ranking at the place i; both are symbols too.

Source: Rafailov et al. 2023, section 5; the lemmas' proofs in appendix A.5.
"""

from sympy import Symbol, exp, log

from dpo_lib.statements.proofs.proof import Proof, Step
from dpo_lib.statements.symbolic.any_number import (
    Z,
    beta,
    c,
    centred,
    choice,
    doubled,
    i,
    implicit,
    optimum,
    p,
    projection,
    q,
    r,
    ranking_logp,
    reward,
    shifted,
)
from dpo_lib.statements.symbolic.quantities import bradley_terry
from dpo_lib.statements.symbolic.sums import normalised, total


def prove_definition() -> Proof:
    """Definition 1: to differ by f(x) is an equivalence, and means that all gaps agree."""
    d = Symbol("d", real=True)
    steps = (
        Step("reflexive, with f = 0", reward(i) - shifted(i).subs(c, 0)),
        Step("symmetric, with -f", shifted(i) - c - reward(i)),
        Step("transitive, with the sum", (shifted(i) + d) - reward(i) - (c + d)),
        Step("the gaps agree", shifted(i) - shifted(1) - (reward(i) - reward(1))),
    )
    controls = (Step("a scale keeps the gaps", doubled(i) - doubled(1) - (reward(i) - reward(1))),)
    return Proof("Definition 1", "Equivalent rewards", steps, controls)


def prove_lemma_1() -> Proof:
    """Lemma 1 (proof in A.5): exp(f) leaves numerator and denominator of every factor of (18).

    The converse holds too: the preference determines the gap.
    """
    preference = bradley_terry(reward(1), reward(2))
    steps = (
        Step("the choice at place i stays", choice(shifted, i) - choice(reward, i)),
        Step(
            "so the ranking's log-probability stays", ranking_logp(shifted) - ranking_logp(reward)
        ),
        Step("the gap is the preference's logit", log(preference / (1 - preference)) - r[1] + r[2]),
    )
    controls = (
        Step("a scale keeps the choice", choice(doubled, 1) - choice(reward, 1)),
        Step("a scale keeps the ranking", ranking_logp(doubled) - ranking_logp(reward)),
    )
    return Proof("Lemma 1", "A class has one preference distribution", steps, controls)


def prove_lemma_2() -> Proof:
    """Lemma 2 (proof in A.5): exp(f / beta) leaves the numerator and Z of (4).

    The converse holds where the reference is positive: log-ratios differ by the gaps.
    """
    star = optimum(reward)
    gap = beta * log(star(i) / p[i]) - beta * log(star(1) / p[1])
    scaled = optimum(doubled)(i)
    steps = (
        Step("exp(f / beta) leaves Z", Z(shifted) - exp(c / beta) * Z(reward)),
        Step("the optimum stays", optimum(shifted)(i) - star(i)),
        Step("the optimum gives back the gaps", gap - (r[i] - r[1])),
        Step("a scale of both r and beta changes nothing", scaled.subs(beta, 2 * beta) - star(i)),
    )
    controls = (Step("a scale keeps the optimum", scaled - star(i)),)
    return Proof("Lemma 2", "A class has one optimal policy", steps, controls)


def prove_theorem() -> Proof:
    """Theorem 1: the class of r holds beta log(pi / ref) with a distribution pi, namely (4)."""
    star = optimum(reward)
    steps = (
        Step(
            "r - beta log(pi / ref) is beta log Z", r[i] - implicit(star)(i) - beta * log(Z(reward))
        ),
        Step("pi sums to 1", total(star) - 1),
    )
    controls = (
        Step("r itself is beta log(pi / ref)", normalised(r[i] - implicit(star)(i), p)),
        Step("it differs from r by Z", r[i] - implicit(star)(i) - Z(reward)),
        Step("it differs from r by log Z", r[i] - implicit(star)(i) - log(Z(reward))),
    )
    return Proof("Theorem 1", "Every class has an implicit reward", steps, controls)


def prove_projection() -> Proof:
    """Equation (8): f picks a member of the class, the same from every member."""
    f = projection(reward)
    twice = projection(f)
    steps = (
        Step("f(r) - r is one number", f(i) - r[i] - (f(1) - r[1])),
        Step("f(f(r)) = f(r)", twice(i) - f(i)),
        Step("f(r + c) = f(r)", projection(shifted)(i) - f(i)),
    )
    controls = (
        Step("f(2 r) = 2 f(r)", projection(doubled)(i) - 2 * f(i)),
        Step("f(r) = r", f(i) - r[i]),
    )
    return Proof("(8)", "Projection onto the representative", steps, controls)


def prove_selected_member() -> Proof:
    """Equation (9): after the projection Z = 1, and its summands are the optimal policy."""
    f = projection(reward)
    steps = (
        Step("Z = 1 at f(r)", Z(f) - 1),
        Step("the summand is (4)", p[i] * exp(f(i) / beta) - optimum(reward)(i)),
    )
    controls = (
        Step("Z = 1 at r", Z(reward) - 1),
        Step("Z = 1 at the centred reward", Z(centred) - 1),
    )
    return Proof("(9)", "The member with Z = 1", steps, controls)


def prove_actor_critic() -> Proof:
    """Equation (10): objective (3) with beta log Z subtracted is -beta KL(pi || pi*)."""
    star, f = optimum(reward), projection(reward)

    def bracket(j):
        return f(j) - beta * log(q[j] / p[j])

    mean = total(lambda j: q[j] * bracket(j))
    objective = total(lambda j: q[j] * (r[j] - beta * log(q[j] / p[j])))
    kl = total(lambda j: q[j] * log(q[j] / star(j)))
    steps = (
        Step("the bracket is beta log(pi* / pi)", bracket(i) - beta * log(star(i) / q[i])),
        Step("its mean is -beta KL(pi || pi*)", mean + beta * kl),
        Step("its mean is J - beta log Z", normalised(mean - objective + beta * log(Z(reward)), q)),
    )
    controls = (
        Step("its mean is J", normalised(mean - objective, q)),
        Step("pi need not sum to 1", mean - objective + beta * log(Z(reward))),
    )
    return Proof("(10)", "Objective with the soft value subtracted", steps, controls)
