import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch
from helpers import generator, table
from torch import nn
from torch.testing import assert_close

from dpo_lib.evaluation import reward_error, total_variation
from dpo_lib.fitting import fit_dpo, fit_ranking_dpo, fit_reward
from dpo_lib.losses import adapted_coefficient, table_loss
from dpo_lib.objective import (
    implicit_reward,
    kl_divergence,
    kl_shaped_reward,
    log_partition,
    objective,
    optimal_log_policy,
)
from dpo_lib.ppo import (
    ClippedSurrogate,
    PenalisedSurrogate,
    natural_gradient_ascent,
    policy_gradient_ascent,
    train_ppo,
)
from dpo_lib.preferences import (
    Preferences,
    check_connected,
    count_wins,
    plackett_luce_logp,
    population_wins,
    preference_table,
    sample_preferences,
    sample_rankings,
)
from dpo_lib.training import History, minimise, train_dpo
from dpo_lib.world import random_world, three_answers

WORLDS = random_world(generator(1), prompts=2, responses=4, batch=(3,))
SMALL = three_answers()
SMALL_TABLES = SMALL.true_reward, SMALL.log_ref


def some_counts():
    labels = sample_preferences(WORLDS.true_reward, 300, generator(2))
    wins = count_wins(labels, 2, 4)
    check_connected(wins)
    return labels, wins


LABELS, WINS = some_counts()


def distance(log_policy, reward, log_ref, beta):
    """Largest total variation from equation (4)."""
    return total_variation(log_policy.detach(), optimal_log_policy(reward, log_ref, beta)).max()


def test_the_loop_takes_gradient_steps_and_records_before_each_and_at_the_end():
    parameter = nn.Parameter(table(1.0))
    history = minimise(
        lambda: parameter.square() / 2, [parameter], steps=5, lr=0.1,
        record=lambda history: history.append(x=parameter), optimizer=torch.optim.SGD,
    )  # fmt: skip
    assert_close(history["x"][:, 0], 0.9 ** torch.arange(6, dtype=torch.float64))
    assert not history["x"].requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_loop_stops_at_the_step_whose_loss_is_not_finite(bad):
    parameter, losses = nn.Parameter(table(1.0)), iter([1.0, 1.0, bad])
    with pytest.raises(FloatingPointError, match=f"loss is {bad} at step 2"):
        minimise(lambda: parameter * next(losses), [parameter], steps=9, lr=0.1)


def test_a_name_that_was_never_recorded_is_refused_with_those_that_were():
    history = History()
    history.append(loss=table(1.0))
    with pytest.raises(KeyError, match=r"'lss', only \['loss'\]"):
        history["lss"]


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_the_population_determines_the_reward(scale):
    reward = scale * WORLDS.true_reward
    assert reward_error(fit_reward(population_wins(reward)), reward).max() < 1e-10


def test_one_upset_against_a_thousand_wins_at_each_rung_of_a_ladder():
    # Response i beat i + 1 a thousand times; the last beat the first once. By symmetry all gaps
    # are one number g, and the first one's wins balance if 1000 sigma(-g) = sigma(2 g).
    gaps = -fit_reward(table([[0.0, 1000.0, 0.0], [0.0, 0.0, 1000.0], [1.0, 0.0, 0.0]])).diff()
    assert_close(1000 * torch.sigmoid(-gaps), torch.sigmoid(2 * gaps), rtol=1e-9, atol=0)


def test_lopsided_counts_on_which_full_newton_steps_diverge():
    wins = table([
        [0.0, 1e6, 0.0, 1.0, 0.0],
        [1.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 1e6, 0.0, 0.0, 1.0],
        [1e6, 1.0, 1000.0, 0.0, 0.0],
    ])  # fmt: skip
    predicted = ((wins + wins.mT) * preference_table(fit_reward(wins))).sum(-1)
    assert_close(predicted, wins.sum(-1), rtol=1e-8, atol=1e-8)


def test_predicted_wins_equal_observed_wins_for_each_response():  # Zermelo 1929
    games = WINS + WINS.transpose(-1, -2)
    predicted = (games * preference_table(fit_reward(WINS))).sum(-1)
    assert_close(predicted, WINS.sum(-1), rtol=1e-12, atol=1e-12)


def test_a_newton_method_cut_short_says_so_instead_of_returning_its_last_guess():
    wins = torch.tensor([[[0.0, 999.0], [1.0, 0.0]]], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="not converged after 2 steps"):
        fit_reward(wins, max_steps=2)


def test_newton_finds_the_minimum_that_lbfgs_finds():
    rewards = torch.zeros_like(WORLDS.true_reward, requires_grad=True)
    solver = torch.optim.LBFGS(
        [rewards], max_iter=200, tolerance_grad=1e-12, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        loss = table_loss(rewards, WINS).sum()
        loss.backward()
        return loss

    solver.step(closure)
    assert reward_error(fit_reward(WINS), rewards.detach()).max() < 1e-8


def test_each_world_s_reward_is_fitted_as_if_it_were_alone():
    both = fit_reward(WINS)
    assert_close(both.mean(-1), torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=1e-12)
    for k in range(3):
        assert_close(both[k], fit_reward(WINS[k]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0, 20.0])
def test_dpo_on_the_population_is_equation_4(beta):
    tables = WORLDS.true_reward, WORLDS.log_ref
    policy = fit_dpo(population_wins(WORLDS.true_reward), WORLDS.log_ref, beta)
    assert distance(policy(), *tables, beta) < 1e-7


def test_how_often_a_pair_is_compared_does_not_move_dpo_s_population_optimum():
    weights = torch.rand(WINS.shape, generator=generator(3), dtype=torch.float64) + 0.1
    wins = population_wins(WORLDS.true_reward) * (weights + weights.transpose(-1, -2))
    policy = fit_dpo(wins, WORLDS.log_ref, 0.5)
    assert distance(policy(), WORLDS.true_reward, WORLDS.log_ref, 0.5) < 1e-7


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_dpo_is_reward_model_plus_equation_4_on_any_sample(beta):
    policy = fit_dpo(WINS, WORLDS.log_ref, beta)
    assert distance(policy(), fit_reward(WINS), WORLDS.log_ref, beta) < 1e-7


def test_dpo_leaves_impossible_responses_out():
    world = random_world(generator(4), prompts=2, responses=6, impossible=2)
    possible = ~world.log_ref.isneginf()
    wins = population_wins(world.true_reward) * (possible[..., None] & possible[:, None])
    policy = fit_dpo(wins, world.log_ref, 0.5)
    assert distance(policy(), world.true_reward, world.log_ref, 0.5) < 1e-7
    assert (policy()[~possible] == -torch.inf).all()


def train(labels, log_ref, steps=20, batch_size=8, lr=0.1, beta=0.5, **options):
    return train_dpo(labels, log_ref, beta, steps, batch_size, lr, generator(5), **options)


def all_rankings(reward):
    """The K! orders for each prompt, (..., prompts, K!, K), and their probabilities (18)."""
    orders = torch.tensor(list(itertools.permutations(range(reward.shape[-1]))))
    orders = orders.expand(*reward.shape[:-1], *orders.shape)
    rewards = reward.unsqueeze(-2).expand_as(orders)
    return orders, plackett_luce_logp(rewards, orders).exp()


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0, 20.0])
def test_ranking_dpo_on_the_population_is_equation_4(beta):
    rankings, probabilities = all_rankings(WORLDS.true_reward)
    policy = fit_ranking_dpo(rankings, WORLDS.log_ref, beta, probabilities)
    assert distance(policy(), WORLDS.true_reward, WORLDS.log_ref, beta) < 1e-8 / beta


def test_rankings_of_two_train_as_pairs_do():
    rankings = torch.stack([LABELS.chosen, LABELS.rejected], -1)  # (3, 300, 2), of two prompts
    weights = torch.stack([(LABELS.prompt == x).double() for x in range(2)], -2)
    policy = fit_ranking_dpo(
        rankings.unsqueeze(-3).expand(3, 2, 300, 2), WORLDS.log_ref, 0.5, weights
    )
    for world in range(3):  # each prompt has its own share of the 300 labels
        pairs = fit_dpo(WINS[world], WORLDS.log_ref[world], 0.5)
        assert total_variation(policy()[world], pairs()).max() < 1e-6


def test_more_rankings_bring_the_policy_closer_to_equation_4():
    errors = []
    for draws in (100, 10_000):
        rankings = sample_rankings(WORLDS.true_reward, draws, generator(5), shown=3)
        policy = fit_ranking_dpo(rankings, WORLDS.log_ref, 1.0)
        errors.append(distance(policy(), WORLDS.true_reward, WORLDS.log_ref, 1.0))
    assert errors[1] < 0.03 < errors[0]


def test_rankings_read_from_worst_to_best_train_the_opposite_policy():  # D7
    rankings = sample_rankings(WORLDS.true_reward, 2000, generator(6))
    implicit = [
        implicit_reward(fit_ranking_dpo(r, WORLDS.log_ref, 1.0)(), WORLDS.log_ref, 1.0)
        for r in (rankings, rankings.flip(-1))
    ]
    best = WORLDS.true_reward.argmax(-1, keepdim=True)
    gain = [h.gather(-1, best)[..., 0] - h.mean(-1) for h in implicit]
    assert (gain[0] > 0).all()
    assert (gain[1] < 0).all()


def test_minibatch_dpo_starts_at_the_reference_and_ends_at_the_sample_s_optimum():
    policy, history = train(LABELS, WORLDS.log_ref, 120, batch_size=300, lr=0.03, beta=2.0)
    assert history["log_policy"].shape == (121, 3, 2, 4)
    assert_close(history["log_policy"][0], WORLDS.log_ref)
    assert torch.equal(history["log_policy"][-1], policy())
    best = fit_dpo(WINS, WORLDS.log_ref, 2.0)().detach()
    assert total_variation(policy().detach(), best).max() < 0.03
    assert total_variation(WORLDS.log_ref, best).max() > 0.1


def test_minibatches_repeat_with_the_generator():
    first, again = (train(LABELS, WORLDS.log_ref)[1]["log_policy"] for _ in range(2))
    assert torch.equal(first, again)


def test_worlds_trained_side_by_side_do_not_leak_into_each_other():
    other = Preferences(
        *(
            torch.cat([t[:1], t[1:].flip(0)])
            for t in (LABELS.prompt, LABELS.chosen, LABELS.rejected)
        )
    )
    log_ref = torch.cat([WORLDS.log_ref[:1], WORLDS.log_ref[1:].flip(-1)])
    first, second = train(LABELS, WORLDS.log_ref)[0](), train(other, log_ref)[0]()
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_worlds_trained_side_by_side_equal_each_world_alone():
    # With one pair in each world every minibatch is that pair, whatever the generator draws.
    labels = sample_preferences(WORLDS.true_reward, 1, generator(6))
    together = train(labels, WORLDS.log_ref)[1]["log_policy"]
    for k in range(3):
        one = Preferences(labels.prompt[k], labels.chosen[k], labels.rejected[k])
        alone = train(one, WORLDS.log_ref[k])[1]["log_policy"]
        assert_close(together[:, k], alone, rtol=1e-13, atol=1e-13)


def test_each_world_draws_minibatches_of_its_own():
    pick = torch.tensor([0, 0])
    twice = Preferences(LABELS.prompt[pick], LABELS.chosen[pick], LABELS.rejected[pick])
    policy, _ = train(twice, WORLDS.log_ref[:1].expand(2, -1, -1))
    assert not torch.equal(policy()[0], policy()[1])


@pytest.mark.parametrize("swapped", [False, True])
def test_after_twenty_steps_the_chosen_answer_has_the_larger_implicit_reward(swapped):  # D7
    chosen, rejected = torch.full((6,), 2), torch.tensor([0, 1] * 3)
    pair = (rejected, chosen) if swapped else (chosen, rejected)
    policy, _ = train(Preferences(torch.zeros(6, dtype=torch.int64), *pair), SMALL.log_ref)
    gaps = implicit_reward(policy().detach(), SMALL.log_ref, 0.5)[0]
    assert ((gaps[2] < gaps[:2]) if swapped else (gaps[2] > gaps[:2])).all()


def test_another_loss_takes_the_place_of_dpo_s_with_the_same_arguments():
    seen = []

    def likelihood(pc, pr, rc, rr, beta):
        seen.append((pc.shape, beta))
        return -pc  # maximum likelihood of the chosen answers

    labels = Preferences(*torch.tensor([[0] * 4, [0, 0, 0, 1], [1, 1, 2, 2]]))
    policy, _ = train(labels, SMALL.log_ref, steps=400, batch_size=256, lr=0.05, loss=likelihood)
    assert_close(policy()[0].exp(), table(0.75, 0.25, 0.0), rtol=0, atol=0.03)
    assert set(seen) == {((256,), 0.5)}


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_exact_gradient_ascent_climbs_at_each_step_and_reaches_equation_4(beta):
    policy, history = policy_gradient_ascent(*SMALL_TABLES, beta, steps=400, lr=2 / beta)
    assert distance(policy(), *SMALL_TABLES, beta) < 1e-6
    heights = torch.stack([objective(p, *SMALL_TABLES, beta) for p in history["log_policy"]])
    assert (heights.diff(dim=0) >= -1e-14).all()
    assert_close(heights[-1], beta * log_partition(*SMALL_TABLES, beta))


@pytest.mark.parametrize(("beta", "lr"), [(0.5, 0.4), (2.0, 0.4), (1.0, 1.0), (1.0, 1.5)])
def test_a_natural_gradient_step_shrinks_the_log_ratio_by_one_minus_lr_beta(beta, lr):
    world = random_world(generator(7), prompts=2, responses=6, impossible=2)
    path = natural_gradient_ascent(world.true_reward, world.log_ref, beta, 6, lr)["log_policy"]
    possible = ~world.log_ref.isneginf()
    optimum = optimal_log_policy(world.true_reward, world.log_ref, beta)
    ratios = [(step - optimum)[possible].unflatten(0, (2, 4)) for step in path]
    ratios = torch.stack([ratio - ratio.mean(-1, keepdim=True) for ratio in ratios])
    factors = (1 - lr * beta) ** torch.arange(7, dtype=torch.float64)
    assert_close(ratios, factors[:, None, None] * ratios[0], rtol=1e-9, atol=1e-13)
    assert torch.equal(path.isneginf(), world.log_ref.isneginf().expand_as(path))


@pytest.mark.parametrize("surrogate", [ClippedSurrogate(), PenalisedSurrogate()], ids=type)
def test_ppo_reaches_equation_4_and_its_value_the_objective(surrogate):
    policy, history = train_ppo(
        *SMALL_TABLES, 1.0, generator(8), surrogate, iterations=150, draws=128
    )
    assert distance(policy(), *SMALL_TABLES, 1.0) < 1e-3
    assert_close(history["value"][-1], log_partition(*SMALL_TABLES, 1.0), rtol=0, atol=1e-3)
    assert_close(history["log_policy"][0], SMALL.log_ref)


def test_ppo_without_the_kl_finds_the_best_possible_response():
    reward, log_ref = table([2.0, 1.0, 0.0, 9.0]), table([0.2, 0.3, 0.5, 0.0]).log()
    policy, _ = train_ppo(reward, log_ref, 0, generator(9), iterations=100, draws=64)
    assert policy()[0, 0].exp() > 0.99
    assert policy()[0, 3] == -torch.inf


def test_an_entropy_bonus_c_is_a_kl_to_the_uniform_policy_with_weight_c():
    # max E[r] - beta KL(pi || ref) + c H(pi): pi is proportional to (ref^beta e^r)^(1/(beta + c))
    policy, _ = train_ppo(
        *SMALL_TABLES, 0.5, generator(10), iterations=150, draws=512, entropy_coefficient=0.5
    )
    wanted = (0.5 * SMALL.log_ref + SMALL.true_reward).log_softmax(-1)
    assert total_variation(policy().detach(), wanted).item() < 0.02


@dataclass
class Spy(ClippedSurrogate):
    """Keeps what PPO hands to its surrogate."""

    calls: list = field(default_factory=list)

    def loss(self, logps, old_logps, advantages, log_policy, old_log_policy):
        self.calls.append((logps.detach(), old_logps, advantages, old_log_policy))
        return super().loss(logps, old_logps, advantages, log_policy, old_log_policy)


def test_the_ratio_of_the_first_epoch_is_exactly_one():  # J3
    spy = Spy()
    train_ppo(*SMALL_TABLES, 0.5, generator(11), spy, iterations=6, draws=16, epochs=3)
    ratios = [(logps - old).exp() for logps, old, *_ in spy.calls]
    assert len(ratios) == 18
    assert all((ratio == 1).all() for ratio in ratios[::3])
    assert all((ratio != 1).any() for ratio in ratios[1::3])


def test_ppo_s_advantage_is_the_shaped_reward_minus_the_value():  # J1: nothing is lost or added
    spy = Spy()
    _, history = train_ppo(*SMALL_TABLES, 0.5, generator(12), spy, iterations=5, draws=64, epochs=1)
    steps = zip(spy.calls, history["value"], strict=False)
    for (_, old_logps, advantages, old), value in steps:
        shaped = kl_shaped_reward(SMALL.true_reward, old, SMALL.log_ref, 0.5)[0]
        for logp, advantage in zip(old_logps[0], advantages[0], strict=True):
            response = (old[0] - logp).abs().argmin()
            assert_close(advantage, shaped[response] - value[0])


def test_ppo_adapts_its_penalty_to_the_divergence_that_it_measured():
    surrogate = PenalisedSurrogate(coefficient=0.3, target=0.01)
    _, history = train_ppo(*SMALL_TABLES, 1.0, generator(13), surrogate, iterations=40, draws=64)
    log_policies, coefficient = history["log_policy"], 0.3
    kls = torch.cat([kl_divergence(old, new) for old, new in itertools.pairwise(log_policies)])
    assert_close(history["kl_to_old"][:, 0], kls)
    for kl, adapted in zip(kls.tolist(), history["coefficient"].tolist(), strict=True):
        coefficient = adapted_coefficient(coefficient, kl, 0.01)
        assert adapted == pytest.approx(coefficient, rel=1e-6)
    assert history["coefficient"].unique().numel() > 2


@pytest.mark.parametrize("surrogate", [ClippedSurrogate, PenalisedSurrogate])
def test_worlds_in_one_ppo_run_do_not_leak_into_each_other(surrogate):
    reward = torch.stack([SMALL.true_reward, SMALL.true_reward])
    log_ref = SMALL.log_ref.expand_as(reward)
    other = torch.stack([SMALL.true_reward, -9 * SMALL.true_reward])
    first, second = (
        train_ppo(r, log_ref, 1.0, generator(14), surrogate(), iterations=9, draws=32)[0]()
        for r in (reward, other)
    )
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
