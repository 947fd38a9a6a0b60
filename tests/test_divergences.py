"""f-divergences: their value, their slope f', their optimum, and the losses that use them."""

import math
from typing import get_args

import mpmath
import pytest
import torch
from helpers import generator, log_policies, table
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib._loss_names import OF_A_DIFFERENCE, DivergenceName
from dpo_lib.divergences import divergence_score, f_divergence, scores_as_logps
from dpo_lib.objective import expected_reward, kl_divergence
from dpo_lib.variants import LOSSES, choose_loss

LN2 = math.log(2)
ALPHAS = (-1.0, 0.25, 0.5, 2.0, 3.0)
EVERY = [(name, 0.5) for name in get_args(DivergenceName)[:3]]
EVERY += [("alpha_divergence", alpha) for alpha in ALPHAS]
every = pytest.mark.parametrize(("name", "alpha"), EVERY)


def f(t, name, alpha):
    """f as the docstring of `divergences` prints it."""
    return {
        "reverse_kl": lambda: t * mpmath.log(t) - t + 1,
        "forward_kl": lambda: -mpmath.log(t) + t - 1,
        "js_divergence": lambda: t * mpmath.log(t) - (1 + t) * mpmath.log((1 + t) / 2),
        "alpha_divergence": lambda: (t**alpha - alpha * t + alpha - 1) / (alpha * (alpha - 1)),
    }[name]()


def slope(t, name, alpha):
    """f' as TRL 1.16 writes it, of t and not of log t."""
    return {
        "reverse_kl": lambda: mpmath.log(t),
        "forward_kl": lambda: 1 - 1 / t,
        "js_divergence": lambda: mpmath.log(2 * t / (1 + t)),
        "alpha_divergence": lambda: (t ** (mpmath.mpf(alpha) - 1) - 1) / (mpmath.mpf(alpha) - 1),
    }[name]()


def random_tables(seed=0, shape=(4, 5)):
    logits = 2 * torch.randn(2, *shape, generator=generator(seed), dtype=torch.float64)
    return logits.log_softmax(-1)


@every
def test_a_divergence_is_the_mean_of_f_under_the_reference(name, alpha):
    log_policy, log_ref = random_tables()
    got = f_divergence(log_policy, log_ref, name, alpha)
    with mpmath.workdps(40):
        for row, (policy, ref) in enumerate(
            zip(log_policy.tolist(), log_ref.tolist(), strict=True)
        ):
            pairs = [(mpmath.exp(q), mpmath.exp(p)) for q, p in zip(policy, ref, strict=True)]
            wanted = sum(p * f(q / p, name, mpmath.mpf(alpha)) for q, p in pairs)
            assert got[row].item() == pytest.approx(float(wanted), rel=1e-11)
    assert (got > 0).all()
    assert_close(f_divergence(log_ref, log_ref, name, alpha), torch.zeros(4).double(), atol=1e-14,
                 rtol=0)  # fmt: skip


def test_the_two_kls_are_the_library_s_and_limits_of_the_alpha_family():
    log_policy, log_ref = random_tables(1)
    reverse, forward = kl_divergence(log_policy, log_ref), kl_divergence(log_ref, log_policy)
    assert torch.equal(f_divergence(log_policy, log_ref, "reverse_kl"), reverse)
    assert torch.equal(f_divergence(log_policy, log_ref, "forward_kl"), forward)
    for alpha, limit in ((1.0, reverse), (0.0, forward)):
        assert torch.equal(f_divergence(log_policy, log_ref, "alpha_divergence", alpha), limit)
        for side in (1e-6, -1e-6):
            near = f_divergence(log_policy, log_ref, "alpha_divergence", alpha + side)
            assert_close(near, limit, rtol=1e-4, atol=0)
    half = [
        f_divergence(*pair, "alpha_divergence")
        for pair in ((log_policy, log_ref), (log_ref, log_policy))
    ]
    assert_close(*half)  # 1/2 is the symmetric one, four times 1 - Bhattacharyya's coefficient
    overlap = (0.5 * (log_policy + log_ref)).exp().sum(-1)
    assert_close(half[0], 4 * (1 - overlap), rtol=1e-11, atol=1e-13)


@given(log_policies((2, 4)), log_policies((2, 4)))
def test_with_zeros_a_divergence_is_finite_or_infinite_as_f_says(log_policy, log_ref):
    outside = (~log_policy.isneginf() & log_ref.isneginf()).any(-1)  # pi > 0 where ref is 0
    missing = (log_policy.isneginf() & ~log_ref.isneginf()).any(-1)
    for name, alpha, infinite in (
        ("reverse_kl", 0.5, outside),
        ("forward_kl", 0.5, missing),
        ("js_divergence", 0.5, outside & False),
        ("alpha_divergence", 0.5, outside & False),
        ("alpha_divergence", 2.0, outside),
        ("alpha_divergence", -1.0, missing),
    ):
        got = f_divergence(log_policy, log_ref, name, alpha)
        assert not got.isnan().any() and (got >= -1e-12).all()
        assert (got.isinf() >= infinite).all()  # a ratio of 1e300 may overflow too
        if name == "js_divergence" or (name, alpha) == ("alpha_divergence", 0.5):
            assert (got <= (2 * LN2 if name == "js_divergence" else 4) + 1e-12).all()


@every
@given(log_ratio=st.floats(-20, 20))
def test_the_score_is_f_prime_in_forty_digits(name, alpha, log_ratio):
    with mpmath.workdps(60):
        wanted = slope(mpmath.exp(log_ratio), name, alpha)
    got = divergence_score(torch.tensor(log_ratio, dtype=torch.float64), name, alpha).item()
    assert got == pytest.approx(float(wanted), rel=1e-12, abs=1e-15)


def test_the_scores_worked_by_hand_and_0_where_policy_and_reference_agree():
    two, same = torch.tensor(LN2, dtype=torch.float64), torch.tensor(0.0)
    for name, alpha, wanted in (
        ("reverse_kl", 0.5, LN2),
        ("forward_kl", 0.5, 1 / 2),
        ("js_divergence", 0.5, math.log(4 / 3)),
        ("alpha_divergence", 0.5, 2 - math.sqrt(2)),
        ("alpha_divergence", 2.0, 1.0),
    ):
        assert divergence_score(two, name, alpha).item() == pytest.approx(wanted, rel=1e-15)
        assert divergence_score(same, name, alpha).item() == pytest.approx(0, abs=1e-7)


@given(st.floats(-30, 30))
def test_alpha_1_is_reverse_kl_and_alpha_0_forward_kl(log_ratio):
    ratio = torch.tensor(log_ratio, dtype=torch.float64)
    for alpha, name in ((1.0, "reverse_kl"), (0.0, "forward_kl")):
        assert torch.equal(
            divergence_score(ratio, "alpha_divergence", alpha), divergence_score(ratio, name)
        )
    for power in (1e-4, 1e-7, 1e-10, 1e-13):  # TRL takes the limit within 1e-6
        near = divergence_score(ratio, "alpha_divergence", 1 + power)
        assert_close(near, ratio, rtol=31 * power, atol=1e-300)


@every
def test_the_score_is_the_slope_of_the_divergence_on_the_simplex(name, alpha):
    """dD/dtheta of a softmax policy is pi (f' - E_pi f'), whatever constant f' has."""
    _, log_ref = random_tables(2)
    theta = torch.randn(4, 5, generator=generator(3), dtype=torch.float64).requires_grad_()
    log_policy = theta.log_softmax(-1)
    (got,) = torch.autograd.grad(f_divergence(log_policy, log_ref, name, alpha).sum(), theta)
    score = divergence_score(log_policy - log_ref, name, alpha).detach()
    policy = log_policy.exp().detach()
    wanted = policy * (score - (policy * score).sum(-1, keepdim=True))
    assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def best_policy(reward, log_ref, beta, name, alpha):
    """Maximise (3) with D_f over softmax policies."""
    theta = log_ref.clone().requires_grad_()
    solver = torch.optim.LBFGS([theta], max_iter=2000, tolerance_grad=1e-13, tolerance_change=0,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        solver.zero_grad()
        log_policy = theta.log_softmax(-1)
        value = expected_reward(log_policy, reward) - beta * f_divergence(
            log_policy, log_ref, name, alpha
        )
        (-value.sum()).backward()
        return -value.sum()

    solver.step(closure)
    return theta.log_softmax(-1).detach()


@every
def test_at_the_optimum_rewards_differ_by_beta_times_the_scores(name, alpha):
    """(5): r = beta f'(pi / pi_ref) + c(x). Control: log-ratios do not, unless it is the KL."""
    (_, log_ref), beta = random_tables(4, (3, 4)), 0.8
    reward = torch.rand(3, 4, generator=generator(5), dtype=torch.float64)
    ratio = best_policy(reward, log_ref, beta, name, alpha) - log_ref
    constant = reward - beta * divergence_score(ratio, name, alpha)
    assert (constant.amax(-1) - constant.amin(-1)).max() < 1e-5
    plain = reward - beta * ratio
    assert ((plain.amax(-1) - plain.amin(-1)).max() > 1e-3) == (name != "reverse_kl")


def test_where_f_prime_is_finite_at_0_a_bad_answer_loses_all_probability():
    """alpha = 2: f' = t - 1, so (4) is t = max(0, 1 + (r - c) / beta), c by bisection."""
    log_ref, beta = table(0.4, 0.3, 0.2, 0.1).log(), 0.5
    reward = table(1.0, 0.5, -3.0, 0.3)

    def optimum(c):
        return log_ref.exp() * (1 + (reward - c) / beta).clamp(min=0)

    low, high = -10.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if optimum(middle).sum() > 1 else (low, middle)
    policy = optimum(low)
    assert policy.sum().item() == pytest.approx(1, abs=1e-12)
    assert policy[2] == 0 and reward[2] < low - beta / (2 - 1) < reward[3]

    def value(log_policy):
        return expected_reward(log_policy, reward.expand_as(log_policy)) - beta * f_divergence(
            log_policy, log_ref.expand_as(log_policy), "alpha_divergence", 2.0
        )

    crowd = torch.rand(20000, 4, generator=generator(6), dtype=torch.float64).log()
    crowd = torch.cat([(9 * crowd).log_softmax(-1), (0.3 * crowd).log_softmax(-1)])
    assert (value(crowd) < value(policy.log())).all()
    kept = reward - beta * divergence_score(policy.log() - log_ref, "alpha_divergence", 2.0)
    assert_close(kept[[0, 1, 3]], torch.full((3,), low).double())  # (5) for those that are left
    assert kept[2] < low


def test_the_loss_s_optimum_is_that_of_the_objective_with_the_same_divergence():
    """Endless labels from (1), all pairs, three answers: (7) with D_f leads to (4) with D_f."""
    log_ref, reward, beta = table(0.5, 0.3, 0.2).log(), table(0.5, 0.0, 0.2), 1.0
    first, second = (~torch.eye(3, dtype=torch.bool)).nonzero().T
    labels = torch.sigmoid(reward[first] - reward[second])
    for name, alpha in EVERY:
        told = {"f_alpha_divergence_coef": alpha} if name == "alpha_divergence" else {}
        loss = choose_loss("sigmoid", beta, f_divergence_type=name, **told)
        theta = log_ref.clone().requires_grad_()
        solver = torch.optim.LBFGS([theta], max_iter=2000, tolerance_grad=1e-13,
                                   tolerance_change=0, line_search_fn="strong_wolfe")  # fmt: skip

        def closure(theta=theta, solver=solver, loss=loss):
            solver.zero_grad()
            logps = theta.log_softmax(-1)
            pairs = loss(logps[first], logps[second], log_ref[first], log_ref[second])
            (labels * pairs).sum().backward()
            return (labels * pairs).sum()

        solver.step(closure)
        wanted = best_policy(reward[None], log_ref[None], beta, name, alpha)[0]
        assert_close(theta.log_softmax(-1).detach(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", OF_A_DIFFERENCE)
@pytest.mark.parametrize(("name", "alpha"), EVERY[1:])
def test_a_loss_with_a_divergence_is_the_loss_at_its_scores(loss, name, alpha):
    """The formulas of TRL 1.16 by hand; IPO without TRL's division by lengths."""
    beta, tau = 0.7, mpmath.mpf("0.05")
    own = {"label_smoothing": 0.1} if "label_smoothing" in LOSSES[loss].settings else {}
    told = dict(f_divergence_type=name) | own
    told |= {"f_alpha_divergence_coef": alpha} if name == "alpha_divergence" else {}
    chosen = choose_loss(loss, beta, **told)
    for logps in (
        (-34.5, -41.25, -36.0, -40.5),
        (-3.0, -7.0, -3.5, -6.25),
        (-12.0, -9.5, -10.25, -11.0),
    ):
        with mpmath.workdps(40):
            chosen_score, rejected_score = (
                slope(mpmath.exp(a - b), name, alpha)
                for a, b in zip(logps[:2], logps[2:], strict=True)
            )
            d = chosen_score - rejected_score
            d = chosen_score / 3 - rejected_score / 5 if loss == "sigmoid_norm" else d
            z = beta * d
            good, bad = mpmath.log1p(mpmath.exp(-z)), mpmath.log1p(mpmath.exp(z))
            share, eps = 1 / (1 + mpmath.exp(-z)), mpmath.mpf(0.1)
            late = 1 / (1 + mpmath.exp(-z / tau))
            wanted = {
                "sigmoid": good,
                "sigmoid_norm": good,
                "cdpo": (1 - eps) * good + eps * bad,
                "robust": ((1 - eps) * good - eps * bad) / (1 - 2 * eps),
                "hinge": max(0, 1 - z),
                "ipo": (d - 1 / (2 * mpmath.mpf(beta))) ** 2,
                "exo_pair": share * (-good - mpmath.log(1 - eps))
                + (1 - share) * (-bad - mpmath.log(eps)),
                "discopop": good * (1 - late) + mpmath.exp(-z) * late,
            }[loss]
        tensors = [torch.tensor([float(v)], dtype=torch.float64) for v in (*logps, 3, 5)]
        assert chosen(*tensors).item() == pytest.approx(float(wanted), rel=1e-10, abs=1e-12)


def test_reverse_kl_is_what_it_was_bit_for_bit_and_a_divergence_and_an_sft_term_go_together():
    logps = -10 * torch.rand(4, 9, generator=generator(7), dtype=torch.float64)
    lengths = torch.full((2, 9), 4)
    for name in OF_A_DIFFERENCE:
        own = {"label_smoothing": 0.1} if "label_smoothing" in LOSSES[name].settings else {}
        plain = choose_loss(name, 0.3, **own)(*logps, *lengths)
        reverse = choose_loss(name, 0.3, f_divergence_type="reverse_kl", **own)(*logps, *lengths)
        assert torch.equal(reverse, plain)
        told = dict(f_divergence_type="js_divergence", **own)
        both = choose_loss(name, 0.3, rpo_alpha=2.0, **told)(*logps, *lengths)
        alone = choose_loss(name, 0.3, **told)(*logps, *lengths)
        assert_close(both - alone, -2.0 * logps[0] / 4, rtol=1e-11, atol=1e-11)
        assert not torch.allclose(alone, plain)
    default = choose_loss("sigmoid", 0.3, f_divergence_type="alpha_divergence")
    half = choose_loss(
        "sigmoid", 0.3, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.5
    )
    assert torch.equal(default(*logps), half(*logps))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_and_their_slopes_are_finite_at_log_ratios_of_a_million(name, alpha, dtype):
    sizes = torch.tensor([0, 1, -1, 88, -89, 710, -710, 1e4, -1e4, 1e6, -1e6], dtype=dtype)
    pc, pr = (x.flatten().requires_grad_() for x in torch.meshgrid(sizes, sizes, indexing="ij"))
    zero = torch.zeros_like(pc)
    told = {"f_alpha_divergence_coef": alpha} if name == "alpha_divergence" else {}
    for beta in (1e-3, 1.0, 10.0):
        loss = choose_loss("sigmoid", beta, f_divergence_type=name, **told)(pc, pr, zero, zero)
        assert loss.dtype == dtype
        for found in (loss, *torch.autograd.grad(loss.sum(), (pc, pr))):
            assert found.isfinite().all()


def test_a_chosen_answer_that_the_policy_has_all_but_lost_is_still_pulled():
    """Where TRL's bound would have the gradient 0: the slope stays that at the bound."""
    for told in (dict(f_divergence_type="forward_kl"), dict(f_divergence_type="alpha_divergence")):
        lost = torch.tensor([-500.0], requires_grad=True)
        zero = torch.zeros(1)
        loss = choose_loss("sigmoid", 0.1, **told)(lost, zero, zero, zero)
        assert torch.autograd.grad(loss.sum(), lost)[0].item() < -1e15


def test_an_impossible_answer_has_the_score_f_prime_of_0():
    never = torch.tensor(-math.inf)
    for name, alpha, wanted in (
        ("reverse_kl", 0.5, -math.inf),
        ("forward_kl", 0.5, -math.inf),
        ("js_divergence", 0.5, -math.inf),
        ("alpha_divergence", 0.5, -math.inf),
        ("alpha_divergence", 3.0, -0.5),
    ):
        assert divergence_score(never, name, alpha).item() == wanted
        both = scores_as_logps(never, never, torch.tensor(-1.0), never, name, alpha)
        assert [score.item() for score in both] == [wanted, wanted, 0, 0]
