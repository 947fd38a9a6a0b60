"""Appendix A.3: rankings of K answers (18), through the optimal policy (19), their loss (20).

Answers are named by their places; a statement about every place is proved at the place i.

Source: Rafailov et al. 2023, appendix A.3.
"""

from functools import reduce
from itertools import permutations
from operator import mul

import sympy as sp
from sympy import exp, log

from dpo_lib.statements.proofs.proof import Proof, Step, each
from dpo_lib.statements.symbolic.any_number import (
    choice,
    i,
    implicit,
    optimum,
    p,
    r,
    ranking_logp,
    reward,
)
from dpo_lib.statements.symbolic.quantities import (
    bradley_terry,
    dpo_loss,
    gradient,
    implicit_reward,
    plackett_luce,
    reward_loss,
    softmax,
)
from dpo_lib.statements.symbolic.sums import normalised
from dpo_lib.statements.symbolic.symbols import K, answers


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
