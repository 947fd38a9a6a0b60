"""Section 3: Bradley-Terry (1), the reward model (2), objective (3), the reward of PPO.

Source: Rafailov et al. 2023, section 3.
"""

import sympy as sp
from sympy import log

from dpo_lib.statements.proofs.proof import Proof, Step, each
from dpo_lib.statements.symbolic.any_number import centred, i
from dpo_lib.statements.symbolic.quantities import (
    bradley_terry,
    expectation,
    gradient,
    implicit_reward,
    kl,
    objective,
    reward_loss,
    sigmoid,
    softmax,
)
from dpo_lib.statements.symbolic.sums import normalised, total
from dpo_lib.statements.symbolic.symbols import answers, answers_of_any_number


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


def prove_normalised_reward() -> Proof:
    """The reward model's normalisation (section 3, unnumbered): a mean of zero is a shift."""
    r, p, _, _ = answers_of_any_number()
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
