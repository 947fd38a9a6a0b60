"""KTO: hand numbers, forty digits, its gradient, and where it rests, which is nowhere."""

import math

import mpmath
import pytest
import sympy as sp
import torch
from helpers import generator, table
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib.losses import dpo_weight
from dpo_lib.statements.symbolic.identities import differs_from_zero, is_zero
from dpo_lib.unpaired import kto_loss, reference_point

moderate, weights = st.floats(-4, 4), st.floats(0.1, 4)
YES, NO = torch.tensor([True]), torch.tensor([False])


def loss_at(gain, label, beta=1.0, kl=0.0, **weight):
    """The loss of one answer whose reward is `gain` above the reference point."""
    policy = torch.as_tensor(gain, dtype=torch.float64).reshape(1) / beta + kl
    return kto_loss(policy, table(0.0), label, kl, beta, **weight)


# log pi, log pi_ref, desirable, z_0, beta, lambda_D, lambda_U, loss; by hand:
# sigma(log 3) = 3/4, sigma(log 4) = 4/5, sigma(log 9) = 9/10.
LN = math.log
HAND = [
    (-5.0, -5.0, True, 0.0, 0.1, 1.0, 1.0, 0.5),
    (-5.0, -5.0, False, 0.0, 0.1, 1.0, 3.0, 1.5),
    (-5.0 + LN(3), -5.0, True, 0.0, 1.0, 1.0, 1.0, 0.25),
    (-5.0 + LN(3), -5.0, False, 0.0, 1.0, 1.0, 1.0, 0.75),
    (-5.0 + 2 * LN(4), -5.0, True, 0.0, 0.5, 2.0, 1.0, 0.4),
    (-5.0, -5.0, True, 2 * LN(9), 0.5, 1.0, 1.0, 0.9),  # it lags behind the others
    (-5.0, -5.0, False, 2 * LN(9), 0.5, 1.0, 1.0, 0.1),
]


@pytest.mark.parametrize(("policy", "ref", "label", "kl", "beta", "good", "bad", "wanted"), HAND)
def test_the_loss_has_the_values_found_by_hand(policy, ref, label, kl, beta, good, bad, wanted):
    got = kto_loss(table(policy), table(ref), torch.tensor([label]), kl, beta, good, bad)
    assert got.item() == pytest.approx(wanted, rel=1e-14)


@given(moderate, moderate, st.booleans(), st.floats(0, 4), st.floats(0.05, 2), weights, weights)
def test_the_loss_equals_its_formula_in_forty_digits(pc, rc, label, kl, beta, good, bad):
    with mpmath.workdps(40):
        gain = mpmath.mpf(beta) * (mpmath.mpf(pc) - rc - kl)
        value = 1 / (1 + mpmath.exp(-gain if label else gain))
        wanted = (good if label else bad) * (1 - value)
    got = kto_loss(table(pc), table(rc), torch.tensor([label]), kl, beta, good, bad)
    assert got.item() == pytest.approx(float(wanted), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_the_gradient_is_the_sigmoid_s_slope_and_points_the_way_of_the_label(beta):
    labels = torch.tensor([True, False, True, False])
    policy = table(-3.0, -2.0, -7.0, -1.0).requires_grad_()
    ref, kl = table(-3.5, -2.0, -1.0, -4.0), 0.75
    kto_loss(policy, ref, labels, kl, beta, 2.0, 3.0).sum().backward()
    share = torch.sigmoid(beta * (policy.detach() - ref - kl))
    sign = torch.where(labels, -2.0, 3.0).double()
    assert_close(policy.grad, sign * beta * share * (1 - share), rtol=1e-13, atol=1e-15)


def test_no_gradient_passes_through_the_reference_point_or_the_reference():
    policy, ref, others, other_refs = (
        torch.randn(6, generator=generator(n), dtype=torch.float64).requires_grad_()
        for n in range(4)
    )
    kl = reference_point(others + 5, other_refs)
    assert kl > 1 and not kl.requires_grad
    leaking = (others.mean() + 5).square()  # a caller that forgot to detach
    kto_loss(policy, ref.detach(), torch.arange(6) % 2 == 0, leaking, 0.5).sum().backward()
    assert others.grad is None and policy.grad.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_lies_between_0_and_the_weight_and_is_finite_at_log_ratios_of_a_million(dtype):
    sizes = torch.tensor([0, 88, 710, 1e4, 1e6], dtype=dtype)
    policy = torch.cat([sizes, -sizes]).requires_grad_()
    for beta in (1e-3, 1.0, 10.0):
        for labels, weight in ((policy > 1e9, 3.0), (policy < 1e9, 2.0)):
            losses = kto_loss(policy, torch.zeros_like(policy), labels, 0.5, beta, 2.0, 3.0)
            (slope,) = torch.autograd.grad(losses.sum(), policy)
            assert losses.min() >= 0 and losses.max() <= weight and slope.isfinite().all()


def test_far_from_the_reference_point_an_answer_is_given_up_or_taken_for_learned():
    """Unlike in DPO, where a pair that is ranked wrongly pulls with all its weight."""
    for gain in (-40.0, 40.0):
        policy = table(gain).requires_grad_()
        kto_loss(policy, table(0.0), YES, 0.0, 1.0).sum().backward()
        assert abs(policy.grad.item()) < 1e-16
    wrong = dpo_weight(*(table(x) for x in (-40.0, 0.0, 0.0, 0.0)), beta=1.0)
    assert wrong.item() == pytest.approx(1)


@given(moderate, weights)
def test_a_desirable_answer_above_costs_what_an_undesirable_one_costs_below(gain, weight):
    above = loss_at(gain, YES, desirable_weight=weight)
    below = loss_at(-gain, NO, undesirable_weight=weight)
    assert_close(above, below, rtol=1e-14, atol=0)
    assert loss_at(gain, YES) + loss_at(gain, NO) == pytest.approx(1, rel=1e-14)


@given(moderate, st.floats(0, 3), st.floats(0.1, 2))
def test_only_the_distance_to_the_reference_point_counts(gain, kl, beta):
    for label in (YES, NO):
        assert_close(loss_at(gain, label, beta, kl), loss_at(gain, label), rtol=1e-12, atol=1e-12)


def test_the_reference_point_is_a_mean_that_is_cut_off_at_0():
    ref = table(-4.0, -6.0, -5.0)
    assert reference_point(ref + table(1.0, 2.0, 3.0), ref).item() == 2.0
    assert reference_point(ref + table(1.0, -2.0, -3.0), ref).item() == 0.0
    # so it is of the whole batch: the mean of the parts' cut means is another number
    parts = [
        reference_point(*pair).item() for pair in ((ref[:1] + 1, ref[:1]), (ref[1:] - 1, ref[1:]))
    ]
    assert parts == [1.0, 0.0]


# Where an answer rests whose label is "desirable" with probability p, at a fixed z_0.
u = sp.Symbol("u", real=True)  # its reward above the reference point
p = sp.Symbol("p", positive=True)
good, bad = sp.symbols("lambda_D lambda_U", positive=True)
SIGMA = 1 / (1 + sp.exp(-u))
EXPECTED = p * good * (1 - SIGMA) + (1 - p) * bad * SIGMA


def test_sympy_an_answer_is_pushed_one_way_wherever_it_is():
    """The slope is sigma' times a constant: its sign is that of (1 - p) lambda_U - p lambda_D."""
    slope = sp.diff(EXPECTED, u)
    push = (1 - p) * bad - p * good
    assert is_zero(slope - push * SIGMA * (1 - SIGMA))
    bump = 1 / (2 + sp.exp(u) + sp.exp(-u))
    assert is_zero(SIGMA * (1 - SIGMA) - bump) and bump.is_positive  # so nowhere is it 0
    assert [sp.limit(bump, u, end) for end in (-sp.oo, sp.oo)] == [0, 0]  # but it saturates


def test_sympy_on_the_knife_edge_every_reward_is_as_good_as_every_other():
    edge = EXPECTED.subs(p, bad / (good + bad))
    assert is_zero(sp.diff(edge, u))
    assert is_zero(edge - good * bad / (good + bad))


def test_sympy_control_kto_does_not_rest_where_a_classifier_would():
    """At sigma(u) = p, the odds of the labels, rests log loss; KTO goes on to the nearer end."""
    log_loss = -p * sp.log(SIGMA) - (1 - p) * sp.log(1 - SIGMA)
    odds = sp.log(p / (1 - p))
    assert is_zero(sp.diff(log_loss, u).subs(u, odds))
    assert differs_from_zero(sp.diff(EXPECTED, u).subs(u, odds))


def test_a_majority_of_either_label_carries_an_answer_away_and_weights_turn_it_round():
    """The same in numbers, by gradient descent: 60 of 100 people like it."""
    labels = torch.arange(100) < 60
    for bad_weight, way in ((1.0, 1), (1.5, 0), (2.0, -1)):
        reward = table(0.3).requires_grad_()
        for _ in range(200):
            policy = reward.expand(100)
            loss = kto_loss(policy, torch.zeros(100).double(), labels, 0.0, 1.0, 1.0, bad_weight)
            (slope,) = torch.autograd.grad(loss.mean(), reward)
            reward = (reward - 2 * slope).detach().requires_grad_()
        moved = reward.item() - 0.3
        assert moved * way > 1 if way else abs(moved) < 1e-12


ONE = table(1.0, 2.0)
LABELS = torch.tensor([True, False])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(labels=LABELS.int()), "labels must be bool, got torch.int32"),
        (dict(labels=YES), r"shapes must be equal, got policy_logps \(2,\), .*labels \(1,\)"),
        (dict(ref_logps=table(1.0)), "shapes must be equal"),
        (dict(policy_logps=table(1.0, -math.inf)), r"policy_logps must be finite, got -inf at \(1"),
        (dict(ref_logps=table(math.nan, 1.0)), "ref_logps must be finite, got nan"),
        (dict(kl=-0.1), "kl must be one finite number of at least 0, got -0.1"),
        (dict(kl=math.nan), "kl must be one finite number of at least 0, got nan"),
        (dict(kl=table(0.1, 0.2)), r"kl must be one finite number of at least 0, got \[0.1, 0.2"),
        (dict(beta=0.0), "beta must be a positive, finite number, got 0.0"),
        (dict(desirable_weight=0.0), "desirable_weight must be positive and finite, got 0.0"),
        (dict(undesirable_weight=math.inf), "undesirable_weight must be positive and finite"),
    ],
)
def test_bad_input_is_named_with_its_value(given, message):
    fine = dict(policy_logps=ONE, ref_logps=ONE, labels=LABELS, kl=0.0, beta=0.1)
    with pytest.raises(ValueError, match=message):
        kto_loss(**fine | given)
