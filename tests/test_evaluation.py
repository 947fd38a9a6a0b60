import itertools
import math

import numpy as np
import pytest
import torch
from helpers import generator, log_policies, moderate, table, tables, worlds
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib.evaluation import (
    best_of_n,
    centre,
    chi_square_p,
    frontier,
    optimal_baseline,
    reward_error,
    score_gradient_variance,
    total_variation,
    z_score,
)
from dpo_lib.objective import expected_reward, kl_divergence, optimal_log_policy
from dpo_lib.world import random_world, three_answers


@given(st.integers(2, 5).flatmap(lambda K: st.tuples(log_policies((1, K)), log_policies((1, K)))))
def test_total_variation_is_the_largest_difference_on_any_event(pair):
    p, q = (log_policy.exp()[0].tolist() for log_policy in pair)
    events = itertools.product([0, 1], repeat=len(p))
    largest = max(sum(itertools.compress(p, e)) - sum(itertools.compress(q, e)) for e in events)
    assert total_variation(*pair).item() == pytest.approx(largest, abs=1e-14)


def test_total_variation_worked_by_hand():
    p, q = table([0.5, 0.5, 0.0]).log(), table([0.2, 0.3, 0.5]).log()
    assert_close(total_variation(p, q), table(0.5))  # (0.3 + 0.2 + 0.5) / 2
    assert total_variation(table([1.0, 0.0]).log(), table([0.0, 1.0]).log()).item() == 1


def test_the_reward_error_worked_by_hand():
    # centred: (1, 0, -1) against (0, 0, 0): sqrt((1 + 0 + 1) / 3)
    got = reward_error(table([3.0, 2.0, 1.0]), table([7.0, 7.0, 7.0]))
    assert got.item() == pytest.approx(math.sqrt(2 / 3))


@given(worlds(moderate), st.data())
def test_a_shift_by_prompt_is_no_error_and_centring_picks_one_of_its_class(world, data):
    shift = data.draw(tables((world.prompts, 1), moderate))
    reward = world.true_reward
    assert_close(reward_error(reward + shift, reward), torch.zeros(world.prompts).double())
    assert_close(centre(reward + shift), centre(reward), rtol=1e-12, atol=1e-13)
    zero = torch.zeros(world.prompts, dtype=torch.float64)
    assert_close(centre(reward).sum(-1), zero, rtol=0, atol=1e-13)


def test_no_policy_earns_more_than_the_frontier_at_the_same_kl():
    world = random_world(generator(1), responses=5, impossible=1)
    betas = torch.logspace(1, -1.5, 60)
    policies, rewards, kls = frontier(world.true_reward, world.log_ref, betas.tolist())
    assert policies.shape == (60, 1, 5)
    assert rewards.shape == kls.shape == (60, 1)
    assert (rewards.diff(dim=0) > 0).all()  # a smaller beta buys reward
    assert (kls.diff(dim=0) > 0).all()  # and pays for it in KL
    noise = 2 * torch.randn(3000, 1, 5, generator=generator(2), dtype=torch.float64)
    crowd = (world.log_ref + noise).log_softmax(-1)
    earned = expected_reward(crowd, world.true_reward.expand_as(crowd))
    spent = kl_divergence(crowd, world.log_ref.expand_as(crowd))
    enough = kls >= spent.squeeze(-1)  # frontier points that spend at least as much
    bound = torch.where(enough, rewards, torch.inf).amin(0)
    assert enough[-1].float().mean() > 0.8
    assert (earned.squeeze(-1) <= bound + 1e-12).all()


def test_the_frontier_runs_from_the_reference_to_the_best_response():
    world = three_answers()
    policies, rewards, kls = frontier(world.true_reward, world.log_ref, [1e6, 0.01])
    assert_close(policies[0], world.log_ref, rtol=0, atol=1e-5)
    assert_close(rewards, table([0.7], [2.0]), rtol=0, atol=1e-5)  # 2 x 0.2 + 1 x 0.3
    assert_close(kls, table([0.0], [math.log(5)]), rtol=0, atol=1e-5)  # -log 0.2


def test_best_of_n_counts_all_tuples_of_draws():
    # every tuple of three draws, the first of its best ones taken; rewards 1 and 1 tie
    log_ref = table([0.1, 0.2, 0.0, 0.3, 0.4]).log()
    reward = table([1.0, 0.0, 9.0, 1.0, 2.0])
    counted = torch.zeros(1, 5, dtype=torch.float64)
    for draws in itertools.product(range(5), repeat=3):
        best = max(draws, key=lambda y: reward[0, y].item())
        counted[0, best] += math.prod(log_ref[0, y].exp().item() for y in draws)
    assert_close(best_of_n(log_ref, reward, 3).exp(), counted)
    assert best_of_n(log_ref, reward, 3)[0, 2].isneginf()


@given(worlds(moderate), st.integers(1, 200))
def test_best_of_n_is_a_distribution_and_best_of_one_the_reference(world, n):
    log_policy = best_of_n(world.log_ref, world.true_reward, n)
    zero = torch.zeros(world.prompts, dtype=torch.float64)
    assert_close(log_policy.logsumexp(-1), zero, rtol=0, atol=1e-12)
    assert_close(best_of_n(world.log_ref, world.true_reward, 1), world.log_ref)


def test_best_of_n_pays_less_than_log_n_and_the_tilt_earns_no_less_at_the_same_kl():
    world = random_world(generator(4), batch=(100,), responses=5)
    for n in (2, 5, 30):
        log_policy = best_of_n(world.log_ref, world.true_reward, n)
        spent = kl_divergence(log_policy, world.log_ref)
        assert (spent < math.log(n) - (n - 1) / n).all()  # Beirami et al. 2024, strict for atoms
        earned = expected_reward(log_policy, world.true_reward)
        for beta in (0.1, 0.5, 1.0, 3.0):  # J <= beta log Z, whatever beta is
            tilt = optimal_log_policy(world.true_reward, world.log_ref, beta)
            top = expected_reward(tilt, world.true_reward)
            ceiling = top + beta * (spent - kl_divergence(tilt, world.log_ref))
            assert (earned <= ceiling + 1e-12).all()


def test_best_of_many_keeps_the_probability_of_the_worst_in_the_logarithm():
    # (1e-9)^50 is far below the smallest float64, its logarithm is not
    log_ref = table([1e-9, 1 - 1e-9]).log()
    got = best_of_n(log_ref, table([0.0, 1.0]), 50)
    assert got[0, 0].item() == pytest.approx(50 * math.log(1e-9), rel=1e-12)
    assert got[0, 1].item() == pytest.approx(0.0, abs=1e-13)  # 50 roundings


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_best_of_n_draws_what_is_too_rare_for_exp_n_times_as_often(dtype):
    log_ref = torch.tensor([[0.0, -800.0, -1.0]], dtype=dtype).log_softmax(-1)
    got = best_of_n(log_ref, torch.tensor([[0.0, 1.0, -1.0]], dtype=dtype), 3)
    assert got[0, 1].item() == pytest.approx(log_ref[0, 1].item() + math.log(3), rel=1e-6)


def test_best_of_less_than_one_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        best_of_n(table([0.5, 0.5]).log(), table([0.0, 1.0]), 0)


def test_the_z_score_counts_binomial_standard_errors():
    # 100 tosses of a fair coin have standard deviation 5
    assert z_score(table(60.0, 50.0, 35.0), 100, table(0.5)).tolist() == [2.0, 0.0, -3.0]


def test_a_certain_outcome_has_score_zero_and_an_impossible_one_infinity():
    got = z_score(table(0.0, 10.0, 1.0, 9.0), 10, table(0.0, 1.0, 0.0, 1.0))
    assert got.tolist() == [0.0, 0.0, math.inf, -math.inf]


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 3.841458820694), (5, 11.07049769352)])
def test_the_chi_square_table_s_five_per_cent(degrees, quantile):
    assert chi_square_p(table(quantile), degrees).item() == pytest.approx(0.05, rel=1e-11)


@given(st.floats(0, 700))
def test_chi_square_with_two_degrees_is_exponential(statistic):
    wanted = (-table(statistic) / 2).exp()
    assert_close(chi_square_p(table(statistic), 2), wanted, rtol=1e-9, atol=0)


def test_the_variance_of_the_score_gradient_worked_by_hand():
    # pi = (1/2, 1/2), rewards 1 and -1: grad log pi is (1/2, -1/2) or (-1/2, 1/2), so both draws
    # give the estimate (1/2, -1/2) and nothing varies. A baseline of 1 gives (0, 0) or (1, -1).
    log_policy, reward = table([0.5, 0.5]).log(), table([1.0, -1.0])
    assert_close(score_gradient_variance(log_policy, reward, table(0.0)), table(0.0))
    assert_close(score_gradient_variance(log_policy, reward, table(1.0)), table(0.5))
    assert_close(optimal_baseline(log_policy, reward), table(0.0))


def test_the_variance_is_the_trace_of_the_covariance_matrix():
    world = random_world(generator(3), prompts=3, responses=5, impossible=1)
    log_policy, reward = world.log_ref, world.true_reward
    baseline = table(0.0, -1.5, 2.0)
    probability = log_policy.exp()
    scores = torch.eye(5, dtype=torch.float64) - probability.unsqueeze(-2)
    estimates = (reward - baseline.unsqueeze(-1)).unsqueeze(-1) * scores  # one row for each draw
    for prompt in range(3):
        covariance = torch.from_numpy(
            np.cov(estimates[prompt].T.numpy(), aweights=probability[prompt].numpy(), ddof=0)
        )
        variance = score_gradient_variance(log_policy, reward, baseline)[prompt]
        assert_close(variance, covariance.trace())


@given(worlds(moderate), st.floats(-10, 10))
def test_no_baseline_has_less_variance_than_the_optimal_one(world, distance):
    log_policy, reward = world.log_ref, world.true_reward
    best = optimal_baseline(log_policy, reward)
    least = score_gradient_variance(log_policy, reward, best)
    assert (score_gradient_variance(log_policy, reward, best + distance) >= least - 1e-9).all()


def test_a_policy_that_is_sure_has_no_variance_whatever_the_baseline():
    sure, reward = table([1.0, 0.0]).log(), table([3.0, 1.0])
    assert optimal_baseline(sure, reward).tolist() == [0.0]
    assert score_gradient_variance(sure, reward, table(-7.0)).tolist() == [0.0]
