"""The slips of the paper: in A.4, in 5.2, and where section 4 cites Table 3.

Source: Rafailov et al. 2023.
"""

import sympy as sp
from sympy import Rational, Symbol, exp, log

from dpo_lib.statements.proofs.proof import Proof, Step, each
from dpo_lib.statements.symbolic.quantities import (
    bradley_terry,
    dpo_loss,
    expectation,
    gradient,
    implicit_reward,
    optimal_policy,
    sigmoid,
    softmax,
)
from dpo_lib.statements.symbolic.symbols import answers


def prove_slip_of_a4() -> Proof:
    """A.4's last line: sigma(r_hat_w - r_hat_l) where section 4 has sigma(r_hat_l - r_hat_w)."""
    z, beta = Symbol("z", real=True), answers().beta
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
