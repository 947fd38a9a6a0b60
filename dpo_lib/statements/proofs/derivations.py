"""Appendices A.1, A.2, A.4: section 4 derived line by line, (11) to (17), (21) and (22).

Source: Rafailov et al. 2023, appendices A.1, A.2 and A.4.
"""

import sympy as sp
from sympy import Symbol, exp, log

from dpo_lib.statements.proofs.proof import Proof, Step, each
from dpo_lib.statements.symbolic.any_number import i, optimum, reward
from dpo_lib.statements.symbolic.quantities import (
    bradley_terry,
    dpo_loss,
    expectation,
    implicit_reward,
    kl,
    log_ratio,
    objective,
    optimal_policy,
    partition,
    sigmoid,
)
from dpo_lib.statements.symbolic.sums import collapsed, normalised, total
from dpo_lib.statements.symbolic.symbols import answers, answers_of_any_number


def prove_single_expectation() -> Proof:
    """Equation (11), where A.1 starts: objective (3) for any reward, as one expectation."""
    r, p, q, beta = answers()
    J, ratio = objective(q, r, p, beta), log_ratio(q, p)
    folded = expectation(q, (r_i - beta * u for r_i, u in zip(r, ratio, strict=True)))
    under_ref = expectation(q, r) - beta * expectation(p, ratio)
    steps = (Step("J = E_pi[r - beta log(pi / ref)]", J - folded),)
    controls = (Step("ref may average the log-ratio", normalised(J - under_ref, p, q)),)
    return Proof("(11)", "Objective as one expectation", steps, controls)


def prove_any_constant() -> Proof:
    """Equation (12): divide by -beta, which turns max into min; add and subtract log Z.

    It holds with every c > 0 in place of Z, so that cancelling proves nothing. What singles Z
    out is that ref exp(r / beta) / c sums to Z / c: a distribution for c = Z only.
    """
    r, p, q, beta = answers()
    c = Symbol("c", positive=True)
    J = objective(q, r, p, beta)
    divided = expectation(q, (log(q[i] / p[i]) - r[i] / beta for i in range(3)))
    tilted = [p_i * exp(r_i / beta) / c for p_i, r_i in zip(p, r, strict=True)]
    with_constant = expectation(q, (u - log(c) for u in log_ratio(q, tilted)))
    steps = (
        Step("-J / beta = E[log(pi / ref) - r / beta]", -J / beta - divided),
        Step("any log c may be added and subtracted", divided - with_constant),
        Step("the denominator sums to Z / c", sum(tilted) - partition(r, p, beta) / c),
    )
    controls = (
        Step("the denominator sums to 1 at c = 1", normalised(sum(tilted).subs(c, 1) - 1, p)),
        Step("only the reference remains", normalised(-J / beta - kl(q, p), p, q)),
    )
    return Proof("(12)", "Add and subtract log Z", steps, controls)


def prove_valid_distribution() -> Proof:
    """A.1, between (12) and (13): pi* is a distribution, so that the mean is a KL divergence."""
    r, p, _, beta = answers_of_any_number()
    star = optimum(reward)
    slip = total(lambda j: p[j] * exp(r[j] / beta) / exp(r[1] / beta))
    steps = (
        Step("it sums to 1", total(star) - 1),
        Step("it is positive", sp.sign(collapsed(star(i))) - 1),
    )
    controls = (Step("with exp(r_1 / beta) for Z it sums to 1", normalised(slip - 1, p)),)
    return Proof("Valid distribution", "The optimum is a distribution", steps, controls)


def prove_optimum_in_denominator() -> Proof:
    """Equation (13): with c = Z the denominator is pi*, and log Z leaves the expectation.

    Only this last move uses that the policy sums to one.
    """
    r, p, q, beta = answers()
    J, log_Z = objective(q, r, p, beta), log(partition(r, p, beta))
    ratio = log_ratio(q, optimal_policy(r, p, beta))
    inside, outside = expectation(q, (u - log_Z for u in ratio)), expectation(q, ratio) - log_Z
    steps = (
        Step("-J / beta = E[log(pi / pi*) - log Z]", -J / beta - inside),
        Step("-J / beta = E[log(pi / pi*)] - log Z", normalised(-J / beta - outside, q)),
    )
    controls = (
        Step("log Z leaves any weighted sum", inside - outside),
        Step("log Z has a plus sign", normalised(-J / beta - outside - 2 * log_Z, p, q)),
    )
    return Proof("(13)", "Optimal policy in the denominator", steps, controls)


def prove_kl_form() -> Proof:
    """Equation (14): J(pi) = beta log Z - beta KL(pi || pi*), in the paper divided by -beta."""
    r, p, q, beta = answers()
    J, soft_value = objective(q, r, p, beta), beta * log(partition(r, p, beta))
    optimal = optimal_policy(r, p, beta)
    gain = objective(optimal, r, p, beta) - objective(p, r, p, beta)
    steps = (
        Step("J = beta log Z - beta KL", normalised(J - soft_value + beta * kl(q, optimal), q)),
        Step("J(pi*) - J(ref) = beta KL(ref || pi*)", normalised(gain - beta * kl(p, optimal), p)),
    )
    controls = (
        Step("it is KL(pi* || pi)", normalised(J - soft_value + beta * kl(optimal, q), p, q)),
    )
    return Proof("(14)", "Objective as a KL to the optimum", steps, controls)


def prove_gibbs() -> Proof:
    """Equation (15): KL(pi || pi*) >= 0, and 0 only for pi = pi*.

    The KL is the mean of f(t) = t - 1 - log t over t = pi* / pi. f is strictly convex with
    f(1) = f'(1) = 0, so every term is positive except where t = 1.
    """
    r, p, q, beta = answers()
    t = Symbol("t", positive=True)
    f, optimal = t - 1 - log(t), optimal_policy(r, p, beta)
    mean_f = expectation(q, (f.subs(t, s / q_i) for s, q_i in zip(optimal, q, strict=True)))
    steps = (
        Step("f(1) = 0", f.subs(t, 1)),
        Step("f'(1) = 0", sp.diff(f, t).subs(t, 1)),
        Step("f'' > 0", sp.sign(sp.diff(f, t, 2)) - 1),
        Step("KL(pi || pi*) = E[f(pi* / pi)]", normalised(kl(q, optimal) - mean_f, q)),
        Step("KL(pi* || pi*) = 0", kl(optimal, optimal)),
    )
    controls = (
        Step("KL(ref || pi*) = 0", normalised(kl(p, optimal), p)),
        Step("pi need not sum to 1", kl(q, optimal) - mean_f),
    )
    return Proof("(15)", "Gibbs' inequality", steps, controls)


def prove_bradley_terry_restated() -> Proof:
    """Equation (16): A.2 restates (1) for the substitution of (17)."""
    r1, r2 = sp.symbols("r_1 r_2", real=True)
    preference = bradley_terry(r1, r2)
    steps = (Step("(1) = 1 / (1 + exp(r_2 - r_1))", preference - 1 / (1 + exp(r2 - r1))),)
    controls = (Step("(1) = 1 / (1 + exp(r_1 - r_2))", preference - 1 / (1 + exp(r1 - r2))),)
    return Proof("(16)", "Bradley-Terry, restated", steps, controls)


def prove_reward_restated() -> Proof:
    """Equation (17): A.2 restates (5); read backwards, it gives every policy a reward.

    pi is optimal for the reward beta log(pi / ref) + f with any constant f, and f cancels from
    (16) as beta log Z does.
    """
    _, p, q, beta = answers()
    f = Symbol("f", real=True)
    implicit = implicit_reward(q, p, beta)
    reward = [h + f for h in implicit]
    recovered = optimal_policy(reward, p, beta)
    without_beta = optimal_policy(log_ratio(q, p), p, beta)
    steps = (
        *each("policy -> reward -> policy", recovered, [q_i / sum(q) for q_i in q]),
        Step("f cancels", bradley_terry(*reward[:2]) - sigmoid(implicit[0] - implicit[1])),
    )
    controls = (Step("the way back needs no beta", normalised(without_beta[0] - q[0], p, q)),)
    return Proof("(17)", "Reward, restated", steps, controls)


def prove_printed_loss_of_a4() -> Proof:
    """Equation (21): A.4's sigmoid identities, and its loss, printed with y_w and y_l swapped.

    At margin z the printed loss exceeds (7) by exactly z.
    """
    z = Symbol("z", real=True)
    s, loss, printed = sigmoid(z), -log(sigmoid(z)), -log(sigmoid(-z))
    steps = (
        Step("sigmoid' = sigmoid (1 - sigmoid)", sp.diff(s, z) - s * (1 - s)),
        Step("sigmoid(-z) = 1 - sigmoid(z)", sigmoid(-z) - (1 - s)),
        Step("printed = loss + z", printed - (loss + z)),
    )
    controls = (Step("printed = loss", printed - loss),)
    return Proof("(21)", "A.4: loss and sigmoid identities", steps, controls)


def prove_printed_gradient_of_a4() -> Proof:
    """Equation (22): the chain rule for any differentiable policy, and the size of A.4's slip.

    f_w and f_l are the pair's log-probabilities, arbitrary functions of a parameter theta.
    A.4 ends with sigmoid(z) where section 4 has sigmoid(-z). The difference of the coefficients,
    -beta tanh(z / 2), is zero at margin z = 0 only. Nor is A.4's last line the gradient of the
    printed (21): it is minus that gradient.
    """
    _, p, _, beta = answers(2)
    theta, z = sp.symbols("theta z", real=True)
    f_w, f_l = (sp.Function(name, real=True)(theta) for name in ("f_w", "f_l"))
    policy, direction = (exp(f_w), exp(f_l)), sp.diff(f_w - f_l, theta)
    h_w, h_l = implicit_reward(policy, p, beta)
    u = h_w - h_l
    exact = sp.diff(dpo_loss(policy, p, beta), theta)
    chain = -sp.diff(sigmoid(z), z).subs(z, u) / sigmoid(u) * sp.diff(u, theta)
    printed_loss = dpo_loss(policy[::-1], p[::-1], beta)
    true, printed = -beta * sigmoid(-z), -beta * sigmoid(z)
    printed_line = printed.subs(z, u) * direction
    slip = -beta * sp.tanh(z / 2).rewrite(exp)
    steps = (
        Step("it is -sigmoid'(u) / sigmoid(u) du", exact - chain),
        Step("it is section 4's gradient", exact - true.subs(z, u) * direction),
        Step("printed - true = -beta tanh(z / 2)", printed - true - slip),
        Step("printed line = -d(printed (21))", printed_line + sp.diff(printed_loss, theta)),
    )
    controls = (Step("printed = true", printed - true),)
    return Proof("(22)", "A.4: gradient by the chain rule", steps, controls)
