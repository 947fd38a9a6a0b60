"""Where the losses of `per_token`, DPOP, the SFT term and the f-divergences come to rest, in sympy.

A share p of the labels prefers A to B. A rest point is where both slopes of the expected loss
vanish; chapter 15 has those of the other losses.
"""

import pytest
import sympy as sp
from sympy import Symbol, log

from dpo_lib.statements.proofs.proof import Proof, Step, each
from dpo_lib.statements.symbolic import answers, gradient, sigmoid

h_A, h_B = sp.symbols("h_A h_B", real=True)  # rewards of A and B, of the whole answer
p, n, m, beta, lam = sp.symbols("p n m beta lambda", positive=True)  # n, m: lengths of A and B


def L(margin):
    return -log(sigmoid(margin))


def expected(loss):
    """The mean over labels of a loss of (chosen, rejected), each a reward and a length."""
    return p * loss((h_A, n), (h_B, m)) + (1 - p) * loss((h_B, m), (h_A, n))


def test_sigmoid_norm_rests_where_the_margin_per_token_is_dpo_s_and_a_shift_moves_it():
    c = Symbol("c", real=True)  # what depends on the prompt alone: beta log Z in (5)
    slopes = gradient(expected(lambda w, l: L(w[0] / w[1] - l[0] / l[1])), (h_A, h_B))  # noqa: E741
    margin = h_A / n - h_B / m
    shifted = margin.subs({h_A: h_A + c, h_B: h_B + c}, simultaneous=True)
    odds = log(p) - log(1 - p)
    rest = {h_A: n * (odds + h_B / m)}
    Proof(
        "sigmoid_norm",
        "rests at a margin per token of the logit of p",
        steps=(
            Step("slope in A's reward", slopes[0] - (sigmoid(margin) - p) / n),
            Step("slope in B's reward", slopes[1] + (sigmoid(margin) - p) / m),
            Step("the slope is 0 at the rest", slopes[0].subs(rest)),
            Step("a shift moves the margin by c (1 / n - 1 / m)", shifted - margin - c / n + c / m),
            Step("and not where lengths are equal", (shifted - margin).subs(m, n)),
        ),
        controls=(
            Step("it rests where DPO does", slopes[0].subs(h_A, odds + h_B)),
            Step("Z cancels whatever the lengths", shifted - margin),
        ),
    ).check()


def test_rdpo_rests_where_dpo_does_less_the_price_of_the_tokens_that_one_answer_has_more():
    alpha = Symbol("alpha", positive=True)
    charged = expected(lambda w, l: L(w[0] - l[0] + alpha * (w[1] - l[1])))  # noqa: E741
    margin = h_A - h_B + alpha * (n - m)
    odds = log(p) - log(1 - p)
    (slope,) = gradient(charged, (h_A,))
    Proof(
        "rdpo",
        "rests at the logit of p less alpha (n - m)",
        steps=(
            Step("slope in A's reward", slope - (sigmoid(margin) - p)),
            Step("the slope is 0 at the rest", slope.subs(h_A, h_B + odds - alpha * (n - m))),
            Step("labels that pay for tokens rest at the reward alone",  # r, plus alpha a token
                 (odds - alpha * (n - m)).subs(p, sigmoid(h_A - h_B + alpha * (n - m)))
                 - (h_A - h_B)),
        ),
        controls=(
            Step("it rests where DPO does", slope.subs(h_A, h_B + odds)),
            Step("the price has the other sign", slope.subs(h_A, h_B + odds + alpha * (n - m))),
        ),
    ).check()  # fmt: skip


def test_simpo_rests_beyond_the_logit_by_less_than_its_target():
    """With u = exp(margin) and g = exp(-gamma) the rest is where p has the value `share`."""
    u, g = sp.symbols("u g", positive=True)
    z = Symbol("z", real=True)
    slope = sp.diff(p * L(z + log(g)) + (1 - p) * L(-z + log(g)), z)
    share = u * (1 + g * u) / (g + 2 * u + g * u**2)
    nearer = u * (1 - u) * (1 - g) / ((1 + u) * (g + 2 * u + g * u**2))  # below 0 for u > 1
    further = u * (1 - g**2) / ((1 + u) * (g**2 + 2 * u + u**2))  # above 0
    Proof(
        "simpo",
        "one rest margin for every share of labels",
        steps=(
            Step("the slope is 0 at log u", slope.subs({z: log(u), p: share})),
            Step("gamma = 0 is DPO's logit", share.subs(g, 1) - u / (1 + u)),
            Step("a fair coin rests at 0", share.subs(u, 1) - sp.Rational(1, 2)),
            Step("at the logit of p the share is below p", share - u / (1 + u) - nearer),
            Step("gamma beyond it is above p", share.subs(u, u / g) - u / (1 + u) - further),
            Step(
                "p rises with the margin, so there is one rest",
                sp.diff(share, u) - (g + 2 * g**2 * u + g * u**2) / (g + 2 * u + g * u**2) ** 2,
            ),
        ),
        controls=(
            Step("the target does not move the rest", slope.subs({z: log(u), p: u / (1 + u)})),
            Step("the rest is gamma further out", share.subs(u, u / g) - u / (1 + u)),
        ),
    ).check()


def test_orpo_never_rests_while_both_answers_can_become_more_likely():
    """In log-odds y of each; with P_A + P_B = 1 it rests between half the logit and the logit."""
    y_A, y_B, y = sp.symbols("y_A y_B y", real=True)

    def loss(chosen, rejected):
        return -log(sigmoid(chosen)) + beta * L(chosen - rejected)

    free = p * loss(y_A, y_B) + (1 - p) * loss(y_B, y_A)
    off = beta * (sigmoid(y_A - y_B) - p)
    pulls = (p * sigmoid(-y_A), (1 - p) * sigmoid(-y_B))
    slopes = gradient(free, (y_A, y_B))
    bound = sp.diff(free.subs({y_A: y, y_B: -y}), y)  # answers of one token, and no third
    logit = log(p) - log(1 - p)
    Proof(
        "orpo",
        "no rest point on the plane",
        steps=(
            Step("slope in A's log-odds", slopes[0] - (off - pulls[0])),
            Step("slope in B's log-odds", slopes[1] - (-off - pulls[1])),
            Step("their sum is below 0 everywhere", sum(slopes) + sum(pulls)),
            Step("P_A + P_B = 1", bound - (sigmoid(y) - p) - 2 * beta * (sigmoid(2 * y) - p)),
            Step("at half the logit SFT pulls on", bound.subs(y, logit / 2) + p
                 - sigmoid(logit / 2)),
            Step("at the logit the odds pull back", bound.subs(y, logit)
                 - 2 * beta * (sigmoid(2 * logit) - p)),
        ),
        controls=(
            Step("it rests where the odds are the labels'", sum(slopes).subs(y_A, y_B + logit)),
            Step("with P_A + P_B = 1 it rests at the logit", bound.subs(y, logit)),
        ),
    ).check()  # fmt: skip


def test_an_sft_term_has_no_rest_beside_a_loss_of_the_margin():
    """Both answers rise; only that probabilities sum to 1 stops them."""
    alpha = Symbol("alpha", positive=True)
    y = Symbol("y", real=True)
    plain = expected(lambda w, l: L(w[0] - l[0]))  # noqa: E741
    whole = expected(lambda w, l: L(w[0] - l[0]) - alpha * w[0] / w[1])  # noqa: E741
    logit = log(p) - log(1 - p)
    two = p * (L(y) + alpha * L(y)) + (1 - p) * (L(-y) + alpha * L(-y))  # uniform reference
    Proof(
        "rpo_alpha",
        "no rest point on the plane",
        steps=(
            Step("the margin's slopes cancel", sum(gradient(plain, (h_A, h_B)))),
            Step("what is left is below 0", sum(gradient(whole, (h_A, h_B)))
                 + alpha * (p / n + (1 - p) / m)),
            Step("with pi_A + pi_B = 1 and one token it rests at the logit",
                 sp.diff(two, y).subs(y, logit)),
        ),
        controls=(Step("it rests at DPO's margin", sum(gradient(whole, (h_A, h_B)))
                       .subs(h_A, h_B + logit)),),
    ).check()  # fmt: skip


def test_dpop_rests_at_dpo_s_margin_with_both_answers_at_least_as_likely_as_under_the_reference():
    a, b = sp.symbols("a b", positive=True)  # sizes of the rewards of A and B

    def slopes(signs, sizes):
        """Of the expected loss, where max(0, .) is known: in A's reward and in B's."""
        counted = [size if sign > 0 else -(1 + lam) * size for sign, size in zip(signs, sizes)]  # noqa: B905
        rewards = [sign * size for sign, size in zip(signs, sizes)]  # noqa: B905
        mean = p * L(counted[0] - rewards[1]) + (1 - p) * L(counted[1] - rewards[0])
        found = [sign * sp.diff(mean, size) for sign, size in zip(signs, sizes)]  # noqa: B905
        pulls = p * sigmoid(rewards[1] - counted[0]), (1 - p) * sigmoid(rewards[0] - counted[1])
        return found, pulls

    logit = log(p) - log(1 - p)
    up, _ = slopes((1, 1), (a, b))
    mixed, (_, of_b) = slopes((1, -1), (a, b))
    down, of_both = slopes((-1, -1), (a, b))
    Proof(
        "dpop",
        "rests on the half of DPO's valley where no reward is negative",
        steps=(
            Step("both up: A's slope is DPO's", up[0] - (sigmoid(a - b) - p)),
            Step("both up: B's slope is DPO's", up[1] + (sigmoid(a - b) - p)),
            Step("both up: 0 at the logit", up[0].subs(a, b + logit)),
            Step("B down: the slopes sum to less than 0", sum(mixed) + lam * of_b),
            Step("both down: the slopes sum to less than 0", sum(down) + lam * sum(of_both)),
        ),
        controls=(
            Step("B may be down at the logit", sum(mixed).subs(a, logit - b)),
            Step("lambda plays no part where both are down", sum(down)),
        ),
    ).check()


t = Symbol("t", positive=True)
A = Symbol("alpha", positive=True)
DIVERGENCES = {  # f and f', as the docstring of `divergences` prints them
    "reverse_kl": (t * log(t) - t + 1, log(t)),
    "forward_kl": (-log(t) + t - 1, 1 - 1 / t),
    "js_divergence": (t * log(t) - (1 + t) * log((1 + t) / 2), log(2 * t / (1 + t))),
    "alpha_divergence": (
        (t**A - A * t + A - 1) / (A * (A - 1)),
        (t ** (A - 1) - 1) / (A - 1),
    ),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_with_a_divergence_the_optimum_and_the_loss_s_rest_have_f_prime_for_the_logarithm(name):
    """Three answers. The constant c(x) is any number: it cancels from every difference."""
    r, ref, q, beta = answers()
    c = Symbol("c", real=True)
    f, slope = DIVERGENCES[name]
    score = [slope.subs(t, q_i / p_i) for q_i, p_i in zip(q, ref, strict=True)]
    D = sum(p_i * f.subs(t, q_i / p_i) for q_i, p_i in zip(q, ref, strict=True))
    J = sum(q_i * r_i for q_i, r_i in zip(q, r, strict=True)) - beta * D
    reward = {r_i: beta * s + c for r_i, s in zip(r, score, strict=True)}  # (5)
    # The labels are those of r; the loss is (7) at beta f'. Its slope in the score of answer 1:
    s = sp.symbols("s_1:4", real=True)
    loss = sum(
        sigmoid(r[i] - r[j]) * L(beta * s[i] - beta * s[j])
        for i in range(3) for j in range(3) if i != j
    )  # fmt: skip

    def at(scores):
        """The loss's slopes, where the scores are these and the rewards those of (5)."""
        there = dict(zip(s, scores, strict=True))
        return [d.subs(reward).subs(there) for d in gradient(loss, s)]

    logs = [log(q_i / p_i) for q_i, p_i in zip(q, ref, strict=True)]
    other = (
        [1 - p_i / q_i for q_i, p_i in zip(q, ref, strict=True)] if name == "reverse_kl" else logs
    )
    lagrange = [d.subs(reward) for d in gradient(J, q)]
    Proof(
        name,
        "(3), (4), (5) and (7) with D_f",
        steps=(
            Step("f(1) = 0", f.subs(t, 1)),
            Step("f' is the derivative of f", sp.diff(f, t) - slope),
            Step("f'(1) = 0", slope.subs(t, 1)),
            *each("dJ/dq is one number at (5)", lagrange, [c] * 3),
            *each("the loss is stationary at (5)", at(score), [0] * 3),
        ),
        controls=(
            Step("another divergence's score is stationary", at(other)[0]),
            Step("c is beta log Z, and r - c is beta log t whatever f", reward[r[0]] - c
                 - beta * other[0]),
        ),
    ).check()  # fmt: skip
    curvature = sp.diff(slope, t)
    assert sp.simplify(curvature).is_positive or name == "alpha_divergence"
    assert sp.simplify(curvature - t ** (A - 2)) == 0 or name != "alpha_divergence"


def test_only_where_f_prime_is_finite_at_0_an_answer_can_lose_all_probability():
    """And where it has a ceiling, the chosen answer's score has one."""
    ends = {name: [sp.limit(slope, t, to) for to in (0, sp.oo)]
            for name, (_, slope) in DIVERGENCES.items() if name != "alpha_divergence"}  # fmt: skip
    assert ends == {
        "reverse_kl": [-sp.oo, sp.oo],
        "forward_kl": [-sp.oo, 1],
        "js_divergence": [-sp.oo, log(2)],
    }
    for a, wanted in ((sp.Rational(1, 2), [-sp.oo, 2]), (2, [-1, sp.oo]), (3, [-sp.S.Half, sp.oo])):
        slope = DIVERGENCES["alpha_divergence"][1].subs(A, a)
        assert [sp.limit(slope, t, to, "+") for to in (0, sp.oo)] == wanted
    _, slope = DIVERGENCES["alpha_divergence"]
    assert sp.limit(slope, A, 1) == log(t)
    assert sp.simplify(slope.subs(A, 0) - DIVERGENCES["forward_kl"][1]) == 0
