"""Section 4: the optimum (4), the reward through it (5), (6), the DPO loss (7), its gradient.

Source: Rafailov et al. 2023, section 4.
"""

import sympy as sp
from sympy import Symbol, exp, log

from dpo_lib.statements.proofs.proof import Proof, Step, each
from dpo_lib.statements.symbolic.any_number import implicit, optimum, reward
from dpo_lib.statements.symbolic.quantities import (
    bradley_terry,
    dpo_loss,
    expectation,
    gradient,
    implicit_reward,
    kl,
    objective,
    optimal_policy,
    partition,
    reward_loss,
    sigmoid,
    softmax,
)
from dpo_lib.statements.symbolic.sums import normalised
from dpo_lib.statements.symbolic.symbols import answers, answers_of_any_number


def prove_optimal_policy() -> Proof:
    """Equation (4) by a second route, a Lagrange multiplier, with its value and its limits.

    J is strictly concave in the probabilities, so the stationary point is the one maximum. The
    limit beta -> 0 is taken at the rewards 3, 1, 0.
    """
    r, p, q, beta = answers()
    J, optimal = objective(q, r, p, beta), optimal_policy(r, p, beta)
    soft_value = beta * log(partition(r, p, beta))
    slopes = [d.subs(dict(zip(q, optimal, strict=True))) for d in gradient(J, q)]
    without_beta = dict(zip(q, optimal_policy(r, p, 1), strict=True))
    large_beta = [sp.limit(pi, beta, sp.oo) for pi in optimal]
    small_beta = [sp.limit(pi, beta, 0, "+") for pi in optimal_policy((3, 1, 0), p, beta)]
    curvatures = [-beta / q_i for q_i in q]
    steps = (
        Step("it sums to 1", sum(optimal) - 1),
        *each("dJ/dq = beta log Z - beta for all answers", slopes, [soft_value - beta] * 3),
        *each("the Hessian is diag(-beta / q)", sp.hessian(J, q), sp.diag(*curvatures)),
        *each("-beta / q < 0", map(sp.sign, curvatures), [-1] * 3),
        Step("J(pi*) = beta log Z", objective(optimal, r, p, beta) - soft_value),
        *each("beta -> oo gives the reference", large_beta, [p_i / sum(p) for p_i in p]),
        *each("beta -> 0 gives the best answer", small_beta, (1, 0, 0)),
    )
    controls = (
        Step("ref exp(r) is stationary", (sp.diff(J, q[0]) - sp.diff(J, q[1])).subs(without_beta)),
        Step("the optimum is the reference", normalised(optimal[0] - p[0], p)),
        Step("beta -> oo gives one answer", normalised(large_beta[0] - 1, p)),
    )
    return Proof("(4)", "Optimal policy", steps, controls)


def prove_partition() -> Proof:
    """The partition function Z (section 4, unnumbered): one number for all answers.

    Every term of E_ref[exp(r / beta) - exp(r_1 / beta)] has one sign if r_1 is the smallest
    reward and the other if it is the largest: Z lies between these two exponentials.
    """
    r, p, _, beta = answers()
    c = Symbol("c", real=True)
    Z, first = partition(r, p, beta), exp(r[0] / beta)
    optimal, soft_value = optimal_policy(r, p, beta), beta * log(Z)
    excess = expectation(p, (exp(r_i / beta) - first for r_i in r))
    shifted = partition([r_i + c for r_i in r], p, beta)
    steps = (
        Step("Z - exp(r_1 / beta) is this mean", normalised(Z - first - excess, p)),
        Step("a shift by c multiplies Z by exp(c / beta)", shifted - exp(c / beta) * Z),
        *each("d(beta log Z)/dr = pi*", gradient(soft_value, r), optimal),
        Step("d(beta log Z)/dbeta = -KL(pi* || ref)", sp.diff(soft_value, beta) + kl(optimal, p)),
    )
    controls = (
        Step("Z = exp(r_1 / beta)", normalised(Z - first, p)),
        Step("Z = 1", normalised(Z - 1, p)),
    )
    return Proof("Z", "Partition function", steps, controls)


def prove_rearrangement() -> Proof:
    """Equation (5): any reward is the implicit reward of its optimal policy plus beta log Z."""
    r, p, _, beta = answers()
    Z = partition(r, p, beta)
    implicit = implicit_reward(optimal_policy(r, p, beta), p, beta)
    steps = each("r = beta log(pi* / ref) + beta log Z", r, [h + beta * log(Z) for h in implicit])
    controls = (
        Step("r = beta log(pi* / ref) + beta Z", normalised(r[0] - implicit[0] - beta * Z, p)),
        Step("r = beta log(pi* / ref)", normalised(r[0] - implicit[0], p)),
    )
    return Proof("(5)", "Reward from its optimal policy", steps, controls)


def prove_preference_from_policy() -> Proof:
    """Equation (6): (1) in terms of the optimal policy.

    Z, which involves all K answers, cancels from the comparison of two.
    """
    r, p, _, beta = answers()
    pi1, pi2, _ = optimal_policy(r, p, beta)
    printed = 1 / (1 + exp(beta * log(pi2 / p[1]) - beta * log(pi1 / p[0])))
    pointwise = sigmoid(beta * log(pi1 / p[0]))
    steps = (Step("(1) is the printed form", bradley_terry(r[0], r[1]) - printed),)
    controls = (
        Step("Z cancels from a score of one answer", normalised(pointwise - sigmoid(r[0]), p)),
    )
    return Proof("(6)", "Preference from the optimal policy", steps, controls)


def prove_dpo_loss() -> Proof:
    """Equation (7): (2) at the implicit rewards; two of its values; its partial derivatives.

    The derivatives are by the four log-probabilities, l of the policy and m of the reference,
    with g = beta sigmoid(-z) at margin z.
    """
    r, p, _, beta = answers()
    l_w, l_l, m_w, m_l = logps = sp.symbols("l_w l_l m_w m_l", real=True)
    policy, ref = (exp(l_w), exp(l_l)), (exp(m_w), exp(m_l))
    loss, (h_w, h_l) = dpo_loss(policy, ref, beta), implicit_reward(policy, ref, beta)
    g = beta * sigmoid(h_l - h_w)
    at_optimum = dpo_loss(optimal_policy(r, p, beta)[:2], p[:2], beta)
    steps = (
        Step("it is (2) at the implicit rewards", loss - reward_loss(h_w, h_l)),
        Step("at pi* it is (2) at the rewards", at_optimum - reward_loss(r[0], r[1])),
        Step("at the reference it is log 2", dpo_loss(ref, ref, beta) - log(2)),
        *each("its partials are -g, g, g, -g", gradient(loss, logps), (-g, g, g, -g)),
    )
    controls = (
        Step("beta may enter twice", loss - reward_loss(beta * h_w, beta * h_l)),
        Step("chosen and rejected may be swapped", loss - reward_loss(h_l, h_w)),
    )
    return Proof("(7)", "DPO loss", steps, controls)


def prove_dpo_gradient() -> Proof:
    """The gradient of (7) (section 4, unnumbered), in the K logits of a softmax policy."""
    _, p, _, beta = answers()
    theta = sp.symbols("theta_1:4", real=True)
    policy = softmax(theta)
    h_w, h_l, _ = implicit_reward(policy, p, beta)
    exact = gradient(dpo_loss(policy[:2], p[:2], beta), theta)
    direction = gradient(log(policy[0]) - log(policy[1]), theta)
    printed = [-beta * sigmoid(h_l - h_w) * d for d in direction]
    steps = each("-beta sigmoid(h_l - h_w) (d log pi_w - d log pi_l)", exact, printed)
    mirrored = -beta * sigmoid(h_w - h_l) * direction[0]
    controls = (
        Step("the weight may be left out", exact[0] + beta * direction[0]),
        Step("the weight is sigmoid(h_w - h_l)", exact[0] - mirrored),
    )
    return Proof("DPO gradient", "Gradient of the DPO loss", steps, controls)


def prove_outline() -> Proof:
    """The outline of section 4: labels from (1), loss (7), and the minimiser is (4).

    The expected loss of each pair has slope zero in the margin where the margin is the true gap,
    which is where the policy is (4), and is the entropy of the label there. The loss is convex
    in the margin, so there is no other minimiser.
    """
    h, m = sp.symbols("h m", real=True)
    expected = sigmoid(m) * reward_loss(h, 0) + sigmoid(-m) * reward_loss(0, h)
    entropy = -sigmoid(m) * log(sigmoid(m)) - sigmoid(-m) * log(sigmoid(-m))
    r, implicit_star = answers_of_any_number().reward, implicit(optimum(reward))
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
