"""Losses that are told lengths: by hand, limits, gradients, ends of the scale."""

import math

import mpmath
import pytest
import torch
from helpers import generator, table
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib.losses import dpo_loss
from dpo_lib.per_token import (
    log_odds,
    nll_loss,
    orpo_loss,
    per_token,
    rdpo_loss,
    sigmoid_norm_loss,
    simpo_loss,
)

LOSSES = {"sigmoid_norm": sigmoid_norm_loss, "simpo": simpo_loss, "orpo": orpo_loss}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
logps = st.floats(-30, -0.5)
sizes = st.integers(1, 12)


def batch(*values):
    """One pair: a tensor of shape (1,) for each value."""
    return [torch.tensor([float(value)], dtype=torch.float64) for value in values]


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def s(x):
    return 1 / (1 + math.exp(-x))


def test_the_losses_worked_by_hand():
    # per token: (-6 + 7) / 2 = 1/2 and (-10 + 9) / 4 = -1/4, so the margin is 2 * 3/4
    pair = batch(-6, -10, -7, -9, 2, 4)
    assert sigmoid_norm_loss(*pair, 2.0).item() == pytest.approx(math.log1p(math.exp(-1.5)))
    # means -3 and -2.5: 2 * -1/2 - 1/2
    assert simpo_loss(*pair, 2.0).item() == pytest.approx(math.log1p(math.exp(1.5)))
    assert simpo_loss(*pair, 2.0, simpo_gamma=0.0).item() == pytest.approx(
        1 + math.log1p(1 / math.e)
    )
    assert nll_loss(pair[0], pair[4]).item() == 3.0
    # geometric means 1/2 and 1/4: odds 1 and 1/3, their ratio 3
    pair = batch(2 * math.log(1 / 2), 3 * math.log(1 / 4), 0, 0, 2, 3)
    assert orpo_loss(*pair, 0.5).item() == pytest.approx(math.log(2) + 0.5 * math.log(4 / 3))


@given(logps, logps, logps, logps, sizes, st.floats(0.1, 10))
def test_with_answers_of_one_length_sigmoid_norm_is_dpo_at_beta_over_the_length(
    pc, pr, rc, rr, n, beta
):
    values = batch(pc, pr, rc, rr)
    got = sigmoid_norm_loss(*values, *batch(n, n), beta)
    assert_close(got, dpo_loss(*values, beta / n), rtol=1e-12, atol=1e-14)


@given(logps, logps, sizes, st.floats(0.1, 10))
def test_simpo_without_a_target_is_dpo_against_a_uniform_reference_for_equal_lengths(
    pc, pr, n, beta
):
    values = batch(pc, pr, n * math.log(1 / 7), n * math.log(1 / 7))  # seven tokens, all alike
    got = simpo_loss(*values, *batch(n, n), beta, simpo_gamma=0.0)
    assert_close(got, dpo_loss(*values, beta / n), rtol=1e-11, atol=1e-13)


@given(logps, logps, sizes, sizes)
def test_orpo_is_sft_as_beta_goes_to_0(pc, pr, n, m):
    values = batch(pc, pr, -1, -1, n, m)
    assert_close(orpo_loss(*values, 1e-300), nll_loss(values[0], values[4]), rtol=0, atol=0)


def test_the_gradients_agree_with_their_formulas():
    for pc, pr, n, m, beta in ((-6, -10, 2, 4, 2.0), (-3, -1, 7, 1, 0.3), (-40, -2, 5, 9, 10.0)):
        leaves = [leaf.requires_grad_() for leaf in batch(pc, pr)]
        rest = batch(-7, -9, n, m)

        def slopes(loss, *settings, leaves=leaves, rest=rest):
            value = loss(*leaves, *rest, *settings)
            return [g.item() for g in torch.autograd.grad(value.sum(), leaves)]

        for loss, z in (
            (sigmoid_norm_loss, beta * ((pc + 7) / n - (pr + 9) / m)),
            (simpo_loss, beta * (pc / n - pr / m) - 0.5),
        ):
            wanted = [-s(-z) * beta / n, s(-z) * beta / m]
            assert slopes(loss, beta) == pytest.approx(wanted, rel=1e-12)
        z = log_odds(torch.tensor(pc / n, dtype=torch.float64)) - log_odds(
            torch.tensor(pr / m, dtype=torch.float64)
        )
        pull = beta * s(-z.item())
        wanted = [(-1 - pull / (1 - math.exp(pc / n))) / n, pull / (1 - math.exp(pr / m)) / m]
        assert slopes(orpo_loss, beta) == pytest.approx(wanted, rel=1e-12)


@given(logps, logps, logps, logps, sizes, sizes, st.floats(0, 2))
def test_rdpo_is_dpo_at_rewards_that_pay_for_length_and_dpo_itself_where_it_pays_nothing(
    pc, pr, rc, rr, n, m, alpha
):
    beta, values = 0.5, batch(pc, pr, rc, rr)
    lengths = batch(n, m)
    paid = batch(pc + alpha * n / beta, pr + alpha * m / beta, rc, rr)
    assert_close(rdpo_loss(*values, *lengths, beta, alpha), dpo_loss(*paid, beta))
    assert torch.equal(rdpo_loss(*values, *lengths, beta, 0.0), dpo_loss(*values, beta))
    assert_close(rdpo_loss(*values, *batch(n, n), beta, alpha), dpo_loss(*values, beta))


def test_rdpo_worked_by_hand():
    # rewards 0.5 and -0.5, and 0.25 for each of 2 and 6 tokens: the margin is 1 - 1
    pair = batch(-6, -10, -7, -9, 2, 6)
    assert rdpo_loss(*pair, 0.5, 0.25).item() == pytest.approx(math.log(2))
    assert rdpo_loss(*pair, 0.5, 0.5).item() == pytest.approx(math.log1p(math.e))


@pytest.mark.parametrize("share", [0.55, 0.8, 0.95])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_simpo_rests_at_the_root_of_its_quadratic(share, gamma):
    """(1 - p) g u^2 - (2p - 1) u - p g = 0 for u = exp(margin), g = exp(-gamma)."""
    g = math.exp(-gamma)
    root = (2 * share - 1) + math.sqrt((2 * share - 1) ** 2 + 4 * share * (1 - share) * g * g)
    margin = math.log(root / (2 * (1 - share) * g))
    logit = math.log(share / (1 - share))
    assert logit - 1e-12 <= margin <= logit + gamma + 1e-12
    a, b = (leaf.requires_grad_() for leaf in batch(2 * margin - 8, -8))  # two tokens each
    zero, two = batch(0, 2)
    mean = share * simpo_loss(a, b, zero, zero, two, two, 1.0, gamma) + (1 - share) * simpo_loss(
        b, a, zero, zero, two, two, 1.0, gamma
    )
    for slope in torch.autograd.grad(mean.sum(), (a, b)):
        assert slope.abs().item() < 1e-14


def test_what_depends_on_the_prompt_alone_cancels_between_answers_of_one_length_only():
    """A shift of both log-ratios, as beta log Z(x) is: DPO and equal lengths do not see it."""
    values = batch(-6, -10, -7, -9)
    shifted = [values[0] + 3, values[1] + 3, *values[2:]]
    for lengths, seen in (((4, 4), 0.0), ((2, 4), 3 * (1 / 2 - 1 / 4)), ((4, 2), -3 / 4)):
        before, after = (
            torch.special.logit(torch.exp(-sigmoid_norm_loss(*v, *batch(*lengths), 1.0)))
            for v in (values, shifted)
        )  # margins: exp(-loss) is the preference
        assert (after - before).item() == pytest.approx(seen, abs=1e-12)
    assert_close(dpo_loss(*shifted, 1.0), dpo_loss(*values, 1.0))


def test_only_sigmoid_norm_looks_at_the_reference():
    values, other = batch(-6, -10, -7, -9, 2, 4), batch(-6, -10, -1, -2, 2, 4)
    for name, loss in LOSSES.items():
        assert torch.equal(loss(*values, 1.0), loss(*other, 1.0)) == (name != "sigmoid_norm")


@given(st.floats(-700, -1e-9))
def test_log_odds_equal_their_formula_in_forty_digits(log_p):
    with mpmath.workdps(40):
        wanted = mpmath.mpf(log_p) - mpmath.log(1 - mpmath.exp(log_p))
    got = log_odds(torch.tensor(log_p, dtype=torch.float64)).item()
    assert got == pytest.approx(float(wanted), rel=1e-13, abs=1e-15)


def test_log_odds_at_a_sure_and_at_an_impossible_answer():
    sure, unlikely = table(-1e-9, -700.0).requires_grad_()
    assert log_odds(sure).item() == pytest.approx(-math.log(1e-9), rel=1e-9)  # log(1 / 1e-9)
    assert log_odds(unlikely).item() == -700.0
    assert log_odds(torch.tensor(-math.inf)).item() == -math.inf
    for dtype, most in ((torch.float32, 16), (torch.float64, 37)):
        for value in (0.0, -1e-40, -1e-9, -1e-3, -1.0, -700.0, -1e6):
            leaf = torch.tensor([value], dtype=dtype, requires_grad=True)
            (slope,) = torch.autograd.grad(log_odds(leaf).sum(), leaf)
            assert log_odds(leaf).isfinite().all() and log_odds(leaf).item() <= most
            assert slope.isfinite().all() and slope.item() >= 1  # never flat


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_from_sure_answers_to_a_million_nats(loss, dtype):
    ends = torch.tensor([-0.0, -1e-9, -1.0, -88.0, -710.0, -1e4, -1e6], dtype=dtype)
    for beta in (1e-3, 1.0, 10.0):
        for lengths in ((1, 1), (3, 1000)):
            grid = torch.meshgrid(ends, ends, indexing="ij")
            chosen, rejected = (leaf.flatten().requires_grad_() for leaf in grid)
            ref = torch.zeros_like(chosen)
            counts = [torch.full(chosen.shape, n) for n in lengths]
            value = loss(chosen, rejected, ref, ref, *counts, beta)
            assert value.dtype == dtype and value.shape == chosen.shape
            for found in (value, *torch.autograd.grad(value.sum(), (chosen, rejected))):
                assert found.isfinite().all()


@each_loss
def test_an_impossible_answer_has_the_limit(loss):
    chosen, rejected = batch(-2, -math.inf)
    rest = batch(-1, -1, 2, 2)
    assert loss(rejected, chosen, *rest, 1.0).item() == math.inf
    found = loss(chosen, rejected, *rest, 1.0).item()
    assert found == (1.0 if loss is orpo_loss else 0.0)  # the SFT term is left
    with pytest.raises(ValueError, match="no preference between them"):
        loss(rejected, rejected, *rest, 1.0)


@each_loss
def test_each_pair_has_its_own_loss_and_lengths(loss):
    values = -10 * torch.rand(4, 6, generator=generator(), dtype=torch.float64)
    lengths = torch.randint(1, 9, (2, 6), generator=generator())
    together = loss(*values, *lengths, 0.7)
    alone = [loss(*v, *n, 0.7) for v, n in zip(values.T, lengths.T, strict=True)]
    assert_close(torch.stack(alone), together, rtol=1e-14, atol=1e-14)
    assert not torch.allclose(loss(*values, *lengths.flip(0), 0.7), together)


@each_loss
def test_lengths_that_are_none_are_refused(loss):
    values = batch(-1, -2, -1, -2)
    with pytest.raises(ValueError, match=r"^lengths must be at least 1, got 0 at \(0,\)$"):
        loss(*values, torch.tensor([3]), torch.tensor([0]), 1.0)
    with pytest.raises(
        ValueError, match=r"^shapes must be equal, got logps \(1,\), lengths \(2,\)$"
    ):
        loss(*values, torch.tensor([3, 3]), torch.tensor([3]), 1.0)
    assert torch.equal(per_token(table(-6.0), torch.tensor([4])), table(-1.5))
