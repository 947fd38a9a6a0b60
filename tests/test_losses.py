import itertools
import math

import mpmath
import pytest
import torch
from helpers import generator, moderate, numbers, table, tables, worlds
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib.losses import (
    adapted_coefficient,
    dpo_loss,
    dpo_weight,
    entropy,
    generalized_advantages,
    group_advantages,
    leave_one_out_advantages,
    plackett_luce_dpo_loss,
    ppo_clip_loss,
    ppo_kl_loss,
    reward_loss,
    table_loss,
    unlikelihood_loss,
    value_loss,
)
from dpo_lib.objective import implicit_reward
from dpo_lib.world import random_world

INF = torch.inf
# (pc, pr, rc, rr, beta, loss, derivative in pc), the last two by mpmath with 40 digits:
# z = beta ((pc - rc) - (pr - rr)), loss = log1p(exp(-z)), derivative = -beta / (1 + exp(z)).
GOLDEN = [
    (-1.0, -2.0, -1.0, -2.0, 0.1, 0.6931471805599, -0.05),
    (-1.0, -2.0, -2.0, -1.0, 0.1, 0.5981388693816, -0.04501660026875),
    (-2.0, -1.0, -1.0, -2.0, 0.1, 0.7981388693816, -0.05498339973125),
    (-34.5, -41.25, -36.0, -40.5, 0.5, 0.2811501362483, -0.1225425065662),
    (-120.75, -98.5, -118.25, -101.0, 0.1, 0.9740769841801, -0.06224593312019),
    (-3.0, -7.0, -3.5, -6.25, 1.0, 0.2519290813454, -0.2227001388253),
    (-3.0, -7.0, -3.5, -6.25, 5.0, 0.001928593204219, -0.009633673316637),
    (-0.125, -12.0, -9.0, -0.5, 20.0, 1.059250370125e-177, -2.11850074025e-176),
    (-12.0, -0.125, -0.5, -9.0, 20.0, 407.5, -20.0),
    (-1000.0, -1010.0, -900.0, -1000.0, 0.05, 4.511047744849, -0.04945065286847),
    (-999999.5, -1e6, -1000000.25, -1e6, 2.0, 0.2014132779828, -0.3648510476127),
    (-5.0, -5.0, -5.0, -8.0, 0.3, 1.241153874732, -0.2132848507875),
    (-700.0, 0.0, 0.0, -700.0, 1e-12, 0.6931471812599, -5.0000000035e-13),
    (-0.5, -0.5, -0.5 - 2.0**-40, -0.5, 1e12, 0.3384186769384, -287103248021.9),
]
SIGNS = (1, -1, -1, 1)  # of the derivatives in pc, pr, rc, rr, relative to the one in pc
golden = pytest.mark.parametrize("case", GOLDEN, ids=range(1, len(GOLDEN) + 1))


@golden
def test_the_dpo_loss_and_its_four_derivatives_have_twelve_digits(case):  # D1, D2, D3
    *logps, beta, loss, slope = case
    leaves = [table(logp).requires_grad_() for logp in logps]
    got = dpo_loss(*leaves, beta)
    assert got.item() == pytest.approx(loss, rel=1e-12)
    derivatives = torch.cat(torch.autograd.grad(got.sum(), leaves))
    wanted = table(*(sign * slope for sign in SIGNS))
    assert_close(derivatives, wanted, rtol=1e-12, atol=0)
    assert_close(-beta * dpo_weight(*leaves, beta).detach(), wanted[:1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", [case for case in GOLDEN if case[4] <= 5 and abs(case[0]) < 1e5])
def test_the_four_derivatives_agree_with_central_differences(case):
    logps, beta, slope = table(*case[:4]), case[4], case[6]
    for k, sign in enumerate(SIGNS):
        step = 1e-4 * torch.nn.functional.one_hot(torch.tensor(k), 4)
        up, down = (dpo_loss(*(logps + side * step), beta).item() for side in (1, -1))
        assert (up - down) / 2e-4 == pytest.approx(sign * slope, rel=1e-6, abs=1e-11)


@given(numbers, numbers, numbers, numbers, st.floats(0.01, 10))
def test_swapping_the_answers_adds_the_margin_to_the_loss(pc, pr, rc, rr, beta):  # L(z)-L(-z)=-z
    pc, pr, rc, rr = (table(-abs(number)) for number in (pc, pr, rc, rr))
    z = beta * (pc - rc) - beta * (pr - rr)
    loss, swapped = dpo_loss(pc, pr, rc, rr, beta), dpo_loss(pr, pc, rr, rc, beta)
    assert_close(loss - swapped, -z, rtol=1e-15, atol=1e-15)
    assert loss >= 0
    weights = dpo_weight(pc, pr, rc, rr, beta) + dpo_weight(pr, pc, rr, rc, beta)
    assert_close(weights, table(1.0))


@given(numbers, numbers, st.floats(0, 1))
def test_the_loss_is_convex_in_the_margin(one, other, share):
    zero = table(0.0)
    ends = reward_loss(table(one), zero), reward_loss(table(other), zero)
    between = reward_loss(table(share * one + (1 - share) * other), zero)
    assert between <= share * ends[0] + (1 - share) * ends[1] + 1e-9


@given(numbers, numbers)
def test_the_reward_loss_has_sixteen_digits(chosen, rejected):  # D6, H1
    with mpmath.workdps(50):
        exact = float(mpmath.log1p(mpmath.exp(-mpmath.mpf(chosen - rejected))))
    got = reward_loss(table(chosen), table(rejected)).item()
    assert got == pytest.approx(exact, rel=5e-16, abs=1e-307)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.0, 60.0, -60.0, 2.0**15, -(2.0**15)])
def test_a_loss_and_its_gradient_are_finite_in_every_precision(dtype, margin):  # H1
    chosen = torch.tensor([margin], dtype=dtype, requires_grad=True)
    loss = reward_loss(chosen, torch.zeros_like(chosen))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert loss.item() == pytest.approx(max(-margin, 0), abs=0.7)
    assert chosen.grad.item() == pytest.approx(-1.0 if margin < 0 else -0.5 * (margin == 0))


@pytest.mark.parametrize("logp", [0.0, -1.0, -1e6])
def test_policy_equal_to_reference_costs_log_two(logp):  # D8: step 0
    pc, pr = table(logp), table(logp - 7)
    assert dpo_loss(pc, pr, pc, pr, 0.1).item() == math.log(2)
    assert dpo_weight(pc, pr, pc, pr, 0.1).item() == 0.5


def test_a_pair_of_identical_answers_costs_log_two_and_teaches_nothing():  # I3
    logp = table(-1e6).requires_grad_()
    loss = dpo_loss(logp, logp, table(-3.0), table(-3.0), 0.1)
    loss.sum().backward()
    assert loss.item() == math.log(2)
    assert logp.grad.item() == 0


def test_choosing_an_impossible_answer_costs_infinity_and_rejecting_it_nothing():
    never, some = table(-INF), table(-1.0)
    assert dpo_loss(never, some, some, some, 0.1).item() == INF
    assert dpo_loss(some, never, some, some, 0.1).item() == 0
    assert dpo_weight(never, some, some, some, 0.1).item() == 1


def test_each_log_probability_moves_the_loss_its_way():  # D4; not invariant to one reference (D2)
    start = (-2.0, -3.0, -4.0, -1.0)
    loss = dpo_loss(*map(table, start), 0.5)
    for k, sign in enumerate(SIGNS):
        moved = [logp + 0.5 * (j == k) for j, logp in enumerate(start)]
        assert sign * (dpo_loss(*map(table, moved), 0.5) - loss) < 0


@given(tables((4, 5), moderate), st.permutations(range(5)), st.floats(0.01, 10))
def test_each_pair_has_its_own_loss(logps, order, beta):
    order = torch.tensor(order)
    assert torch.equal(dpo_loss(*logps[:, order], beta), dpo_loss(*logps, beta)[order])
    alone = [dpo_loss(*logps[:, k], beta) for k in range(5)]
    assert torch.equal(dpo_loss(*logps, beta), torch.stack(alone))


@given(moderate, moderate, st.floats(-6, 6))
def test_beta_to_zero_gives_log_two_and_beta_to_infinity_a_hinge(pc, pr, margin):
    arguments = (table(pc + margin), table(pr), table(pc), table(pr))
    margin = (arguments[0] - arguments[2]).item()
    assert dpo_loss(*arguments, 1e-12).item() == pytest.approx(math.log(2), abs=1e-11)
    slope = (dpo_loss(*arguments, 1e-5).item() - math.log(2)) / 1e-5
    assert slope == pytest.approx(-margin / 2, abs=1e-4)
    assert dpo_loss(*arguments, 1e12).item() / 1e12 == pytest.approx(max(0, -margin), abs=1e-11)


@given(st.integers(-80, 80), st.integers(-80, 80), st.sampled_from([-1e6, 1.0, 1e6]))
def test_a_shift_common_to_both_rewards_changes_no_loss(first, second, shift):  # I4
    plain = reward_loss(table(first / 8), table(second / 8))
    assert torch.equal(reward_loss(table(first / 8 + shift), table(second / 8 + shift)), plain)


@given(worlds(moderate), st.data())
def test_the_loss_of_a_win_table_equals_a_loop_over_its_labels(world, data):
    K = world.responses
    wins = data.draw(tables((world.prompts, K, K), st.integers(0, 3).map(float)))
    wins[0, 0, 1] += 1
    total = torch.zeros((), dtype=torch.float64)
    for x, i, j in itertools.product(range(world.prompts), range(K), range(K)):
        total += wins[x, i, j] * reward_loss(world.true_reward[x, i], world.true_reward[x, j])
    assert_close(table_loss(world.true_reward, wins), total / wins.sum())


def test_pairs_that_were_never_compared_give_no_nan_even_if_both_are_impossible():
    world = random_world(generator(1), responses=4, impossible=2)
    wins = torch.ones(1, 4, 4, dtype=torch.float64)
    impossible = world.log_ref.isneginf()
    wins = wins.masked_fill(impossible[..., None] | impossible[:, None], 0.0)
    logits = world.log_ref.masked_fill(impossible, 0.0).requires_grad_()
    log_policy = logits.masked_fill(impossible, -INF).log_softmax(-1)
    loss = table_loss(implicit_reward(log_policy, world.log_ref, 0.3), wins)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad.isfinite().all()


# rho = 1.5, 0.5, 1.1 with epsilon 0.2: clipped to 1.2, 0.8, and left alone.
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier by more than epsilon: no more
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely: no more
        (1.5, -2.0, 3.0, 3.0),  # bad but likelier: min picks the plain term
        (0.5, 2.0, -1.0, -1.0),  # good but less likely
        (1.1, 2.0, -2.2, -2.2),
        (1.1, -2.0, 2.2, 2.2),
    ],
)
def test_clipping_stops_the_gradient_exactly_in_its_two_cases(ratio, advantage, loss, slope):  # J5
    logp = table(math.log(ratio) - 3).requires_grad_()
    got = ppo_clip_loss(logp, table(-3.0), table(advantage), 0.2)
    got.sum().backward()
    assert got.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(slope)  # d rho / d log pi = rho
    assert slope != 0 or logp.grad.item() == 0


@given(moderate, st.floats(-20, 0))
def test_at_the_old_policy_both_surrogates_have_the_policy_gradient(advantage, logp):
    for surrogate in (
        lambda new, old, adv: ppo_clip_loss(new, old, adv),
        lambda new, old, adv: ppo_kl_loss(new, old, adv, torch.zeros_like(old), 3.0),
    ):
        new = table(logp).requires_grad_()
        loss = surrogate(new, table(logp), table(advantage))
        loss.sum().backward()
        assert (loss.item(), new.grad.item()) == (-advantage, -advantage)


def test_the_kl_penalty_form_worked_by_hand():
    # rho = 2, so -(2 x 3 - 0.5 x 0.25) = -5.875
    loss = ppo_kl_loss(table(math.log(2)), table(0.0), table(3.0), table(0.25), 0.5)
    assert loss.item() == pytest.approx(-5.875)


@pytest.mark.parametrize(
    ("kl", "wanted"),
    [(0.0, 1.0), (0.0199, 1.0), (0.0201, 2.0), (0.03, 2.0), (0.0449, 2.0), (0.0451, 4.0)],
)
def test_the_coefficient_halves_below_two_thirds_and_doubles_above_three_halves(kl, wanted):
    assert adapted_coefficient(2.0, kl, target=0.03) == wanted


def test_value_loss_and_unlikelihood_worked_by_hand():
    assert value_loss(table(3.0, -1.0), table(1.0, 0.0)).tolist() == [4.0, 1.0]
    assert unlikelihood_loss(table(-3.0), table(-5.0), alpha=0.5).item() == 3.0 - 0.5 * 5.0


def test_entropy_worked_by_hand():
    # sure: 0; two equal: log 2; (1/2, 1/4, 1/4): 1/2 log 2 + 1/2 log 4 = 1.5 log 2
    log_policy = table([0.0, 0.0, 1.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]).log()
    assert_close(entropy(log_policy), math.log(2) * table(0.0, 1.0, 1.5))
    logits = table([0.3, 0.7, 0.0]).log().requires_grad_()
    entropy(logits.masked_fill(logits.isneginf(), -INF)).sum().backward()
    assert logits.grad.isfinite().all()


def episodes():
    return st.integers(1, 6).flatmap(lambda steps: tables((2, 2, steps), moderate))


@given(episodes(), st.floats(0, 1), st.floats(0, 1))
def test_advantages_equal_the_double_sum_of_their_definition(numbers, gamma, lam):  # J5
    rewards, values = numbers
    steps = rewards.shape[-1]
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], -1)
    deltas = rewards + gamma * following - values
    wanted = torch.zeros_like(deltas)
    for t, later in itertools.product(range(steps), repeat=2):
        if later >= t:
            wanted[:, t] += (gamma * lam) ** (later - t) * deltas[:, later]
    assert_close(generalized_advantages(rewards, values, gamma, lam), wanted)


@given(episodes(), st.floats(0, 1))
def test_lambda_one_gives_return_minus_value_and_lambda_zero_the_td_error(numbers, gamma):  # J5
    rewards, values = numbers
    steps = rewards.shape[-1]
    returns = torch.stack(
        [sum(gamma ** (k - t) * rewards[:, k] for k in range(t, steps)) for t in range(steps)], -1
    )
    assert_close(generalized_advantages(rewards, values, gamma, 1.0), returns - values)
    td = rewards[:, -1] - values[:, -1]  # nothing follows the last step
    assert_close(generalized_advantages(rewards, values, gamma, 0.0)[:, -1], td)
    if steps > 1:
        td = rewards[:, 0] + gamma * values[:, 1] - values[:, 0]
        assert_close(generalized_advantages(rewards, values, gamma, 0.0)[:, 0], td)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clipped_ratio_of_any_size_has_gradient_zero_and_no_nan(dtype):
    """H1: exp of a log-ratio of 1e6 overflows, and 0 * inf must not reach the gradient."""
    logps = torch.tensor([1e6, 1e6, -1e6], dtype=dtype, requires_grad=True)
    advantages = torch.tensor([1.0, 0.0, -1.0], dtype=dtype)
    loss = ppo_clip_loss(logps, torch.zeros(3, dtype=dtype), advantages, 0.2)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([-1.2, 0.0, 0.8], dtype=dtype))
    torch.testing.assert_close(logps.grad, torch.zeros(3, dtype=dtype))


@given(tables((3, 5), moderate))
def test_leave_one_out_and_group_advantages_are_trl_s_formulas(scores):
    rloo = scores - (scores.sum(-1, keepdim=True) - scores) / (5 - 1)  # RLOOTrainer
    assert_close(leave_one_out_advantages(scores), rloo)
    mean, spread = scores.mean(-1, keepdim=True), scores.std(-1, keepdim=True)
    if spread.min() < 1e-3:
        return  # where the 1e-4 that GRPOTrainer adds to the deviation is not small
    grpo = (scores - mean) / (spread + 1e-4)
    ours = group_advantages(scores) * (4 / 5) ** 0.5 / (1 + 1e-4 / spread)
    assert_close(ours, grpo)


def test_advantages_of_a_group_worked_by_hand():
    one_right = torch.tensor([1.0, 0.0, 0.0, 0.0])
    third, root = 1 / 3, 3**0.5  # the others of a wrong draw have mean 1/3; 1/4 and sqrt(3)/4
    assert_close(leave_one_out_advantages(one_right), torch.tensor([1.0, -third, -third, -third]))
    assert_close(group_advantages(one_right), torch.tensor([root, -1 / root, -1 / root, -1 / root]))
    assert group_advantages(torch.tensor([[5.0, 5.0], [0.1, 20.0]])).tolist() == [[0, 0], [-1, 1]]
    equal = torch.full((3,), 0.1)  # whose mean is not 0.1 in float32
    assert group_advantages(equal).tolist() == [0, 0, 0]


def test_the_ranking_loss_worked_by_hand():
    # Implicit rewards log 3, log 2, 0: best of {3, 2, 1}, then of {2, 1}: 3/6 * 2/3 = 1/3.
    policy, ref = table(math.log(3), math.log(2), 0.0), table(0.0, 0.0, 0.0)
    loss = plackett_luce_dpo_loss(policy, ref, torch.tensor([0, 1, 2]), 1.0)
    assert_close(loss.item(), math.log(3))
    # The reverse: 1/6 * 2/5 = 1/15.
    loss = plackett_luce_dpo_loss(policy, ref, torch.tensor([2, 1, 0]), 1.0)
    assert_close(loss.item(), math.log(15))


@given(numbers, numbers, numbers, numbers, st.floats(0.01, 10))
def test_a_ranking_of_two_costs_what_dpo_s_pair_costs(pc, pr, rc, rr, beta):
    policy, ref = table(pc, pr), table(rc, rr)
    loss = plackett_luce_dpo_loss(policy, ref, torch.tensor([0, 1]), beta)
    pair = dpo_loss(policy[0], policy[1], ref[0], ref[1], beta)
    assert_close(loss, pair, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("K", [2, 3, 7, 50])
def test_at_the_reference_a_ranking_costs_log_k_factorial(K):
    logps = -torch.rand(K, generator=generator(K), dtype=torch.float64)
    ranking = torch.randperm(K, generator=generator(K))
    loss = plackett_luce_dpo_loss(logps, logps, ranking, 0.1)
    assert_close(loss.item(), math.lgamma(K + 1))


@given(tables((5,), moderate), st.permutations(range(5)), st.floats(0.05, 10))
def test_the_ranking_loss_pulls_by_choice_probabilities(policy, order, beta):
    ref, ranking = torch.zeros(5, dtype=torch.float64), torch.tensor(order)
    policy = policy.clone().requires_grad_()
    loss = plackett_luce_dpo_loss(policy, ref, ranking, beta)
    (slope,) = torch.autograd.grad(loss, policy)
    wanted = torch.zeros(5, dtype=torch.float64)
    for place in range(5):  # softmax over those still to be ranked, minus the one chosen
        rest = ranking[place:]
        wanted[rest] += beta * (beta * policy.detach()[rest]).softmax(-1)
        wanted[ranking[place]] -= beta
    assert_close(slope, wanted, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ranking_that_is_certain_or_hopeless_has_a_finite_loss_and_gradient(dtype):  # H1
    policy = torch.tensor([1e6, 0.0, -1e6], dtype=dtype, requires_grad=True)
    for order, wanted in (([0, 1, 2], 0.0), ([2, 1, 0], 3e6)):
        ref, ranking = torch.zeros_like(policy), torch.tensor(order)
        loss = plackett_luce_dpo_loss(policy, ref, ranking, 1.0)
        (slope,) = torch.autograd.grad(loss, policy)
        assert_close(loss.item(), wanted)
        assert slope.isfinite().all()
