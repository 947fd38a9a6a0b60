import inspect
import math

import mpmath
import pytest
import torch
from helpers import generator, numbers, table
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpo_lib._loss_names import TOLD
from dpo_lib.losses import dpo_loss, dpo_weight, unlikelihood_loss
from dpo_lib.per_token import nll_loss
from dpo_lib.variants import LOSSES, cdpo_loss, choose_loss, implicit_rewards, robust_loss

# Losses of two log-ratios; the others are `unlikelihood` and those of tests/test_per_token.py.
PAIRWISE = sorted(n for n, loss in LOSSES.items() if not loss.lengths and n != "unlikelihood")
WITHOUT_REFERENCE = {"unlikelihood", "simpo", "orpo"}
LENGTHS = (3, 5)  # tokens of chosen and rejected
SMOOTHED = [name for name in LOSSES if "label_smoothing" in LOSSES[name].settings]
moderate = st.floats(-4, 4)
shares = st.floats(1e-3, 0.499)


def evaluate(name, logps, beta=0.5, label_smoothing=0.1, alpha=0.5):
    """A loss at four log-probabilities, numbers or tensors."""
    given = {"beta": beta, "label_smoothing": label_smoothing, "alpha": alpha,
             "dpop_lambda": 2.0, "rdpo_alpha": 0.3, "simpo_gamma": 0.7}  # fmt: skip
    logps = [torch.as_tensor(logp, dtype=torch.float64) for logp in logps]
    lengths = [torch.full_like(logp, n) for logp, n in zip(logps, LENGTHS, strict=False)]
    settings = {key: given[key] for key in LOSSES[name].settings}
    return LOSSES[name].function(*logps, *(lengths if LOSSES[name].lengths else ()), **settings)


def at_rewards(name, chosen, rejected, label_smoothing=0.1, beta=1.0):
    """A loss at given implicit rewards: with a reference of log-probability 0."""
    chosen, rejected = (torch.as_tensor(r, dtype=torch.float64) / beta for r in (chosen, rejected))
    zero = torch.zeros_like(chosen)
    return evaluate(name, (chosen, rejected, zero, zero), beta, label_smoothing)


def slopes(name, chosen, rejected, **settings):
    """Derivatives in the chosen and in the rejected answer's log-probability."""
    leaves = [table(value).requires_grad_() for value in (chosen, rejected)]
    loss = at_rewards(name, *leaves, **settings)
    return [slope.item() for slope in torch.autograd.grad(loss.sum(), leaves)]


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def odds(log_p):
    """log(P / (1 - P)) as TRL's ORPO writes it."""
    return log_p - mpmath.log(1 - mpmath.exp(log_p))


@given(moderate, moderate, moderate, moderate, st.floats(0.05, 2), shares)
def test_every_loss_equals_its_formula_in_forty_digits(pc, pr, rc, rr, beta, eps):
    pc, pr, rc, rr = (logp - 4.5 for logp in (pc, pr, rc, rr))  # of probabilities below 1
    with mpmath.workdps(40):
        c, r = beta * (mpmath.mpf(pc) - rc), beta * (mpmath.mpf(pr) - rr)
        z, tau, half = c - r, mpmath.mpf("0.05"), 1 / (2 * mpmath.mpf(beta))
        loss, flipped, log = -mpmath.log(sigmoid(z)), -mpmath.log(sigmoid(-z)), mpmath.log
        mean_c, mean_r = mpmath.mpf(pc) / 3, mpmath.mpf(pr) / 5
        formulas = {
            "sigmoid": loss,
            "cdpo": (1 - eps) * loss + eps * flipped,
            "robust": ((1 - eps) * loss - eps * flipped) / (1 - 2 * mpmath.mpf(eps)),
            "hinge": max(0, 1 - z),
            "ipo": (z / beta - half) ** 2,
            "exo_pair": sigmoid(z) * (log(sigmoid(z)) - log(1 - mpmath.mpf(eps)))
            + sigmoid(-z) * (log(sigmoid(-z)) - log(eps)),
            "nca_pair": -log(sigmoid(c)) - (log(sigmoid(-c)) + log(sigmoid(-r))) / 2,
            "bco_pair": -log(sigmoid(c)) - log(sigmoid(-r)),
            "sppo_hard": (c / beta - half) ** 2 + (r / beta + half) ** 2,
            "apo_zero": 1 - sigmoid(c) + sigmoid(r),
            "apo_down": sigmoid(c) + 1 - sigmoid(z),
            "discopop": loss * (1 - sigmoid(z / tau)) + mpmath.exp(-z) * sigmoid(z / tau),
            "unlikelihood": -(mpmath.mpf(pc) - mpmath.mpf(pr) / 2),
            "dpop": -log(sigmoid(z - 2 * max(0, -c))),
            "rdpo": -log(sigmoid(z + mpmath.mpf(0.3) * (3 - 5))),
            "sigmoid_norm": -log(sigmoid(c / 3 - r / 5)),
            "simpo": -log(sigmoid(beta * mean_c - beta * mean_r - mpmath.mpf(0.7))),
            "orpo": -mean_c - beta * log(sigmoid(odds(mean_c) - odds(mean_r))),
        }
    assert formulas.keys() == LOSSES.keys()
    for name, wanted in formulas.items():
        got = evaluate(name, (pc, pr, rc, rr), beta, eps).item()
        assert got == pytest.approx(float(wanted), rel=1e-11, abs=1e-12), name


# The derivative in z of each loss of the margin, and in c and r of each loss of two rewards.
def derivatives(name, c, r, eps, beta):
    z, s = c - r, lambda x: float(sigmoid(x))
    bump = lambda x: s(x) * s(-x)  # noqa: E731  # the sigmoid's derivative
    both = lambda slope: (slope, -slope)  # noqa: E731
    logit = math.log((1 - eps) / eps)
    return {
        "sigmoid": both(-s(-z)),
        "cdpo": both(s(z) - (1 - eps)),
        "robust": both(-s(-z) - eps / (1 - 2 * eps)),
        "hinge": both(-1.0 if z < 1 else 0.0),
        "ipo": both(2 * (z / beta - 1 / (2 * beta)) / beta),
        "exo_pair": both(bump(z) * (z - logit)),
        "nca_pair": (-s(-c) + s(c) / 2, s(r) / 2),
        "bco_pair": (-s(-c), s(r)),
        "sppo_hard": (2 * (c / beta - 1 / (2 * beta)) / beta, 2 * (r + 0.5) / beta**2),
        "apo_zero": (-bump(c), bump(r)),
        "apo_down": (bump(c) - bump(z), bump(z)),
        "dpop": (-s(2 * max(0, -c) - z) * (3 if c < 0 else 1), s(2 * max(0, -c) - z)),
    }[name]


@pytest.mark.parametrize("name", sorted(set(PAIRWISE) - {"discopop"}))
@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_the_gradient_agrees_with_its_formula(name, beta):
    for c, r in ((0.3, -0.4), (-2.0, 1.5), (3.0, 0.25), (0.0, 0.0)):
        got = slopes(name, c, r, beta=beta, label_smoothing=0.2)
        wanted = derivatives(name, c, r, 0.2, beta)
        assert got == pytest.approx(wanted, rel=1e-12, abs=1e-14)


def test_discopop_s_gradient_agrees_with_central_differences():
    for z in (-3.0, -0.1, 0.0, 0.02, 0.4, 5.0):
        up, down = (at_rewards("discopop", z + side * 1e-5, 0.0).item() for side in (1, -1))
        slope, other = slopes("discopop", z, 0.0)
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-7)
        assert slope == -other


@given(moderate, moderate, shares)
def test_no_smoothing_is_bit_equal_to_dpo_and_exo_needs_some(chosen, rejected, eps):  # D5
    plain = at_rewards("sigmoid", chosen, rejected)
    for name in ("cdpo", "robust"):
        assert torch.equal(at_rewards(name, chosen, rejected, label_smoothing=0.0), plain)
    with pytest.raises(ValueError, match=r"label_smoothing must be positive in exo_pair, got 0\.0"):
        at_rewards("exo_pair", chosen, rejected, label_smoothing=0.0)


@given(moderate, moderate, shares)
def test_a_flip_rate_of_one_minus_eps_is_the_swapped_pair_with_eps(chosen, rejected, eps):
    """D5: the formula of cDPO at 1 - eps, which the function refuses, against the function."""
    loss, flipped = (at_rewards("sigmoid", *pair) for pair in _both_ways(chosen, rejected))
    swapped = at_rewards("cdpo", rejected, chosen, eps)
    assert_close(eps * loss + (1 - eps) * flipped, swapped, rtol=1e-13, atol=1e-13)
    got = at_rewards("exo_pair", rejected, chosen, eps).item()  # KL(sigma(z) || eps), by hand
    p = float(sigmoid(chosen - rejected))
    wanted = p * math.log(p / eps) + (1 - p) * math.log((1 - p) / (1 - eps))
    assert got == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def _both_ways(chosen, rejected):
    return (chosen, rejected), (rejected, chosen)


@pytest.mark.parametrize("name", ["cdpo", "exo_pair"])
@pytest.mark.parametrize("eps", [0.001, 0.1, 0.3, 0.49])
def test_smoothed_labels_are_met_where_the_preference_is_one_minus_eps(name, eps):  # D5
    best = math.log((1 - eps) / eps)  # sigma(best) = 1 - eps
    assert slopes(name, best, 0.0, label_smoothing=eps)[0] == pytest.approx(0, abs=1e-15)
    margins = torch.linspace(best - 2, best + 2, 401, dtype=torch.float64)
    losses = at_rewards(name, margins, torch.zeros_like(margins), eps)
    assert losses.argmin() == 200
    if name == "cdpo":  # there it is the entropy of the labels; a divergence is 0
        assert losses[200].item() == pytest.approx(
            -eps * math.log(eps) - (1 - eps) * math.log1p(-eps)
        )
    else:
        assert losses[200].item() == pytest.approx(0, abs=1e-15)


@given(moderate, moderate, st.floats(0, 0.49))
def test_the_robust_loss_is_unbiased_under_flipped_labels(chosen, rejected, eps):  # D5
    right, flipped = (at_rewards("robust", *pair, eps) for pair in _both_ways(chosen, rejected))
    mean = (1 - eps) * right + eps * flipped
    assert_close(mean, at_rewards("sigmoid", chosen, rejected), rtol=1e-12, atol=1e-12)


def test_the_smoothed_and_the_robust_loss_differ_from_dpo_by_a_multiple_of_the_margin():
    # L(-z) = L(z) + z, so cDPO = L + eps z and rDPO = L - eps z / (1 - 2 eps): z = 1.5, eps = 1/4
    loss = at_rewards("sigmoid", 2.0, 0.5).item()
    assert at_rewards("cdpo", 2.0, 0.5, 0.25).item() == pytest.approx(loss + 0.375)
    assert at_rewards("robust", 2.0, 0.5, 0.25).item() == pytest.approx(loss - 0.75)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 10.0])
def test_ipo_rests_at_a_margin_of_one_half_over_beta_nats_of_summed_log_probabilities(beta):
    """A11: the whole response, not its mean over tokens."""
    target = 1 / (2 * beta)
    tokens = table(*[[target / 10] * 10])  # ten tokens that share the log-ratio
    logps = (tokens.sum().requires_grad_(), *table(0.0, 0.0, 0.0))
    loss = evaluate("ipo", logps, beta)
    assert loss.item() == pytest.approx(0, abs=1e-20 * target**2 + 1e-25)
    assert evaluate("ipo", (table(target).mean() + 3, *logps[1:]), beta).item() == pytest.approx(9)
    assert slopes("ipo", 0.5, 0.0, beta=beta) == pytest.approx([0, 0], abs=1e-12 / beta)


def test_sppo_rests_where_ipo_does_and_nca_holds_the_chosen_reward_at_log_two():
    # SPPO: +1 / (2 beta) nats and -1 / (2 beta) nats, rewards of 1/2 and -1/2.
    assert slopes("sppo_hard", 0.5, -0.5, beta=0.2) == pytest.approx([0, 0], abs=1e-12)
    assert slopes("nca_pair", math.log(2), 0.0)[0] == pytest.approx(0, abs=1e-15)


# Signs of the derivative in the chosen and in the rejected answer, where they never change.
MONOTONE = {
    "sigmoid": (-1, 1), "robust": (-1, 1), "bco_pair": (-1, 1), "apo_zero": (-1, 1),
    "unlikelihood": (-1, 1), "nca_pair": (None, 1), "apo_down": (None, 1), "dpop": (-1, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MONOTONE)
@given(chosen=moderate, rejected=moderate)
def test_raising_an_answer_moves_the_loss_its_way(name, chosen, rejected):  # D4
    for slope, sign in zip(slopes(name, chosen, rejected), MONOTONE[name], strict=True):
        assert sign is None or sign * slope > 0


def test_the_losses_that_are_not_monotone_turn_where_they_say():
    assert slopes("hinge", 0.99, 0.0) == [-1, 1]
    assert slopes("hinge", 1.01, 0.0) == [0, 0]
    for name, turn in (("ipo", 0.5), ("cdpo", math.log(9)), ("exo_pair", math.log(9))):
        assert slopes(name, turn - 0.01, 0.0)[0] < 0 < slopes(name, turn + 0.01, 0.0)[0]
    assert slopes("nca_pair", 0.69, 0.0)[0] < 0 < slopes("nca_pair", 0.70, 0.0)[0]
    assert slopes("discopop", 0.0, 0.0)[0] > 0  # rises from log 2 towards 1 ...
    assert slopes("discopop", -1.0, 0.0)[0] < 0 > slopes("discopop", 1.0, 0.0)[0]  # ... and falls
    assert slopes("apo_down", -1.0, -1.0)[0] < 0 < slopes("apo_down", 0.0, -1.0)[0]


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_and_its_gradient_are_finite_at_log_ratios_of_a_million(name, dtype):  # D6, H1
    sizes = torch.tensor([0, 1, -1, 88, -89, 710, -710, 1e4, -1e4, 1e6, -1e6], dtype=dtype)
    for beta in (1e-3, 1.0, 10.0):
        pc, pr = (
            leaf.flatten().requires_grad_() for leaf in torch.meshgrid(sizes, sizes, indexing="ij")
        )
        zero = torch.zeros_like(pc)
        settings = {"beta": beta, "label_smoothing": 0.1}
        settings = {key: settings[key] for key in LOSSES[name].settings if key in settings}
        loss = LOSSES[name].function(pc, pr, zero, zero, **settings)
        assert loss.dtype == dtype and loss.shape == pc.shape
        for tensor in (loss, *torch.autograd.grad(loss.sum(), (pc, pr))):
            assert tensor.isfinite().all()


@given(numbers, numbers)
def test_discopop_is_exact_where_its_exponential_overflows(chosen, rejected):  # D6
    with mpmath.workdps(40):
        z = mpmath.mpf(chosen) - mpmath.mpf(rejected)
        share = sigmoid(20 * z)
        wanted = mpmath.log1p(mpmath.exp(-z)) * (1 - share) + mpmath.exp(-z) * share
    got = at_rewards("discopop", chosen, rejected).item()
    assert got == pytest.approx(float(wanted), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("name", LOSSES)
def test_each_pair_has_its_own_loss_and_a_prompt_s_shift_changes_nothing(name):
    logps = -10 * torch.rand(4, 6, generator=generator(), dtype=torch.float64)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    losses = evaluate(name, logps)
    assert torch.equal(evaluate(name, logps[:, order]), losses[order])
    assert torch.equal(torch.stack([evaluate(name, column) for column in logps.T]), losses)
    if name not in WITHOUT_REFERENCE:  # log-ratios are all that count
        assert_close(evaluate(name, logps + 3), losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_differ_are_refused_by_every_loss(name):  # A12
    column = torch.zeros(2, 1)
    for shapes in ((0, 1, 0, 1), (1, 0, 0, 0), (0, 0, 0, 1)):
        logps = [column if which else column[:, 0] for which in shapes]
        with pytest.raises(ValueError, match=r"^shapes must be equal, got \w+ \(.*, \w+ \(.*\)$"):
            evaluate(name, logps)


def test_unlikelihood_is_the_paper_s_and_ignores_the_reference():
    logps = table(-3.0, -5.0, -7.0, -11.0)
    assert evaluate("unlikelihood", logps, alpha=0.5).item() == 3.0 - 0.5 * 5.0
    assert torch.equal(
        evaluate("unlikelihood", -logps, alpha=0.3), unlikelihood_loss(*-logps[:2], 0.3)
    )


def test_sigmoid_with_smoothed_labels_is_cdpo():
    chosen, rejected, zero = table(0.3, -2.0), table(-0.4, 1.0), table(0.0, 0.0)
    smoothed = at_rewards("cdpo", chosen, rejected, label_smoothing=0.2)
    loss = choose_loss("sigmoid", 1.0, label_smoothing=0.2)
    assert torch.equal(loss(chosen, rejected, zero, zero), smoothed)
    assert not torch.allclose(smoothed, at_rewards("sigmoid", chosen, rejected))


def test_sigmoid_is_dpo_and_apo_down_holds_its_weight():
    assert LOSSES["sigmoid"].function is dpo_loss
    logps = table(-3.0, -5.0, -4.0, -4.5)
    chosen, _ = implicit_rewards(*logps, 0.5)
    wanted = torch.sigmoid(chosen) + dpo_weight(*logps, 0.5)
    assert_close(evaluate("apo_down", logps), wanted)


CHOICES = {
    "a loss that is not there": (("kto", 0.1), "loss must be one of sigmoid, cdpo, "),
    "smoothing without effect": (
        ("hinge", 0.1, 0.1),
        "label_smoothing has no effect on the loss hinge, only on cdpo, robust, exo_pair; ",
    ),
    "smoothing of ipo": (("ipo", 0.1, 0.2), "label_smoothing has no effect on the loss ipo"),
    "alpha without effect": (
        ("cdpo", 0.1, 0.1, 0.0),
        "alpha has no effect on the loss cdpo, only on unlikelihood; got 0.0",
    ),
    "no alpha": (("unlikelihood", 0.1), "the loss unlikelihood needs alpha"),
    "no price of a token": (("rdpo", 0.1), "the loss rdpo needs rdpo_alpha: the reward units"),
    "a large alpha": (("unlikelihood", 0.1, 0.0, 1.5), "alpha must lie in [0, 1], got 1.5"),
    "beta 0": (("ipo", 0.0), "beta must be a positive, finite number, got 0.0"),
    "beta of unlikelihood": (("unlikelihood", math.nan, 0.0, 1.0), "beta must be a positive"),
    "exo without smoothing": (("exo_pair", 0.1), "label_smoothing must be positive in exo_pair"),
}
MORE = {
    "a target without simpo": (
        "dpop", dict(simpo_gamma=0.5),
        "simpo_gamma has no effect on the loss dpop, only on simpo; got 0.5",
    ),
    "a price without dpop": (
        "sigmoid", dict(dpop_lambda=0.0),
        "dpop_lambda has no effect on the loss sigmoid, only on dpop; got 0.0",
    ),
    "a negative target": (
        "simpo", dict(simpo_gamma=-1.0), "simpo_gamma must be at least 0 and finite, got -1.0",
    ),
    "an infinite price": (
        "dpop", dict(dpop_lambda=math.inf), "dpop_lambda must be at least 0 and finite, got inf",
    ),
    "no number": (
        "sigmoid", dict(rpo_alpha=math.nan), "rpo_alpha must be at least 0 and finite, got nan",
    ),
    "orpo twice": (
        "orpo", dict(rpo_alpha=1.0), "orpo has an SFT term already: leave out rpo_alpha, got 1.0",
    ),
    "a divergence that is not there": (
        "sigmoid", dict(f_divergence_type="kl"),
        "f_divergence_type must be one of reverse_kl, forward_kl, js_divergence, alpha_divergence",
    ),
    "a coefficient without effect": (
        "sigmoid", dict(f_divergence_type="js_divergence", f_alpha_divergence_coef=0.5),
        "f_alpha_divergence_coef has no effect on js_divergence, only on alpha_divergence; got 0.5",
    ),
    "no coefficient": (
        "sigmoid", dict(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=math.nan),
        "f_alpha_divergence_coef must be finite, got nan",
    ),
}  # fmt: skip
MORE |= {
    f"a divergence of {name}": (
        name, dict(f_divergence_type="forward_kl") | ({"alpha": 0.5} if "unl" in name else {}),
        "f_divergence_type has a meaning for sigmoid, cdpo, robust, hinge, ipo, exo_pair, "
        f"discopop, sigmoid_norm only, not for {name}; got forward_kl",
    )
    for name in ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "unlikelihood",
                 "dpop", "simpo", "orpo")
}  # fmt: skip


@pytest.mark.parametrize(("name", "told", "problem"), MORE.values(), ids=MORE)
def test_a_term_or_a_divergence_that_makes_no_sense_is_refused(name, told, problem):
    with pytest.raises(ValueError) as error:
        choose_loss(name, 0.1, **told)
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


CHOICES |= {
    f"{name}, smoothing {eps}": (
        (name, 0.1, eps),
        f"label_smoothing must lie in [0, 1/2), got {eps}",
    )
    for name in SMOOTHED
    for eps in (0.5, 1.0, -0.1, math.nan)
}


@pytest.mark.parametrize(("arguments", "problem"), CHOICES.values(), ids=CHOICES)
def test_a_setting_that_a_loss_ignores_lacks_or_cannot_take_is_refused(arguments, problem):  # D5
    with pytest.raises(ValueError) as error:
        choose_loss(*arguments)
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", LOSSES)
def test_a_chosen_loss_has_its_settings_filled_in(name):
    eps = 0.1 if name in SMOOTHED else 0.0
    alpha = 0.3 if name == "unlikelihood" else None
    own = {"dpop": {"dpop_lambda": 2.0}, "rdpo": {"rdpo_alpha": 0.3}, "simpo": {"simpo_gamma": 0.7}}
    own = own.get(name, {})
    logps = -10 * torch.rand(4, 5, generator=generator(1), dtype=torch.float64)
    lengths = [torch.full((5,), n) for n in LENGTHS]
    wanted = evaluate(name, logps, 0.2, eps, alpha)
    loss = choose_loss(name, 0.2, eps, alpha, **own)
    assert torch.equal(loss(*logps, *lengths), wanted)
    if not LOSSES[name].lengths:
        assert torch.equal(loss(*logps), wanted)
    else:
        with pytest.raises(TypeError, match=r"missing 2 required .* 'chosen_lengths' and 'rejec"):
            loss(*logps)


def test_own_settings_that_are_left_out_are_the_papers_or_trl_s():
    logps, lengths = table([-3.0], [-4.0], [-2.5], [-3.5]), [torch.tensor([n]) for n in LENGTHS]
    for name, own in (("dpop", {"dpop_lambda": 50.0}), ("simpo", {"simpo_gamma": 0.5})):
        assert torch.equal(
            choose_loss(name, 0.2)(*logps, *lengths),
            choose_loss(name, 0.2, **own)(*logps, *lengths),
        )


def test_all_that_a_loss_can_be_told_has_the_same_names_and_defaults_everywhere():
    parameters = list(inspect.signature(choose_loss).parameters.values())[2:]
    assert {p.name: p.default for p in parameters} == TOLD


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"orpo"}))
def test_rpo_alpha_adds_the_chosen_answer_s_loss_per_token_to_every_loss_but_orpo(name):
    own = {"label_smoothing": 0.1} if name in SMOOTHED else {}
    own |= {"alpha": 0.3} if name == "unlikelihood" else {}
    own |= {"rdpo_alpha": 0.3} if name == "rdpo" else {}
    logps = -10 * torch.rand(4, 5, generator=generator(1), dtype=torch.float64)
    lengths = torch.tensor([2, 3, 5, 7, 11]), torch.tensor([1, 8, 2, 4, 6])
    plain = choose_loss(name, 0.2, **own)(*logps, *lengths)
    added = choose_loss(name, 0.2, rpo_alpha=0.25, **own)(*logps, *lengths) - plain
    assert_close(added, -0.25 * logps[0] / lengths[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(nll_loss(logps[0], lengths[0]), -logps[0] / lengths[0])
    assert torch.equal(choose_loss(name, 0.2, rpo_alpha=0.0, **own)(*logps, *lengths), plain)
    with pytest.raises(TypeError, match="chosen_lengths"):
        choose_loss(name, 0.2, rpo_alpha=0.25, **own)(*logps)


@given(moderate, moderate)
def test_dpop_without_its_price_is_dpo_bit_for_bit_and_so_is_it_where_the_chosen_rises(c, r):
    logps = [torch.tensor([float(v)], dtype=torch.float64) for v in (c, r, 0, 0)]
    plain = choose_loss("sigmoid", 1.0)(*logps)
    assert torch.equal(choose_loss("dpop", 1.0, dpop_lambda=0)(*logps), plain)
    priced = choose_loss("dpop", 1.0)(*logps)
    assert torch.equal(priced, plain) if c >= 0 else priced >= plain


def test_dpop_worked_by_hand():
    # rewards -1 and -3 at beta 1/2: z = 2, minus 2 times 1, so the margin is 0; with 50 it is -48
    logps = table([-12.0], [-16.0], [-10.0], [-10.0])
    assert choose_loss("dpop", 0.5, dpop_lambda=2.0)(*logps).item() == pytest.approx(math.log(2))
    assert choose_loss("dpop", 0.5)(*logps).item() == pytest.approx(48)


def test_an_impossible_answer_is_refused_where_a_loss_has_no_limit():
    for name in sorted(set(PAIRWISE) - {"sigmoid"}):
        with pytest.raises(ValueError, match=r"chosen_rewards must be finite, got -inf at \(1,\)"):
            evaluate(
                name, (table(-1.0, -math.inf), *table([-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]))
            )


def test_the_two_losses_for_wrong_labels_take_a_share_below_one_half():
    logps = table([-1.0], [-2.0], [-1.5], [-1.5])
    for function in (cdpo_loss, robust_loss):
        with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1/2\), got 0.5"):
            function(*logps, beta=0.1, label_smoothing=0.5)
