import itertools
import math

import mpmath
import pytest
import torch
from helpers import generator, moderate, numbers, table, tables, worlds
from hypothesis import assume, given
from hypothesis import strategies as st

from dpo_lib.evaluation import z_score
from dpo_lib.losses import table_loss
from dpo_lib.preferences import (
    bradley_terry,
    bradley_terry_logp,
    check_connected,
    count_wins,
    label_entropy,
    plackett_luce_logp,
    population_wins,
    preference_table,
    sample_preferences,
    sample_rankings,
)
from dpo_lib.world import random_world

small = st.integers(-64, 64).map(lambda k: k / 8)  # sums of these are exact


def test_preferences_worked_by_hand():
    # odds exp(log 3 - 0) = 3 to 1, so 3/4; odds 1 to 4 give 1/5
    chosen, rejected = table(math.log(3), 0.0), table(0.0, math.log(4))
    torch.testing.assert_close(bradley_terry(chosen, rejected), table(0.75, 0.2))


@given(numbers, numbers)
def test_the_two_orders_share_the_probability(first, second):
    one = bradley_terry(table(first), table(second))
    other = bradley_terry(table(second), table(first))
    torch.testing.assert_close(one + other, table(1.0), rtol=0, atol=4e-16)
    assert one >= other if first >= second else one <= other


@given(numbers)
def test_equal_rewards_are_a_coin(reward):
    assert bradley_terry(table(reward), table(reward)).item() == 0.5


@given(small, small, st.sampled_from([-(2.0**20), 1.0, 2.0**20]))
def test_a_shift_common_to_both_rewards_changes_no_bit(first, second, shift):  # I4
    shifted = bradley_terry(table(first + shift), table(second + shift))
    assert torch.equal(shifted, bradley_terry(table(first), table(second)))


@given(numbers, numbers)
def test_log_probabilities_have_sixteen_digits(first, second):  # D6
    with mpmath.workdps(50):
        margin = mpmath.mpf(first - second)  # the difference as float64 has it
        exact = float(-mpmath.log1p(mpmath.exp(-margin)))
    got = bradley_terry_logp(table(first), table(second)).item()
    assert got == pytest.approx(exact, rel=5e-16, abs=1e-307)


def test_an_enormous_defeat_is_a_number_where_the_plain_formula_gives_infinity():  # D6
    assert bradley_terry_logp(table(-1e6), table(1e6)).item() == -2e6
    assert bradley_terry(table(-1e6), table(1e6)).item() == 0


def test_the_table_of_all_pairs_equals_a_loop():
    reward = random_world(generator(1), prompts=2, responses=4, batch=(3,)).true_reward
    pairs = preference_table(reward)
    assert pairs.shape == (3, 2, 4, 4)
    for w, x, i, j in itertools.product(range(3), range(2), range(4), range(4)):
        odds = math.exp(reward[w, x, i] - reward[w, x, j])
        assert pairs[w, x, i, j].item() == pytest.approx(odds / (1 + odds), rel=1e-13)


@pytest.mark.parametrize("K", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_probabilities_of_all_rankings_sum_to_one(K, scale):
    rankings = torch.tensor(list(itertools.permutations(range(K))))
    rewards = scale * torch.randn(K, generator=generator(K), dtype=torch.float64)
    logps = plackett_luce_logp(rewards.expand(len(rankings), K), rankings)
    torch.testing.assert_close(logps.logsumexp(0), table(0.0)[0], rtol=0, atol=1e-13)


def test_a_ranking_is_drawn_stage_by_stage():
    # weights 1, 2, 3: third first (3/6), then first out of {1, 2} (1/3), then the last (1)
    logp = plackett_luce_logp(table(1.0, 2.0, 3.0).log(), torch.tensor([2, 0, 1]))
    assert logp.item() == pytest.approx(math.log(3 / 6 * 1 / 3))


@given(numbers, numbers)
def test_a_ranking_of_two_is_bradley_terry(first, second):
    ranked = plackett_luce_logp(table(first, second), torch.tensor([0, 1]))
    pair = bradley_terry_logp(table(first), table(second))[0]
    torch.testing.assert_close(ranked, pair, rtol=1e-12, atol=1e-9)  # 1e6 has spacing 1e-10


def test_labelled_pairs_have_the_frequencies_of_equation_1():
    reward = random_world(generator(2), prompts=2, responses=3).true_reward
    pairs = 60_000
    wins = count_wins(sample_preferences(reward, pairs, generator(3)), 2, 3)
    both = wins + wins.transpose(-1, -2)
    off = ~torch.eye(3, dtype=torch.bool).expand_as(wins)
    assert (z_score(wins, both, preference_table(reward))[off].abs() < 4).all()
    # 2 prompts x 3 unordered pairs, all equally likely
    assert (z_score(both, pairs, table(1 / 6))[off].abs() < 4).all()


def test_labels_repeat_with_the_generator_and_compare_two_different_responses():
    reward = random_world(generator(4), prompts=3, responses=2, batch=(5,)).true_reward
    first, again = (sample_preferences(reward, 40, generator(5)) for _ in range(2))
    assert first.prompt.shape == (5, 40)
    for name in ("prompt", "chosen", "rejected"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert (first.chosen != first.rejected).all()


def test_a_reward_gap_of_a_million_is_never_labelled_wrongly():
    labels = sample_preferences(table([1e6, -1e6, 0.0]), 2000, generator(6))
    rank = torch.tensor([2, 0, 1])
    assert (rank[labels.chosen] > rank[labels.rejected]).all()


def test_rankings_have_the_frequencies_of_plackett_luce():
    rewards, draws = table([0.0, 1.0, -0.5], [3.0, 0.0, 0.0]), 40_000
    drawn = sample_rankings(rewards, draws, generator(7))
    assert drawn.shape == (2, draws, 3)
    for ranking in map(torch.tensor, itertools.permutations(range(3))):
        probability = plackett_luce_logp(rewards, ranking.expand(2, 3)).exp()
        assert (z_score((drawn == ranking).all(-1).sum(-1), draws, probability).abs() < 4).all()
    assert torch.equal(drawn, sample_rankings(rewards, draws, generator(7)))


def test_counting_wins_equals_a_loop_in_each_world():
    reward = random_world(generator(8), prompts=2, responses=3, batch=(4,)).true_reward
    labels = sample_preferences(reward, 25, generator(9))
    wanted = torch.zeros(4, 2, 3, 3, dtype=torch.float64)
    for world, pair in itertools.product(range(4), range(25)):
        x, i, j = (t[world, pair] for t in (labels.prompt, labels.chosen, labels.rejected))
        wanted[world, x, i, j] += 1
    assert torch.equal(count_wins(labels, 2, 3), wanted)


@given(worlds())
def test_the_population_is_equation_1_on_pairs_drawn_uniformly(world):
    wins, prompts, K = population_wins(world.true_reward), world.prompts, world.responses
    assert not wins.diagonal(dim1=-2, dim2=-1).any()
    both = wins + wins.transpose(-1, -2)
    off = ~torch.eye(K, dtype=torch.bool).expand_as(both)
    pairs = prompts * K * (K - 1) / 2
    torch.testing.assert_close(both[off], torch.full_like(both[off], 1 / pairs))
    wanted = preference_table(world.true_reward)[off]
    torch.testing.assert_close((wins * pairs)[off], wanted)


def test_label_entropy_worked_by_hand():
    # one pair, 3 wins to 1: -(3/4) log(3/4) - (1/4) log(1/4)
    wins = table([[0.0, 3.0], [1.0, 0.0]])
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert label_entropy(wins).item() == pytest.approx(entropy, rel=1e-14)
    assert label_entropy(table([[0.0, 5.0], [0.0, 0.0]])).item() == 0  # certain labels
    mixed = table([[0.0, 3.0], [1.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]])  # equal weights
    assert label_entropy(mixed).item() == pytest.approx(entropy / 2, rel=1e-14)


@given(worlds(moderate), st.data())
def test_no_reward_has_a_smaller_expected_loss_than_the_label_entropy(world, data):
    wins = population_wins(world.true_reward)
    floor = label_entropy(wins)
    torch.testing.assert_close(table_loss(world.true_reward, wins), floor)
    other = data.draw(tables(world.true_reward.shape, moderate))
    assert table_loss(other, wins) >= floor - 1e-14


@st.composite
def graphs(draw):
    responses = draw(st.integers(2, 5))
    return draw(tables((1, responses, responses), st.sampled_from([0.0, 0.0, 1.0, 3.0])))


def splits(responses):
    """Every way to split the responses into two groups, both non-empty."""
    for size in range(1, responses):
        for group in itertools.combinations(range(responses), size):
            yield list(group), [i for i in range(responses) if i not in group]


@given(graphs())
def test_a_reward_exists_unless_some_group_never_won_against_the_rest(wins):  # Ford 1957
    assume(wins.any())
    shut_out = any(not wins[0][a][:, b].any() for a, b in splits(wins.shape[-1]))
    if shut_out:
        with pytest.raises(ValueError, match="prompt 0"):
            check_connected(wins)
    else:
        check_connected(wins)


@pytest.mark.parametrize("responses", [2, 3, 5, 8, 9, 17])
def test_a_single_ring_of_wins_is_connected_whatever_its_length(responses):
    ring = torch.eye(responses, dtype=torch.float64).roll(1, dims=-1)[None]
    check_connected(ring)
    ring[0, 0, 1] = 0
    with pytest.raises(ValueError, match="no chain of wins leads from response 0 to"):
        check_connected(ring)


def test_rankings_of_a_few_show_each_choice_alike_and_rank_it_by_plackett_luce():
    rewards, draws = table(2.0, 1.0, 0.0, -1.0), 40_000
    drawn = sample_rankings(rewards, draws, generator(8), shown=2)
    assert drawn.shape == (draws, 2)
    for first, second in itertools.combinations(range(4), 2):
        forward = (drawn == torch.tensor([first, second])).all(-1).sum()
        backward = (drawn == torch.tensor([second, first])).all(-1).sum()
        assert z_score(forward + backward, draws, torch.tensor(1 / 6)).abs() < 4
        probability = torch.sigmoid(rewards[first] - rewards[second])
        assert z_score(forward, int(forward + backward), probability).abs() < 4


@given(tables((4,), moderate), st.permutations(range(4)))
def test_ranking_a_few_of_many_is_ranking_all_with_the_others_forgotten(rewards, order):
    shown = torch.tensor(order[:2])
    whole = 0.0  # Luce's choice axiom: add up the orders of all four that agree
    for full in itertools.permutations(range(4)):
        if full.index(order[0]) < full.index(order[1]):
            whole += plackett_luce_logp(rewards, torch.tensor(full)).exp()
    torch.testing.assert_close(plackett_luce_logp(rewards, shown).exp(), whole)
