import math

import mpmath
import pytest
import torch
from helpers import betas, generator, log_policies, moderate, numbers, table, tables, worlds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib.objective import (
    are_equivalent,
    expected_reward,
    implicit_reward,
    kl_divergence,
    kl_shaped_reward,
    log_partition,
    objective,
    optimal_log_policy,
    policy_preference,
    policy_ranking_logp,
    project,
    reward_from_policy,
    soft_advantage,
)
from dpo_lib.preferences import bradley_terry, plackett_luce_logp
from dpo_lib.world import random_world, sample_responses, three_answers

INF = torch.inf
# Two responses, equally likely under the reference, rewards beta log 3 and 0: the weights
# exp(r / beta) are 3 and 1, so Z = (3 + 1) / 2 = 2 and pi* = (3/4, 1/4).
HALF = table([0.5, 0.5]).log()


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_the_objective_and_its_optimum_worked_by_hand(beta):
    reward = table([beta * math.log(3), 0.0])
    optimum = optimal_log_policy(reward, HALF, beta)
    assert_close(optimum.exp(), table([0.75, 0.25]))
    assert_close(log_partition(reward, HALF, beta), table(math.log(2)))
    assert_close(expected_reward(optimum, reward), table(beta * 0.75 * math.log(3)))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert_close(kl_divergence(optimum, HALF), table(kl))
    assert_close(objective(optimum, reward, HALF, beta), table(beta * math.log(2)))
    assert_close(
        kl_shaped_reward(reward, optimum, HALF, beta), table([beta * math.log(2)] * 2)
    )  # r - beta log(pi*/pi_ref) is beta log Z for every response
    assert_close(implicit_reward(optimum, HALF, beta), reward - beta * math.log(2))


@given(st.data(), worlds(), betas)
def test_a_valid_world_never_gives_nan(data, world, beta):
    reward, log_ref = world.true_reward, world.log_ref
    log_policy = data.draw(log_policies(reward.shape))  # its support is its own
    optimum = optimal_log_policy(reward, log_ref, beta)
    log_z = log_partition(reward, log_ref, beta)
    values = (
        expected_reward(log_policy, reward),
        kl_divergence(log_policy, log_ref),
        objective(log_policy, reward, log_ref, beta),
        kl_shaped_reward(reward, log_policy, log_ref, beta),
        implicit_reward(log_policy, log_ref, beta),
        reward_from_policy(optimum, log_ref, beta, log_z),
        optimum,
        log_z,
    )
    assert not any(value.isnan().any() for value in values)
    assert log_z.isfinite().all()
    assert torch.equal(optimum.isneginf(), log_ref.isneginf())
    # Logarithms of several hundred cancel here, and 700 has a rounding error of 1e-13.
    assert_close(optimum.logsumexp(-1), torch.zeros_like(log_z), rtol=0, atol=1e-12)


@given(st.data(), worlds())
def test_kl_is_positive_zero_on_itself_and_infinite_off_the_support(data, world):
    log_ref = world.log_ref
    inside = data.draw(log_policies(log_ref.shape, within=log_ref))
    anywhere = data.draw(log_policies(log_ref.shape))
    assert (kl_divergence(inside, log_ref) >= -1e-15).all()
    assert kl_divergence(inside, log_ref).isfinite().all()
    assert (kl_divergence(log_ref, log_ref) == 0).all()
    outside = (~anywhere.isneginf() & log_ref.isneginf()).any(-1)
    assert torch.equal(kl_divergence(anywhere, log_ref).isposinf(), outside)
    assert torch.equal(objective(anywhere, world.true_reward, log_ref, 0.5).isneginf(), outside)


def test_mass_outside_the_support_counts_even_where_its_probability_underflows():
    log_policy, log_ref = table([0.0, -1000.0]), table([0.0, -INF])
    assert kl_divergence(log_policy, log_ref).item() == INF
    assert objective(log_policy, table([0.0, 1.0]), log_ref, 0.1).item() == -INF


def test_a_response_without_probability_adds_nothing():  # 0 log 0 = 0
    assert_close(kl_divergence(table([0.0, -INF]), HALF), table(math.log(2)))


@settings(max_examples=60)
@given(worlds(), betas)
def test_equation_4_and_log_z_have_twelve_digits(world, beta):
    optimum = optimal_log_policy(world.true_reward, world.log_ref, beta)
    log_z = log_partition(world.true_reward, world.log_ref, beta)
    with mpmath.workdps(60):
        for x in range(world.prompts):
            rows = zip(world.log_ref[x].tolist(), world.true_reward[x].tolist(), strict=True)
            exponents = [mpmath.mpf(p) + mpmath.mpf(r) / beta for p, r in rows]
            # mpmath.exp has no overflow, so Z is the plain sum here
            exact = mpmath.log(mpmath.fsum(map(mpmath.exp, exponents)))
            assert log_z[x].item() == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
            for got, exponent in zip(optimum[x].tolist(), exponents, strict=True):
                want = float(exponent - exact)
                assert got == pytest.approx(want, rel=1e-12, abs=1e-12)


@given(st.data(), worlds(moderate), st.floats(0.05, 20))
def test_the_objective_falls_from_its_top_by_beta_times_the_kl_to_the_optimum(data, world, beta):
    reward, log_ref = world.true_reward, world.log_ref
    log_policy = data.draw(log_policies(reward.shape, within=log_ref))
    optimum = optimal_log_policy(reward, log_ref, beta)
    top = beta * log_partition(reward, log_ref, beta)
    gap = top - objective(log_policy, reward, log_ref, beta)
    assert_close(gap, beta * kl_divergence(log_policy, optimum), rtol=1e-9, atol=1e-12 * beta)
    assert (gap >= -1e-12).all()


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_no_policy_on_a_fine_grid_of_the_triangle_beats_equation_4(beta):
    world, cells = three_answers(), 120
    points = torch.tensor([[i, j] for i in range(cells + 1) for j in range(cells + 1 - i)])
    grid = torch.cat([points, cells - points.sum(-1, keepdim=True)], -1).double() / cells
    size = (len(grid), 3)
    reward, log_ref = world.true_reward.expand(size), world.log_ref.expand(size)
    heights = objective(grid.log(), reward, log_ref, beta)
    optimum = optimal_log_policy(world.true_reward, world.log_ref, beta)
    assert heights.max() <= objective(optimum, world.true_reward, world.log_ref, beta)
    assert (grid[heights.argmax()] - optimum.exp()[0]).abs().max() < 1 / cells


@given(worlds(st.integers(-80, 80).map(lambda k: k / 16)), st.sampled_from([-(2.0**20), 3.0]))
def test_a_shift_that_depends_on_the_prompt_only_changes_nothing(world, shift):  # Lemma 2
    shifts = shift * torch.arange(1.0, world.prompts + 1, dtype=torch.float64)[:, None]
    shifted = optimal_log_policy(world.true_reward + shifts, world.log_ref, 0.5)
    assert torch.equal(shifted, optimal_log_policy(world.true_reward, world.log_ref, 0.5))
    raised = log_partition(world.true_reward + shifts, world.log_ref, 0.5)
    wanted = log_partition(world.true_reward, world.log_ref, 0.5) + shifts[:, 0] / 0.5
    assert_close(raised, wanted)


@given(worlds(moderate), st.floats(0.05, 20), st.sampled_from([0.25, 0.5, 4.0]))
def test_scaling_the_reward_is_dividing_beta(world, beta, scale):
    scaled = optimal_log_policy(scale * world.true_reward, world.log_ref, beta)
    assert_close(scaled, optimal_log_policy(world.true_reward, world.log_ref, beta / scale))


@given(st.data(), worlds(moderate), st.floats(0.05, 20), st.sampled_from([0.25, 3.0]))
def test_rewards_and_beta_times_a_number_are_the_objective_times_it(data, world, beta, a):
    log_policy = data.draw(log_policies(world.log_ref.shape, within=world.log_ref))
    scaled = objective(log_policy, a * world.true_reward, world.log_ref, a * beta)
    assert_close(scaled, a * objective(log_policy, world.true_reward, world.log_ref, beta))


@given(worlds(), betas)
def test_beta_log_z_lies_between_the_mean_and_the_largest_reward(world, beta):
    soft = beta * log_partition(world.true_reward, world.log_ref, beta)
    top = world.true_reward.masked_fill(world.log_ref.isneginf(), -INF).amax(-1)
    slack = 1e-12 * (1 + top.abs() + beta)
    assert (soft <= top + slack).all()
    assert (soft >= expected_reward(world.log_ref, world.true_reward) - slack).all()


@given(worlds(moderate))
def test_a_large_beta_leads_back_to_the_reference(world):
    reward, log_ref = world.true_reward, world.log_ref
    optimum = optimal_log_policy(reward, log_ref, 1e12)
    assert_close(optimum.exp(), log_ref.exp(), rtol=1e-10, atol=0)
    # E_ref[r] + Var_ref[r] / (2 beta): at beta = 1e6 the mean is 1e-5 away at most
    soft = 1e6 * log_partition(reward, log_ref, 1e6)
    assert_close(soft, expected_reward(log_ref, reward), rtol=0, atol=2e-5)


def test_a_small_beta_keeps_the_best_possible_responses_in_the_reference_s_ratio():
    reward = table([3.0, 3.0, 2.0, 1e6])
    log_ref = table([0.3, 0.2, 0.5, 0.0]).log()  # the largest reward is impossible
    optimum = optimal_log_policy(reward, log_ref, 1e-12).exp()
    assert_close(optimum, table([0.6, 0.4, 0.0, 0.0]), rtol=1e-15, atol=0)
    assert_close(1e-12 * log_partition(reward, log_ref, 1e-12), table(3.0))


@given(worlds(moderate), st.floats(0.1, 10))
def test_the_optimal_value_falls_with_beta_at_the_rate_of_the_kl(world, beta):  # envelope
    def value(b):
        return b * log_partition(world.true_reward, world.log_ref, b)

    h = 1e-4 * beta
    slope = (value(beta + h) - value(beta - h)) / (2 * h)
    optimum = optimal_log_policy(world.true_reward, world.log_ref, beta)
    kl = kl_divergence(optimum, world.log_ref)
    assert_close(slope, -kl, rtol=1e-5, atol=1e-6)


@given(worlds(moderate), st.floats(0.05, 20), moderate)
def test_equation_5_returns_the_reward_and_any_other_log_z_the_same_policy(world, beta, log_c):
    reward, log_ref, possible = world.true_reward, world.log_ref, ~world.log_ref.isneginf()
    optimum = optimal_log_policy(reward, log_ref, beta)
    log_z = log_partition(reward, log_ref, beta)
    back = reward_from_policy(optimum, log_ref, beta, log_z)
    assert_close(back[possible], reward[possible], rtol=1e-10, atol=1e-10 * (1 + beta))
    assert back[~possible].isneginf().all()
    other = reward_from_policy(optimum, log_ref, beta, torch.full_like(log_z, log_c))
    again = optimal_log_policy(other.masked_fill(~possible, 0.0), log_ref, beta)
    assert_close(again, optimum, rtol=1e-9, atol=1e-12)


@given(numbers, numbers, st.floats(0.05, 20), st.sampled_from([-7.0, 0.0, 1e3]))
def test_equation_6_is_equation_1_at_the_implicit_rewards_plus_any_shift(one, other, beta, shift):
    policy_one, policy_other = table(-1e6 + one / 2), table(-1e6 + other / 2)
    ref_one, ref_other = table(-1e6), table(-1e6 - 1)
    rewards = (
        beta * (p - q) + shift for p, q in ((policy_one, ref_one), (policy_other, ref_other))
    )
    got = policy_preference(policy_one, policy_other, ref_one, ref_other, beta)
    assert_close(got, bradley_terry(*rewards), rtol=1e-6, atol=1e-12)


def test_the_implicit_reward_of_an_impossible_response_keeps_it_impossible():
    policy, ref = table(-INF, -INF, -1.0, -1e6), table(-INF, -2.0, -3.0, -1e6)
    assert implicit_reward(policy, ref, 2.0).tolist() == [-INF, -INF, 4.0, 0.0]


@given(worlds(moderate), st.floats(0.05, 20))
def test_the_mean_of_the_reward_that_ppo_is_run_on_is_the_objective(world, beta):
    reward, log_ref = world.true_reward, world.log_ref
    log_policy = optimal_log_policy(reward.flip(-1), log_ref, 1.0)
    shaped = kl_shaped_reward(reward, log_policy, log_ref, beta)
    mean = torch.where(log_policy.isneginf(), 0.0, log_policy.exp() * shaped).sum(-1)
    assert_close(mean, objective(log_policy, reward, log_ref, beta), rtol=1e-9, atol=1e-9)


def test_the_sampled_log_ratio_estimates_the_kl_without_bias():  # J2
    world = random_world(generator(1), responses=5)
    log_policy = optimal_log_policy(world.true_reward, world.log_ref, 0.5)
    drawn = sample_responses(log_policy, 100_000, generator(2))
    ratios = log_policy.gather(-1, drawn) - world.log_ref.gather(-1, drawn)
    penalties = -kl_shaped_reward(torch.zeros_like(ratios), ratios, torch.zeros_like(ratios), 1.0)
    error = penalties.mean() - kl_divergence(log_policy, world.log_ref)
    assert (error.abs() < 4 * penalties.std() / math.sqrt(100_000)).all()


def test_moving_towards_the_reference_raises_the_reward_that_ppo_is_run_on():  # J2
    far, near, ref = table(-1.0), table(-2.0), table(-3.0)
    reward = table(0.0)
    assert kl_shaped_reward(reward, near, ref, 0.1) > kl_shaped_reward(reward, far, ref, 0.1)


def test_the_gradient_of_the_objective_in_the_logits_is_the_centred_shaped_reward():
    world, beta = random_world(generator(3), prompts=2, responses=5, impossible=1), 0.7
    shift = torch.randn(2, 5, generator=generator(4), dtype=torch.float64)
    logits = (world.log_ref + shift).requires_grad_()
    log_policy = logits.log_softmax(-1)
    objective(log_policy, world.true_reward, world.log_ref, beta).sum().backward()
    shaped = kl_shaped_reward(world.true_reward, log_policy, world.log_ref, beta).detach()
    shaped = torch.where(world.log_ref.isneginf(), 0.0, shaped)
    policy = log_policy.exp().detach()
    mean = (policy * shaped).sum(-1, keepdim=True)
    assert_close(logits.grad, policy * (shaped - mean))


@settings(max_examples=30)
@given(worlds(moderate), st.floats(0.05, 20), st.data())
def test_worlds_side_by_side_equal_each_world_alone(world, beta, data):
    other = data.draw(tables(world.true_reward.shape, moderate))
    rewards, log_refs = torch.stack([world.true_reward, other]), world.log_ref.expand(2, -1, -1)
    for function in (optimal_log_policy, log_partition):
        both = function(rewards, log_refs, beta)
        for k in range(2):
            assert_close(both[k], function(rewards[k], log_refs[k], beta), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_the_projection_and_the_soft_advantage_worked_by_hand(beta):
    reward = table([beta * math.log(3), 0.0])  # Z = 2, pi* = (3/4, 1/4)
    projected = table([beta * math.log(1.5), beta * math.log(0.5)])
    assert_close(project(reward, HALF, beta), projected)
    # At the reference the log-ratio is 0, so the bracket of (10) is the projection itself.
    assert_close(soft_advantage(reward, HALF, HALF, beta), projected)


def test_an_answer_that_the_reference_never_gives_is_shifted_with_its_prompt():
    log_ref = table([0.5, 0.5, 0.0]).log()
    reward = table([math.log(3), 0.0, 1e6])  # it has no part in Z
    wanted = table([math.log(1.5), math.log(0.5), 1e6 - math.log(2)])
    assert_close(project(reward, log_ref, 1.0), wanted)


@given(worlds(moderate), betas.filter(lambda beta: 0.01 < beta < 100), st.floats(-100, 100))
def test_a_whole_class_has_one_projection_and_one_member_with_partition_one(world, beta, shift):
    reward, log_ref = world.true_reward, world.log_ref  # Lemma 2, (8), (9), Proposition 1
    projected = project(reward, log_ref, beta)
    scale = 1e-12 * max(1.0, abs(shift))
    assert_close(project(reward + shift, log_ref, beta), projected, atol=scale, rtol=1e-12)
    log_z = log_partition(projected + shift, log_ref, beta)
    assert_close(log_z, torch.full_like(log_z, shift / beta), atol=1e-9, rtol=1e-9)


def test_a_hundred_members_of_a_class_share_policy_and_projection_but_not_z():
    draw, beta = generator(9), 0.1
    world = random_world(draw, prompts=3, responses=50)
    shifts = 200 * torch.rand(100, 3, 1, generator=draw, dtype=torch.float64) - 100
    members = world.true_reward + shifts
    refs = world.log_ref.expand_as(members)
    wanted = project(world.true_reward, world.log_ref, beta).expand_as(members)
    policy = optimal_log_policy(world.true_reward, world.log_ref, beta).expand_as(members)
    assert_close(optimal_log_policy(members, refs, beta), policy, rtol=0, atol=1e-11)
    assert_close(project(members, refs, beta), wanted, rtol=0, atol=1e-12)
    assert_close(log_partition(wanted, refs, beta), torch.zeros(100, 3).double())
    assert log_partition(members, refs, beta).sort(0).values.diff(dim=0).min() > 1e-6
    # Controls: a shift that depends on the response, and another scale, move the policy.
    noise = 0.1 * torch.randn(members.shape, generator=draw, dtype=torch.float64)
    for moved in (world.true_reward + noise, (2 * world.true_reward).expand_as(members)):
        moves = (optimal_log_policy(moved, refs, beta).exp() - policy.exp()).abs()
        assert moves.sum(-1).min() > 2e-3


@given(st.data(), worlds(moderate), st.floats(0.05, 20))
def test_the_soft_advantage_has_mean_minus_the_divergence_from_the_optimum(data, world, beta):
    reward, log_ref = world.true_reward, world.log_ref
    log_policy = data.draw(log_policies(reward.shape, within=log_ref))
    bracket = soft_advantage(reward, log_policy, log_ref, beta).masked_fill(
        log_policy.isneginf(), 0.0
    )
    optimum = optimal_log_policy(reward, log_ref, beta)
    wanted = -beta * kl_divergence(log_policy, optimum)
    assert_close((log_policy.exp() * bracket).sum(-1), wanted, atol=1e-9, rtol=1e-9)


def test_equivalence_worked_by_hand():
    reward = table([2.0, 1.0, 0.0], [5.0, 5.0, 5.0])
    shifted = table([102.0, 101.0, 100.0], [4.0, 4.0, 4.0])
    assert are_equivalent(reward, shifted).tolist() == [True, True]
    assert are_equivalent(reward, 2 * reward).tolist() == [False, True]  # a constant has no scale
    assert are_equivalent(reward, reward + table([0.0, 0.0, 1e-6])).tolist() == [False, False]
    assert are_equivalent(reward, reward + table([0.0, 0.0, 1e-6]), 1e-5).all()


@given(worlds(moderate), st.floats(0.05, 20), st.data())
def test_a_policy_s_ranking_is_plackett_luce_at_any_reward_of_its_class(world, beta, data):
    reward, log_ref = world.true_reward, world.log_ref  # (19): Z cancels
    log_ref = torch.full_like(log_ref, -math.log(log_ref.shape[-1]))
    order = torch.tensor(data.draw(st.permutations(range(reward.shape[-1]))))
    ranking = order.expand_as(reward)
    implied = policy_ranking_logp(optimal_log_policy(reward, log_ref, beta), log_ref, ranking, beta)
    assert_close(implied, plackett_luce_logp(reward, ranking), atol=1e-9, rtol=1e-9)


def test_a_ranking_may_leave_impossible_responses_out():
    log_ref = table([0.5, 0.5, 0.0]).log()
    logp = policy_ranking_logp(log_ref, log_ref, torch.tensor([[1, 0]]), 1.0)
    assert_close(logp, table(-math.log(2)))
