"""What the tokens of one iteration earn: against definitions, hand numbers and invariances."""

import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from dpo_lib.language_model.generation.rollouts import (
    Rollouts,
    pad,
    token_advantages,
    token_mask,
    token_rewards,
    whiten,
)
from dpo_lib.language_model.scoring.logprobs import plain_logps, token_logps
from dpo_lib.language_model.stages.ppo_terms import (
    ValueModel,
    clip_fraction,
    clipped_value_loss,
    controlled_beta,
    logps_and_entropies,
)
from dpo_lib.losses import ppo_clip_loss

LENGTHS = torch.tensor([5, 1, 3, 6, 2])
WIDTH = 6


def ragged(seed, filler=0.0):
    """Random numbers in the valid slots, the filler in all others; float64."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(len(LENGTHS), WIDTH, generator=generator, dtype=torch.float64)
    return numbers.where(token_mask(LENGTHS, WIDTH), filler)


def model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=7, n_layer=2, n_embd=16, n_head=2, n_positions=16,
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, initializer_range=0.5,
        )  # fmt: skip
        return GPT2LMHeadModel(config).double()


SEQUENCES = [((1, 2), (3, 4, 0)), ((5,), (6,)), ((1, 2), (2, 2, 2, 2)), ((4, 4, 4), (1, 0))]


def test_J1_token_rewards_by_hand():
    rewards = token_rewards(
        scores=torch.tensor([10.0, -1.0]),
        logps=torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 0.0, 0.0]]),
        ref_logps=torch.tensor([[-1.5, -1.0, -3.0], [-2.5, 0.0, 0.0]]),
        lengths=torch.tensor([3, 1]),
        beta=0.5,
    )
    # -0.5 * (0.5, -1, 0) with 10 at the third token; -0.5 * 2 - 1 at the only token
    assert_close(rewards, torch.tensor([[-0.25, 0.5, 10.0], [-2.0, 0.0, 0.0]]))


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("filler", [0.0, 7.0, torch.nan, torch.inf, -torch.inf])
def test_J1_A8_rewards_are_on_generated_tokens_only_and_sum_to_score_minus_beta_kl(beta, filler):
    scores = torch.arange(5, dtype=torch.float64)
    rewards = token_rewards(scores, ragged(1, filler), ragged(2, filler), LENGTHS, beta)
    assert (rewards[~token_mask(LENGTHS, WIDTH)] == 0).all()
    log_ratios = (ragged(1) - ragged(2)).sum(-1)
    assert_close(rewards.sum(-1), scores - beta * log_ratios, rtol=1e-14, atol=1e-14)


def test_J1_the_score_is_at_the_last_generated_token():
    zero = torch.zeros(len(LENGTHS), WIDTH)
    rewards = token_rewards(torch.ones(5), zero, zero, LENGTHS, beta=0.3)
    places = rewards.nonzero().tolist()
    assert places == [[row, length - 1] for row, length in enumerate(LENGTHS.tolist())]


def test_J2_moving_towards_the_reference_raises_the_reward():
    scores, logps, ref_logps = torch.zeros(5), ragged(1), ragged(1) - 1.0
    far = token_rewards(scores, logps, ref_logps, LENGTHS, 0.1).sum()
    nearer = token_rewards(scores, logps - 0.5, ref_logps, LENGTHS, 0.1).sum()
    assert far < nearer


def quadratic_gae(rewards, values, gamma, lam):
    """The definition: A_t = sum_l (gamma lam)^l delta_{t+l}, one completion, Python floats."""
    steps = len(rewards)
    after = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * after[t] - values[t] for t in range(steps)]
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, steps)) for t in range(steps)
    ]


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (1.0, 1.0), (1.0, 0.0), (0.9, 0.5)])
@pytest.mark.parametrize("filler", [0.0, 7.0, torch.nan])
def test_J5_gae_is_the_quadratic_definition_on_ragged_completions(gamma, lam, filler):
    rewards, values = ragged(3), ragged(4)
    got, returns = token_advantages(ragged(3, filler), ragged(4, filler), LENGTHS, gamma, lam)
    for row, length in enumerate(LENGTHS.tolist()):
        args = rewards[row, :length].tolist(), values[row, :length].tolist()
        wanted = torch.tensor(quadratic_gae(*args, gamma, lam), dtype=torch.float64)
        assert_close(got[row, :length], wanted, rtol=1e-12, atol=1e-13)
    outside = ~token_mask(LENGTHS, WIDTH)
    assert (got[outside] == 0).all() and (returns[outside] == 0).all()
    assert_close(returns, got + values)


def test_J5_lambda_1_is_the_return_minus_the_value_and_lambda_0_the_difference():
    rewards, values = ragged(3), ragged(4)
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)
    assert_close(token_advantages(rewards, values, LENGTHS, 1.0, 1.0)[0], to_come - values)
    after = torch.cat([values[:, 1:], torch.zeros(5, 1)], -1)
    assert_close(token_advantages(rewards, values, LENGTHS, 1.0, 0.0)[0], rewards + after - values)


@pytest.mark.parametrize("filler", [0.0, 1e6, torch.nan, torch.inf])
def test_J4_whitened_advantages_have_mean_0_and_variance_1_over_valid_tokens(filler):
    mask = token_mask(LENGTHS, WIDTH)
    white = whiten(3 * ragged(5, filler) + 40, mask)
    assert abs(white[mask].mean()) < 1e-12
    assert abs(white[mask].var(correction=0) - 1) < 1e-7  # 1e-8 beneath the root, variance 9
    assert (white[~mask] == 0).all()
    assert torch.equal(white, whiten(3 * ragged(5) + 40, mask))  # whatever the padding holds


def test_J4_whitening_ignores_how_wide_the_padding_is():
    mask, wide = token_mask(LENGTHS, WIDTH), token_mask(LENGTHS, WIDTH + 9)
    numbers = ragged(6)
    padded = torch.nn.functional.pad(numbers, (0, 9), value=5.0)
    assert_close(whiten(padded, wide)[:, :WIDTH], whiten(numbers, mask), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("lengths", [[1], [4, 2]])
def test_J4_one_token_or_equal_tokens_become_0(value, lengths):
    mask = token_mask(torch.tensor(lengths), 4)
    white = whiten(torch.full(mask.shape, value), mask)
    assert white.abs().max() < 1e-3


def test_the_proportional_controller_by_hand():  # Ziegler et al. 2019: gain 0.1, error in +-0.2
    assert controlled_beta(1.0, kl=6.0, target=6.0) == 1.0
    assert controlled_beta(1.0, kl=6.6, target=6.0) == pytest.approx(1.01)
    assert controlled_beta(1.0, kl=60.0, target=6.0) == pytest.approx(1.02)
    assert controlled_beta(2.0, kl=-3.0, target=6.0) == pytest.approx(1.96)
    with pytest.raises(ValueError, match="target_kl must be positive and finite, got 0"):
        controlled_beta(1.0, kl=1.0, target=0.0)


def test_J5_value_clipping_has_an_effect_and_only_beyond_the_range():
    old, returns = torch.zeros(4), torch.ones(4)
    values = torch.tensor([0.1, 0.5, -0.5, 1.5], requires_grad=True)
    plain = clipped_value_loss(values, old, returns, None)
    clipped = clipped_value_loss(values, old, returns, 0.2)
    # (V - 1)^2, and beside it (0.1 - 1)^2, (0.2 - 1)^2, (-0.2 - 1)^2, (0.2 - 1)^2
    assert_close(plain, torch.tensor([0.81, 0.25, 2.25, 0.25]))
    assert_close(clipped, torch.tensor([0.81, 0.64, 2.25, 0.64]))
    clipped.sum().backward()
    assert_close(values.grad, torch.tensor([-1.8, 0.0, -3.0, 0.0]))


def test_J5_the_clip_fraction_marks_the_tokens_without_a_gradient():
    ratio = torch.tensor([0.5, 0.9, 1.1, 1.5]).repeat(2)
    advantages = torch.tensor([1.0] * 4 + [-1.0] * 4)
    logps = ratio.log().requires_grad_()
    ppo_clip_loss(logps, torch.zeros(8), advantages, 0.2).sum().backward()
    assert torch.equal(clip_fraction(ratio.log(), advantages, 0.2) == 1, logps.grad == 0)
    assert (logps.grad == 0).tolist() == [False] * 3 + [True, True] + [False] * 3


def test_A10_entropies_and_log_probabilities_are_those_of_the_whole_distribution():
    lm, temperature = model(), 1.3
    logps, entropies = logps_and_entropies(lm, SEQUENCES, temperature)
    for row, (prompt, completion) in enumerate(SEQUENCES):
        for t, token in enumerate(completion):
            prefix = prompt + completion[:t]
            pairs = [(prefix, (candidate,)) for candidate in range(7)]
            table = torch.cat(plain_logps(lm, pairs, temperature))
            assert_close(logps[row][t], table[token])
            assert_close(entropies[row][t], -(table.exp() * table).sum())


def test_h2_with_the_entropy_log_probabilities_are_as_exact_under_autocast():
    lm = model().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = logps_and_entropies(lm, SEQUENCES, 1.0)
        expected = token_logps(lm, SEQUENCES)  # of the same hidden states, which are rounded
    assert_close(torch.cat(got), torch.cat(expected), rtol=0, atol=1e-5)


def test_values_start_at_0_on_a_body_of_their_own():
    lm = model()
    value = ValueModel(lm)
    assert [row.shape[0] for row in value(SEQUENCES)] == [3, 1, 4, 2]
    assert all((row == 0).all() for row in value(SEQUENCES))
    own = {p.data_ptr() for p in value.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in lm.parameters())
    assert all(p.requires_grad for p in value.parameters())


def test_a_value_sees_the_tokens_before_its_own_and_no_others():
    value = ValueModel(model())
    torch.nn.init.normal_(value.head.linear.weight, generator=torch.Generator().manual_seed(0))
    one, other = value([((1, 2), (3, 4, 0)), ((1, 2), (3, 5, 6))])
    assert_close(one[:2], other[:2])
    assert not torch.isclose(one[2], other[2])
    alone = value([((1, 2), (3, 4, 0))])[0]
    assert_close(alone, one)  # and not the rows beside it


def test_completions_come_back_as_they_were_taken():
    rollouts = Rollouts(3, 4)
    completions = [(0, 0, 0), (5,), (1, 2, 3, 0)]
    rollouts.take([7, 7, 1], completions)
    assert rollouts.completions([0, 1, 2]) == completions
    assert rollouts.completions([2, 0]) == [completions[2], completions[0]]
    assert rollouts.last_tokens().tolist() == [0, 5, 0]
    assert rollouts.mask().sum().item() == 8
    with pytest.raises(ValueError, match=r"shapes must be equal, got scores \(2,\), buffer \(3,\)"):
        rollouts.record(scores=torch.zeros(2))


def test_B4_a_mask_comes_from_lengths_not_from_ids():
    rollouts = Rollouts(1, 3)
    rollouts.take([0], [(0, 0)])  # tokens that are equal to the padding
    assert rollouts.mask().tolist() == [[True, True, False]]


def test_padding_keeps_gradients():
    rows = [torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)]
    (pad(rows, 3) * torch.arange(1.0, 4.0)).sum().backward()
    assert rows[0].grad.tolist() == [1, 2] and rows[1].grad.tolist() == [1]
