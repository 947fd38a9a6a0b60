import pytest
import torch
from helpers import generator, table

from dpo_lib.evaluation import z_score
from dpo_lib.world import random_world, sample_responses, three_answers


def test_the_three_answers_are_the_ones_that_the_book_draws():
    world = three_answers()
    assert (world.prompts, world.responses) == (1, 3)
    assert world.true_reward.tolist() == [[2.0, 1.0, 0.0]]
    torch.testing.assert_close(world.log_ref.exp(), table([0.2, 0.3, 0.5]))


@pytest.mark.parametrize("impossible", [0, 1, 4])
def test_each_prompt_has_the_wanted_number_of_impossible_responses(impossible):
    world = random_world(generator(), prompts=7, responses=5, batch=(2, 3), impossible=impossible)
    assert world.true_reward.shape == world.log_ref.shape == (2, 3, 7, 5)
    assert (world.log_ref.isneginf().sum(-1) == impossible).all()
    torch.testing.assert_close(world.log_ref.exp().sum(-1), torch.ones_like(world.log_ref[..., 0]))


def test_a_world_is_a_function_of_its_generator_alone():
    first = random_world(generator(3), impossible=2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = random_world(generator(3), impossible=2)
    assert torch.equal(first.true_reward, second.true_reward)
    assert torch.equal(first.log_ref, second.log_ref)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.log_ref, random_world(generator(4), impossible=2).log_ref)


def test_the_reward_scale_is_a_standard_deviation():
    reward = random_world(generator(1), prompts=100, responses=400, reward_scale=50.0).true_reward
    # The standard error of a sample deviation is s / sqrt(2 n): 50 / sqrt(80,000) = 0.18.
    assert abs(reward.std().item() - 50) < 4 * 0.18
    assert abs(reward.mean().item()) < 4 * 50 / 200


def test_references_are_uniform_on_the_simplex():
    share = random_world(generator(2), prompts=20_000, responses=4).log_ref.exp()
    for threshold in (0.1, 0.25, 0.6):  # one coordinate of Dirichlet(1, 1, 1, 1) is Beta(1, 3)
        above = (share[:, 0] > threshold).sum()
        assert z_score(above, 20_000, table((1 - threshold) ** 3)).abs() < 4


def test_responses_are_drawn_with_their_probabilities_and_impossible_ones_never():
    world = random_world(generator(5), prompts=3, responses=6, batch=(2,), impossible=2)
    draws = 50_000
    drawn = sample_responses(world.log_ref, draws, generator(6))
    assert drawn.shape == (2, 3, draws)
    counts = torch.nn.functional.one_hot(drawn, 6).sum(-2)
    assert (counts[world.log_ref.isneginf()] == 0).all()
    assert (z_score(counts, draws, world.log_ref.exp()).abs() < 4).all()


def test_a_sure_response_is_always_drawn():
    log_policy = table([-torch.inf, 0.0, -torch.inf])
    assert (sample_responses(log_policy, 1000, generator()) == 1).all()


def test_draws_repeat_with_the_generator_and_rows_do_not_disturb_each_other():
    log_policy = random_world(generator(7), prompts=2, responses=5).log_ref
    other = torch.stack([log_policy[0], log_policy[1].flip(-1)])
    first = sample_responses(log_policy, 100, generator(8))
    assert torch.equal(first, sample_responses(log_policy, 100, generator(8)))
    assert torch.equal(first[0], sample_responses(other, 100, generator(8))[0])
    assert not torch.equal(first[1], sample_responses(other, 100, generator(8))[1])
