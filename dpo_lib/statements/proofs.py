"""The paper's statements proved by sympy, each with false claims that it must refute.

A `Proof` has steps, whose two sides are identical, and controls, tempting errors. There is one
prompt with K = 3 answers, and no step uses that K is 3. `PROOFS` finds them by equation number.

Source: Rafailov et al. 2023, sections 3 and 4, appendices A.1, A.2 and A.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp
from sympy import Expr, Symbol, exp, log

from dpo_lib.statements.symbolic import (
    answers,
    bradley_terry,
    differs_from_zero,
    dpo_loss,
    expectation,
    gradient,
    implicit_reward,
    is_zero,
    kl,
    log_ratio,
    normalised,
    objective,
    optimal_policy,
    partition,
    reward_loss,
    sigmoid,
    softmax,
)


@dataclass(frozen=True)
class Step:
    """A claim that two sides are equal; the residual is their difference."""

    claim: str
    residual: Expr


@dataclass(frozen=True)
class Proof:
    """A statement of the paper: steps that must hold and controls, false claims, that must not."""

    number: str
    title: str
    steps: tuple[Step, ...]
    controls: tuple[Step, ...]

    def check(self) -> None:
        """Prove every step and refute every control.

        Raises:
            AssertionError: naming the statement and the first claim that fails.
        """
        for step in self.steps:
            if not is_zero(step.residual):
                raise AssertionError(f"{self.number} not proved: {step.claim}")
        for control in self.controls:
            if not differs_from_zero(control.residual):
                raise AssertionError(f"{self.number} not refuted: {control.claim}")


def each(claim: str, left: Iterable[Expr], right: Iterable[Expr]) -> tuple[Step, ...]:
    """One step for each pair of components."""
    pairs = enumerate(zip(left, right, strict=True), start=1)
    return tuple(Step(f"{claim} [{i}]", a - b) for i, (a, b) in pairs)


def prove_bradley_terry() -> Proof:
    """Equation (1): a softmax over two rewards is the sigmoid of their difference."""
    r1, r2, c = sp.symbols("r_1 r_2 c", real=True)
    preference = bradley_terry(r1, r2)
    steps = (
        Step("it is the sigmoid of the reward difference", preference - sigmoid(r1 - r2)),
        Step("p(1 > 2) + p(2 > 1) = 1", preference + bradley_terry(r2, r1) - 1),
        Step("a common shift cancels", preference - bradley_terry(r1 + c, r2 + c)),
    )
    controls = (
        Step("a common scale cancels", preference - bradley_terry(2 * r1, 2 * r2)),
        Step("sigmoids of single rewards sum to 1", sigmoid(r1) + sigmoid(r2) - 1),
    )
    return Proof("(1)", "Bradley-Terry preference", steps, controls)


def prove_reward_loss() -> Proof:
    """Equation (2): gradient, convexity, flat direction, and the minimiser of its expectation.

    s = sigmoid(r_w - r_l). The expectation is over a label that prefers answer 1 with
    probability sigmoid(m), and h is the margin being fitted.
    """
    r_w, r_l, v_w, v_l, c, h, m = sp.symbols("r_w r_l v_w v_l c h m", real=True)
    loss, s = reward_loss(r_w, r_l), sigmoid(r_w - r_l)
    curvature = s * sigmoid(r_l - r_w)
    v = sp.Matrix([v_w, v_l])
    (quadratic_form,) = v.T * sp.hessian(loss, (r_w, r_l)) * v
    slope = sp.diff(sigmoid(m) * reward_loss(h, 0) + sigmoid(-m) * reward_loss(0, h), h)
    steps = (
        Step("it is -log of (1)", loss + log(bradley_terry(r_w, r_l))),
        *each("its gradient is (s - 1, 1 - s)", gradient(loss, (r_w, r_l)), (s - 1, 1 - s)),
        Step("v'Hv = s(1 - s)(v_w - v_l)^2", quadratic_form - curvature * (v_w - v_l) ** 2),
        Step("s(1 - s) > 0, so it is convex", sp.sign(curvature) - 1),
        Step("a common shift changes nothing", reward_loss(r_w + c, r_l + c) - loss),
        Step("its expectation has slope sigmoid(h) - p", slope - sigmoid(h) + sigmoid(m)),
        Step("the minimiser h = m reproduces p", slope.subs(h, m)),
    )
    controls = (
        Step("the minimiser is a margin of 1", slope.subs(h, 1)),
        Step("the minimiser is a probability of 1", sp.limit(slope, h, sp.oo)),
    )
    return Proof("(2)", "Reward-model loss", steps, controls)


def prove_objective() -> Proof:
    """Equation (3): the gradient of the objective is its score-function gradient.

    The policy is a softmax of K logits. The reward does not depend on them, yet it stays in the
    gradient, because the answers are drawn from the policy.
    """
    r, p, _, beta = answers()
    theta = sp.symbols("theta_1:4", real=True)
    policy = softmax(theta)
    shaped = [r_i - h for r_i, h in zip(r, implicit_reward(policy, p, beta), strict=True)]
    weights = [q * reward for q, reward in zip(policy, shaped, strict=True)]
    score_function = [expectation(weights, (sp.diff(log(q), t) for q in policy)) for t in theta]
    exact = gradient(objective(policy, r, p, beta), theta)
    kl_only = gradient(-beta * kl(policy, p), theta)
    equal_rewards = gradient(objective(policy, [r[0]] * 3, p, beta), theta)
    steps = (
        *each("dJ = E[(r - beta log(pi / ref)) d log pi]", exact, score_function),
        *each("equal rewards leave the gradient of the KL", equal_rewards, kl_only),
    )
    controls = each("any rewards leave the gradient of the KL", exact, kl_only)
    return Proof("(3)", "KL-constrained objective", steps, controls)


def prove_ppo_reward() -> Proof:
    """The reward PPO is run on (section 3, unnumbered): its mean is the objective (3).

    The derivative of its own -beta log pi has mean zero, so PPO may hold the reward constant.
    """
    r, p, q, beta = answers()
    theta = sp.symbols("theta_1:4", real=True)
    policy = softmax(theta)
    shaped = [r_i - beta * (log(q_i) - log(p_i)) for r_i, p_i, q_i in zip(r, p, q, strict=True)]
    mean = expectation(q, shaped)
    mean_scores = [expectation(policy, (sp.diff(log(pi), t) for pi in policy)) for t in theta]
    reverse = expectation(q, r) - beta * kl(p, q)
    steps = (
        Step("its mean is J", mean - objective(q, r, p, beta)),
        *each("E[d log pi] = 0", mean_scores, [0] * 3),
    )
    controls = (Step("its mean has KL(ref || pi)", normalised(mean - reverse, p, q)),)
    return Proof("PPO reward", "Reward with the KL penalty folded in", steps, controls)


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


PROOFS = {
    "(1)": prove_bradley_terry,
    "(2)": prove_reward_loss,
    "(3)": prove_objective,
    "PPO reward": prove_ppo_reward,
    "Z": prove_partition,
    "(4)": prove_optimal_policy,
    "(5)": prove_rearrangement,
    "(6)": prove_preference_from_policy,
    "(7)": prove_dpo_loss,
    "DPO gradient": prove_dpo_gradient,
    "(11)": prove_single_expectation,
    "(12)": prove_any_constant,
    "(13)": prove_optimum_in_denominator,
    "(14)": prove_kl_form,
    "(15)": prove_gibbs,
    "(16)": prove_bradley_terry_restated,
    "(17)": prove_reward_restated,
    "(21)": prove_printed_loss_of_a4,
    "(22)": prove_printed_gradient_of_a4,
}
