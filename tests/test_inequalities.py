"""The inequalities that the pages print, for policies and references with zeros.

sympy proves them with positive symbols, so it cannot see a step that holds only where a policy
gives every response. `worlds` and `log_policies` draw zeros.
"""

import math

import pytest
import torch
from helpers import log_policies, moderate, table, worlds
from hypothesis import given
from hypothesis import strategies as st

from dpo_lib.evaluation import best_of_n
from dpo_lib.objective import (
    expected_reward,
    implicit_reward,
    kl_divergence,
    log_partition,
    objective,
    optimal_log_policy,
)


def given_by(log_policy, log_other):
    """What the other policy gives to the responses that the first one gives."""
    return log_other.exp().masked_fill(log_policy.isneginf(), 0.0).sum(-1)


def a_kl_is_not_negative(pi, r, ref, beta):  # chapters 3 and 5
    return 0.0, kl_divergence(pi, ref)


def minus_a_kl_is_at_most_the_mean_of_the_tangents(pi, r, ref, beta):  # 5, step 5
    return -kl_divergence(pi, ref), given_by(pi, ref) - 1


def the_mean_of_the_tangents_is_at_most_zero(pi, r, ref, beta):  # 5, step 5
    return given_by(pi, optimal_log_policy(r, ref, beta)) - 1, 0.0


def no_policy_is_worth_more_than_the_optimum(pi, r, ref, beta):  # 5
    return objective(pi, r, ref, beta), beta * log_partition(r, ref, beta)


def the_optimum_is_worth_more_than_the_reference(pi, r, ref, beta):  # 5, bounds of the slider
    return expected_reward(ref, r), beta * log_partition(r, ref, beta)


def the_optimum_is_worth_less_than_the_best_possible_reward(pi, r, ref, beta):  # 5
    possible = r.masked_fill(ref.isneginf(), -torch.inf)
    return beta * log_partition(r, ref, beta), possible.amax(-1)


def the_kl_is_bounded_by_the_rarest_possible_response(pi, r, ref, beta):  # exercise 3.2
    return kl_divergence(pi, ref), -ref.masked_fill(ref.isneginf(), 0.0).amin(-1)


def the_implicit_reward_has_no_positive_mean_under_its_reference(pi, r, ref, beta):  # 9.1
    implied = implicit_reward(pi, ref, beta)  # minus infinity where pi gives nothing
    weighted = (ref.exp() * implied).masked_fill(ref.isneginf(), 0.0)
    return weighted.sum(-1), 0.0


def reward_is_below_the_roof(pi, r, ref, beta):  # 17, for every beta
    roof = beta * (kl_divergence(pi, ref) + log_partition(r, ref, beta))
    return expected_reward(pi, r), roof


def chi_square_is_bounded_by_the_best_response(pi, r, ref, beta):  # 6, what Z would cost
    log_one_plus = log_partition(r, ref, beta / 2) - 2 * log_partition(r, ref, beta)
    best = r.masked_fill(ref.isneginf(), -torch.inf).argmax(-1, keepdim=True)
    return log_one_plus, -ref.gather(-1, best)[..., 0]


PRINTED = [
    a_kl_is_not_negative,
    minus_a_kl_is_at_most_the_mean_of_the_tangents,
    the_mean_of_the_tangents_is_at_most_zero,
    no_policy_is_worth_more_than_the_optimum,
    the_optimum_is_worth_more_than_the_reference,
    the_optimum_is_worth_less_than_the_best_possible_reward,
    the_kl_is_bounded_by_the_rarest_possible_response,
    the_implicit_reward_has_no_positive_mean_under_its_reference,
    reward_is_below_the_roof,
    chi_square_is_bounded_by_the_best_response,
]
BETAS = st.floats(-1.5, 2).map(lambda exponent: 10.0**exponent)


@pytest.mark.parametrize("inequality", PRINTED, ids=lambda function: function.__name__)
@given(data=st.data(), world=worlds(moderate), beta=BETAS)
def test_printed_inequalities_hold_for_policies_with_zeros(inequality, data, world, beta):
    ref = world.log_ref
    pi = data.draw(log_policies(ref.shape, within=ref))
    small, large = map(torch.as_tensor, inequality(pi, world.true_reward, ref, beta))
    assert (small <= large + 1e-9).all()


@given(st.data(), worlds())
def test_best_of_n_pays_at_most_log_n_less_what_it_repeats(data, world):  # 12
    n = data.draw(st.integers(1, 20))
    chosen = best_of_n(world.log_ref, world.true_reward, n)
    assert (kl_divergence(chosen, world.log_ref) <= math.log(n) - (n - 1) / n + 1e-12).all()


def test_for_a_policy_with_zeros_gibbs_inequality_needs_a_second_step():
    # E_pi[t - 1] with t = ref / pi is what the reference gives to the responses of pi, minus 1.
    sure, ref = table([1.0, 0.0, 0.0]).log(), table([0.2, 0.3, 0.5]).log()
    tangents = 0.2 - 1 - math.log(0.2)  # E_pi[t - 1 - log t]
    assert 0 < tangents < kl_divergence(sure, ref).item() - 0.7


@given(st.data(), worlds())
def test_both_steps_of_gibbs_inequality_hold_for_policies_with_zeros(data, world):
    log_policy = data.draw(log_policies(world.log_ref.shape, within=world.log_ref))
    given = world.log_ref.exp().masked_fill(log_policy.isneginf(), 0.0).sum(-1)
    assert (-kl_divergence(log_policy, world.log_ref) <= given - 1 + 1e-12).all()
    assert (given <= 1 + 1e-12).all()
