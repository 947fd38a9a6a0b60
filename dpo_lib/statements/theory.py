"""Section 5 and appendices A.3, A.5, A.6, proved by sympy for any number K of answers.

Sums run over answers 1 to K with K a symbol. A statement about every answer is proved at the
answer i, a statement about every place of a ranking at the place i; both are symbols too. The
slips of the paper stand at the end. `THEORY` finds the proofs by number, as `proofs.PROOFS` does
for sections 3 and 4.

Source: Rafailov et al. 2023.
"""

from collections.abc import Callable
from functools import reduce
from itertools import permutations
from operator import mul

import sympy as sp
from sympy import Expr, Rational, Symbol, exp, log

from dpo_lib.statements.proofs import Proof, Step, each
from dpo_lib.statements.symbolic import (
    ANSWER,
    K,
    answers,
    answers_of_any_number,
    bradley_terry,
    collapsed,
    dpo_loss,
    expectation,
    gradient,
    implicit_reward,
    normalised,
    optimal_policy,
    reward_loss,
    sigmoid,
    softmax,
    total,
)

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


def plackett_luce(rewards: tuple[Expr, ...]) -> Expr:
    """Equation (18) for a few answers, from best to worst."""
    tails = [sp.Add(*map(exp, rewards[k:])) for k in range(len(rewards))]
    return reduce(mul, (exp(value) / tail for value, tail in zip(rewards, tails, strict=True)))


def prove_normalised_reward() -> Proof:
    """The reward model's normalisation (section 3, unnumbered): a mean of zero is a shift."""
    steps = (
        Step("the centred rewards add up to 0", total(centred)),
        Step("the gaps stay", centred(i) - centred(1) - (r[i] - r[1])),
        Step("preferences stay", bradley_terry(centred(1), centred(2)) - bradley_terry(r[1], r[2])),
    )
    weighted = total(lambda j: p[j] * centred(j))
    controls = (
        Step("the mean under the reference is 0 too", weighted),
        Step("the rewards stay", centred(i) - r[i]),
    )
    return Proof("Normalised reward", "Mean reward of zero", steps, controls)


def prove_outline() -> Proof:
    """The outline of section 4: labels from (1), loss (7), and the minimiser is (4).

    The expected loss of each pair has slope zero in the margin where the margin is the true gap,
    which is where the policy is (4), and is the entropy of the label there. The loss is convex
    in the margin, so there is no other minimiser.
    """
    h, m = sp.symbols("h m", real=True)
    expected = sigmoid(m) * reward_loss(h, 0) + sigmoid(-m) * reward_loss(0, h)
    entropy = -sigmoid(m) * log(sigmoid(m)) - sigmoid(-m) * log(sigmoid(-m))
    implicit_star = implicit(optimum(reward))
    slope = sp.diff(expected, h)
    steps = (
        Step("at (4) the margin is the gap", implicit_star(1) - implicit_star(2) - r[1] + r[2]),
        Step("there the slope is 0", slope.subs(h, m)),
        Step("and the loss is the label's entropy", expected.subs(h, m) - entropy),
        Step("its curvature is s(1 - s)", sp.diff(expected, h, 2) - sigmoid(h) * sigmoid(-h)),
        Step("s(1 - s) > 0, so it is convex", sp.sign(sigmoid(h) * sigmoid(-h)) - 1),
    )
    controls = (Step("the slope is 0 at the reference", slope.subs(h, 0)),)
    return Proof("DPO outline", "Labels from (1), loss (7), policy (4)", steps, controls)


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


def prove_valid_distribution() -> Proof:
    """A.1, between (12) and (13): pi* is a distribution, so that the mean is a KL divergence."""
    star = optimum(reward)
    slip = total(lambda j: p[j] * exp(r[j] / beta) / exp(r[1] / beta))
    steps = (
        Step("it sums to 1", total(star) - 1),
        Step("it is positive", sp.sign(collapsed(star(i))) - 1),
    )
    controls = (Step("with exp(r_1 / beta) for Z it sums to 1", normalised(slip - 1, p)),)
    return Proof("Valid distribution", "The optimum is a distribution", steps, controls)


def prove_plackett_luce() -> Proof:
    """Equation (18): a distribution over orders, which for two answers is Bradley-Terry.

    With three answers the orders are added up. From K to K + 1 answers nothing new is needed:
    given the best, the other factors are (18) for the rest, which is what the third step says.
    """
    r1, r2, r3 = rewards = answers().reward
    first = exp(r1) / sp.Add(*map(exp, rewards))
    orders = list(permutations(rewards))
    pairs = [
        reduce(mul, (bradley_terry(a, b) for a, b in ((x, y), (x, z), (y, z))))
        for x, y, z in orders
    ]
    before = sp.Add(*(plackett_luce(o) for o in orders if o.index(r1) < o.index(r2)))
    steps = (
        Step("for K = 2 it is (1)", plackett_luce((r1, r2)) - bradley_terry(r1, r2)),
        Step("the 3! orders add up to 1", sp.Add(*map(plackett_luce, orders)) - 1),
        Step("the best, then (18)", plackett_luce(rewards) - first * plackett_luce((r2, r3))),
        Step("1 before 2 has probability (1)", before - bradley_terry(r1, r2)),
        Step("the last place is certain", choice(reward, K) - 1),
    )
    reverse = plackett_luce((-r3, -r2, -r1))
    controls = (
        Step("the product over pairs adds up to 1", sp.Add(*pairs) - 1),
        Step("worst-first is the same model", plackett_luce(rewards) - reverse),
    )
    return Proof("(18)", "Plackett-Luce ranking", steps, controls)


def prove_ranking_from_policy() -> Proof:
    """Equation (19): Z^(-1) leaves every factor of (18) at the implicit reward of (4)."""
    implied = implicit(optimum(reward))

    def without_beta(j):
        return log(optimum(reward)(j) / p[j])

    steps = (
        Step("the choice at place i stays", choice(implied, i) - choice(reward, i)),
        Step("the ranking's log-probability stays", ranking_logp(implied) - ranking_logp(reward)),
    )
    controls = (
        Step("beta may be left out", choice(without_beta, 1) - choice(reward, 1)),
        Step("Z leaves a score of one answer", normalised(exp(implied(i)) - exp(r[i]), p)),
    )
    return Proof("(19)", "Ranking from the optimal policy", steps, controls)


def prove_ranking_loss() -> Proof:
    """Equation (20): minus the logarithm of (19); for two answers it is (7).

    Its slope in an implicit reward is, over the places that still had this answer, the chance
    that it would be chosen, minus 1 for the place where it was.
    """
    _, ref, policy, beta = answers(2)
    pair = -log(plackett_luce(implicit_reward(policy, ref, beta)))
    h = answers().reward
    loss = -log(plackett_luce(h))
    top, rest = softmax(h), softmax(h[1:])
    slopes = (top[0] - 1, top[1] + rest[0] - 1, top[2] + rest[1])
    pairwise = sp.Add(*(reward_loss(h[a], h[b]) for a, b in ((0, 1), (0, 2), (1, 2))))

    def zero(j):
        return sp.S.Zero

    steps = (
        Step("for K = 2 it is (7)", pair - dpo_loss(policy, ref, beta)),
        Step("at the reference, place i is a free choice", choice(zero, i) - 1 / (K - i + 1)),
        *each("its slopes for K = 3", gradient(loss, h), slopes),
    )
    controls = (Step("for K = 3 it is (7) added over the pairs", loss - pairwise),)
    return Proof("(20)", "DPO loss for rankings", steps, controls)


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


def prove_slip_of_a4() -> Proof:
    """A.4's last line: sigma(r_hat_w - r_hat_l) where section 4 has sigma(r_hat_l - r_hat_w)."""
    z = Symbol("z", real=True)
    true, printed = -beta * sigmoid(-z), -beta * sigmoid(z)
    steps = (
        Step("the weights add up to 1", sigmoid(z) + sigmoid(-z) - 1),
        Step("at margin 0 they agree", (printed - true).subs(z, 0)),
        Step(
            "printed - true = -beta tanh(z / 2)",
            printed - true + beta * sp.tanh(z / 2).rewrite(exp),
        ),
    )
    controls = (Step("they agree at every margin", printed - true),)
    return Proof("Slip in A.4", "The weight is printed the wrong way round", steps, controls)


def prove_slip_of_section_5() -> Proof:
    """5.2 takes pi* "from Eq. 7". The policy that makes (10) a divergence is (4).

    What (7) gives, exp(-loss) of a pair, is a preference: one number for two answers. Over all
    answers against the first these do not sum to one.
    """
    Z3 = answers()
    star = optimal_policy(Z3.reward, Z3.ref, Z3.beta)
    preferences = [
        exp(-dpo_loss((star[k], star[0]), (Z3.ref[k], Z3.ref[0]), Z3.beta)) for k in range(3)
    ]
    steps = (
        Step("(4) sums to 1", sum(star) - 1),
        Step("exp(-(7)) at (4) is (1)", preferences[1] - bradley_terry(Z3.reward[1], Z3.reward[0])),
        Step("against itself an answer has 1/2", preferences[0] - Rational(1, 2)),
    )
    controls = (Step("exp(-(7)) sums to 1 over the answers", sum(preferences) - 1),)
    return Proof("Slip in 5.2", "The optimum is (4), not (7)", steps, controls)


def prove_slip_of_table_3() -> Proof:
    """Table 3 is said to show the loss without its weight; it shows Unlikelihood.

    Up to the factor beta the two gradients are equal for alpha = 1, and for no other alpha.
    """
    theta = sp.symbols("theta_1:4", real=True)
    _, ref, _, beta = answers()
    alpha = Symbol("alpha", positive=True)
    policy = softmax(theta)
    unlikelihood = -(log(policy[0]) - alpha * log(policy[1]))
    margin = expectation((1, -1, 0), implicit_reward(policy, ref, beta))
    unweighted = gradient(-margin, theta)
    steps = each(
        "beta times Unlikelihood at alpha = 1",
        [beta * slope.subs(alpha, 1) for slope in gradient(unlikelihood, theta)],
        unweighted,
    )
    any_alpha = [beta * slope for slope in gradient(unlikelihood, theta)]
    controls = each("at any alpha", any_alpha[:1], unweighted[:1])
    return Proof(
        "Slip on Table 3", "Unlikelihood is not the loss without its weight", steps, controls
    )


THEORY = {
    "Normalised reward": prove_normalised_reward,
    "DPO outline": prove_outline,
    "Definition 1": prove_definition,
    "Lemma 1": prove_lemma_1,
    "Lemma 2": prove_lemma_2,
    "Theorem 1": prove_theorem,
    "(8)": prove_projection,
    "(9)": prove_selected_member,
    "(10)": prove_actor_critic,
    "Valid distribution": prove_valid_distribution,
    "(18)": prove_plackett_luce,
    "(19)": prove_ranking_from_policy,
    "(20)": prove_ranking_loss,
    "(23)": prove_theorem_line_1,
    "(24)": prove_theorem_line_2,
    "(25)": prove_theorem_line_3,
    "Proposition 1": prove_uniqueness,
    "Slip in A.4": prove_slip_of_a4,
    "Slip in 5.2": prove_slip_of_section_5,
    "Slip on Table 3": prove_slip_of_table_3,
}
