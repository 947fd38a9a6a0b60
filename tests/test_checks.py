"""Bad input: one clear line that names the argument and the value, never NaN or a broadcast."""

import math
import re

import pytest
import torch
from helpers import generator, table

from dpo_lib import (
    evaluation,
    fitting,
    losses,
    objective,
    policies,
    ppo,
    preferences,
    training,
    world,
)
from dpo_lib._checks import check_beta, check_indices, check_log_policy
from dpo_lib.preferences import Preferences

INF, NAN = math.inf, math.nan
REWARD, LOG_REF = table([2.0, 1.0, 0.0]), table([0.2, 0.3, 0.5]).log()
NO_REF, HALF_REF = table([-INF, -INF, -INF]), table([0.1, 0.2, 0.2]).log()
ONE, COLUMN = table(-1.0, -2.0), table([-1.0], [-2.0])  # (2,) and (2, 1)
WINS = table([[0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
LABELS = Preferences(*torch.tensor([[0, 0], [0, 1], [2, 2]]))
RANKING = torch.tensor([[[0, 2, 1]]])  # (prompts, rankings, K)


def labels(prompt=0, chosen=0, rejected=1):
    return Preferences(*(torch.tensor([index]) for index in (prompt, chosen, rejected)))


def run_dpo(labels=LABELS, log_ref=LOG_REF, beta=0.1, batch_size=4):
    return training.train_dpo(labels, log_ref, beta, 2, batch_size, 0.1, generator())


def run_ppo(reward=REWARD, log_ref=LOG_REF, beta=0.1):
    return ppo.train_ppo(reward, log_ref, beta, generator(), iterations=2, draws=4)


TAKES_BETA = {
    "objective": lambda beta: objective.objective(LOG_REF, REWARD, LOG_REF, beta),
    "kl_shaped_reward": lambda beta: objective.kl_shaped_reward(REWARD, LOG_REF, LOG_REF, beta),
    "log_partition": lambda beta: objective.log_partition(REWARD, LOG_REF, beta),
    "optimal_log_policy": lambda beta: objective.optimal_log_policy(REWARD, LOG_REF, beta),
    "implicit_reward": lambda beta: objective.implicit_reward(LOG_REF, LOG_REF, beta),
    "reward_from_policy": lambda beta: objective.reward_from_policy(
        LOG_REF, LOG_REF, beta, table(0.0)
    ),
    "project": lambda beta: objective.project(REWARD, LOG_REF, beta),
    "soft_advantage": lambda beta: objective.soft_advantage(REWARD, LOG_REF, LOG_REF, beta),
    "policy_ranking_logp": lambda beta: objective.policy_ranking_logp(
        LOG_REF, LOG_REF, RANKING[:, 0], beta
    ),
    "plackett_luce_dpo_loss": lambda beta: losses.plackett_luce_dpo_loss(
        LOG_REF, LOG_REF, RANKING[:, 0], beta
    ),
    "policy_preference": lambda beta: objective.policy_preference(ONE, ONE, ONE, ONE, beta),
    "dpo_loss": lambda beta: losses.dpo_loss(ONE, ONE, ONE, ONE, beta),
    "dpo_weight": lambda beta: losses.dpo_weight(ONE, ONE, ONE, ONE, beta),
    "frontier": lambda beta: evaluation.frontier(REWARD, LOG_REF, [1.0, beta]),
    "fit_dpo": lambda beta: fitting.fit_dpo(WINS, LOG_REF, beta),
    "fit_ranking_dpo": lambda beta: fitting.fit_ranking_dpo(RANKING, LOG_REF, beta),
    "train_dpo": lambda beta: run_dpo(beta=beta),
    "train_ppo": lambda beta: run_ppo(beta=beta),
    "policy_gradient_ascent": lambda beta: ppo.policy_gradient_ascent(
        REWARD, LOG_REF, beta, 2, 0.1
    ),
    "natural_gradient_ascent": lambda beta: ppo.natural_gradient_ascent(
        REWARD, LOG_REF, beta, 2, 0.1
    ),
}


@pytest.mark.parametrize("beta", [0.0, -0.1, NAN, INF, None, "0.1", torch.tensor(0.1)], ids=repr)
@pytest.mark.parametrize("function", TAKES_BETA.values(), ids=TAKES_BETA)
def test_beta_must_be_a_positive_number(function, beta):
    if function is TAKES_BETA["train_ppo"] and beta == 0:
        function(beta)  # allowed there: nothing holds the policy near the reference
    else:
        with pytest.raises(ValueError, match=r"^beta must be a positive, finite number, got"):
            function(beta)


@pytest.mark.parametrize("beta", [1e-12, 0.1, 1, 1e12])
def test_every_positive_beta_is_accepted(beta):
    assert check_beta(beta) == beta


TAKES_REWARD = {
    "World": lambda reward: world.World(reward, LOG_REF),
    "expected_reward": lambda reward: objective.expected_reward(LOG_REF, reward),
    "objective": lambda reward: objective.objective(LOG_REF, reward, LOG_REF, 1.0),
    "kl_shaped_reward": lambda reward: objective.kl_shaped_reward(reward, LOG_REF, LOG_REF, 1.0),
    "log_partition": lambda reward: objective.log_partition(reward, LOG_REF, 1.0),
    "optimal_log_policy": lambda reward: objective.optimal_log_policy(reward, LOG_REF, 1.0),
    "reward_error": lambda reward: evaluation.reward_error(reward, REWARD),
    "project": lambda reward: objective.project(reward, LOG_REF, 1.0),
    "soft_advantage": lambda reward: objective.soft_advantage(reward, LOG_REF, LOG_REF, 1.0),
    "are_equivalent": lambda reward: objective.are_equivalent(reward, REWARD),
    "score_gradient_variance": lambda reward: evaluation.score_gradient_variance(
        LOG_REF, reward, table(0.0)
    ),
    "optimal_baseline": lambda reward: evaluation.optimal_baseline(LOG_REF, reward),
    "true_reward_error": lambda reward: evaluation.reward_error(REWARD, reward),
    "preference_table": preferences.preference_table,
    "population_wins": preferences.population_wins,
    "sample_preferences": lambda reward: preferences.sample_preferences(reward, 3, generator()),
    "sample_rankings": lambda reward: preferences.sample_rankings(reward, 3, generator()),
    "plackett_luce_logp": lambda reward: preferences.plackett_luce_logp(
        reward, torch.tensor([[0, 1, 2]])
    ),
    "TabularReward": policies.TabularReward,
    "train_ppo": run_ppo,
    "policy_gradient_ascent": lambda reward: ppo.policy_gradient_ascent(
        reward, LOG_REF, 1.0, 2, 0.1
    ),
    "natural_gradient_ascent": lambda reward: ppo.natural_gradient_ascent(
        reward, LOG_REF, 1.0, 2, 0.1
    ),
}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("function", TAKES_REWARD.values(), ids=TAKES_REWARD)
def test_a_reward_must_be_finite(function, value):
    with pytest.raises(ValueError, match=rf"^\w*reward\w* must be finite, got {value} at \(0, "):
        function(table([2.0, value, 0.0]))


TAKES_REFERENCE = {
    "World": lambda log_ref: world.World(REWARD, log_ref),
    "kl_divergence": lambda log_ref: objective.kl_divergence(LOG_REF, log_ref),
    "objective": lambda log_ref: objective.objective(LOG_REF, REWARD, log_ref, 1.0),
    "log_partition": lambda log_ref: objective.log_partition(REWARD, log_ref, 1.0),
    "optimal_log_policy": lambda log_ref: objective.optimal_log_policy(REWARD, log_ref, 1.0),
    "TabularPolicy": policies.TabularPolicy,
    "project": lambda log_ref: objective.project(REWARD, log_ref, 1.0),
    "fit_dpo": lambda log_ref: fitting.fit_dpo(WINS, log_ref, 1.0),
    "fit_ranking_dpo": lambda log_ref: fitting.fit_ranking_dpo(RANKING, log_ref, 1.0),
    "train_dpo": lambda log_ref: run_dpo(log_ref=log_ref),
    "train_ppo": lambda log_ref: run_ppo(log_ref=log_ref),
    "policy_gradient_ascent": lambda log_ref: ppo.policy_gradient_ascent(
        REWARD, log_ref, 1.0, 2, 0.1
    ),
    "natural_gradient_ascent": lambda log_ref: ppo.natural_gradient_ascent(
        REWARD, log_ref, 1.0, 2, 0.1
    ),
}


@pytest.mark.parametrize("function", TAKES_REFERENCE.values(), ids=TAKES_REFERENCE)
def test_a_reference_row_must_be_a_distribution(function):
    for log_ref, problem in (
        (NO_REF, "log_ref row .* must sum to probability 1, got 0$|log_ref gives probability 0"),
        (HALF_REF, "log_ref row .* must sum to probability 1, got 0.5$"),
        (table([0.0, NAN, 0.0]), r"log_ref must not be NaN or \+inf, got nan at \(0, 1\)"),
        (table([0.0, INF, 0.0]), r"log_ref must not be NaN or \+inf, got inf at \(0, 1\)"),
    ):
        with pytest.raises(ValueError, match=problem):
            function(log_ref)


WRONG_SHAPE = {
    "World": lambda: world.World(REWARD, LOG_REF[0]),
    "bradley_terry": lambda: preferences.bradley_terry(ONE, COLUMN),
    "reward_loss": lambda: losses.reward_loss(ONE, COLUMN),
    "dpo_loss, policy and reference": lambda: losses.dpo_loss(ONE, ONE, COLUMN, ONE, 0.1),
    "dpo_loss, chosen and rejected": lambda: losses.dpo_loss(ONE, COLUMN, ONE, COLUMN, 0.1),
    "dpo_weight": lambda: losses.dpo_weight(ONE, COLUMN, ONE, COLUMN, 0.1),
    "policy_preference": lambda: objective.policy_preference(ONE, COLUMN, ONE, COLUMN, 0.1),
    "implicit_reward": lambda: objective.implicit_reward(ONE, COLUMN, 0.1),
    "kl_divergence": lambda: objective.kl_divergence(LOG_REF, LOG_REF[0]),
    "expected_reward": lambda: objective.expected_reward(LOG_REF, REWARD[0]),
    "kl_shaped_reward": lambda: objective.kl_shaped_reward(ONE, COLUMN, COLUMN, 0.1),
    "optimal_log_policy": lambda: objective.optimal_log_policy(REWARD[0], LOG_REF, 0.1),
    "reward_from_policy": lambda: objective.reward_from_policy(LOG_REF, LOG_REF, 0.1, ONE),
    "table_loss, rows": lambda: losses.table_loss(REWARD, WINS[:, :1]),
    "table_loss, columns": lambda: losses.table_loss(REWARD, WINS[..., :1]),
    "ppo_clip_loss": lambda: losses.ppo_clip_loss(ONE, ONE, COLUMN),
    "ppo_kl_loss": lambda: losses.ppo_kl_loss(ONE, ONE, ONE, COLUMN, 1.0),
    "value_loss": lambda: losses.value_loss(ONE, COLUMN),
    "generalized_advantages": lambda: losses.generalized_advantages(ONE, COLUMN),
    "unlikelihood_loss": lambda: losses.unlikelihood_loss(ONE, COLUMN, 0.5),
    "total_variation": lambda: evaluation.total_variation(LOG_REF, LOG_REF[0]),
    "reward_error": lambda: evaluation.reward_error(REWARD, REWARD[0]),
    "plackett_luce_logp": lambda: preferences.plackett_luce_logp(REWARD, torch.tensor([0, 1, 2])),
    "policy_ranking_logp": lambda: objective.policy_ranking_logp(LOG_REF, LOG_REF, RANKING, 0.1),
    "project": lambda: objective.project(REWARD[0], LOG_REF, 0.1),
    "are_equivalent": lambda: objective.are_equivalent(REWARD, REWARD[0]),
    "score_gradient_variance": lambda: evaluation.score_gradient_variance(LOG_REF, REWARD, REWARD),
    "optimal_baseline": lambda: evaluation.optimal_baseline(LOG_REF, REWARD[0]),
    "fit_ranking_dpo": lambda: fitting.fit_ranking_dpo(RANKING[0], LOG_REF, 0.1),
    "fit_ranking_dpo, weights": lambda: fitting.fit_ranking_dpo(
        RANKING, LOG_REF, 0.1, weights=table(1.0, 2.0)
    ),
    "Preferences": lambda: Preferences(*torch.zeros(2, 1).long(), torch.ones(1, 1).long()),
    "fit_dpo": lambda: fitting.fit_dpo(WINS, LOG_REF.expand(2, 3), 0.1),
    "train_dpo, a batch of references": lambda: run_dpo(log_ref=LOG_REF.expand(2, 1, 3)),
    "train_dpo, a batch of labels": lambda: run_dpo(
        Preferences(*(t.expand(2, 2) for t in (LABELS.prompt, LABELS.chosen, LABELS.rejected)))
    ),
    "train_ppo": lambda: run_ppo(REWARD.expand(2, 3)),
}


@pytest.mark.parametrize("call", WRONG_SHAPE.values(), ids=WRONG_SHAPE)
def test_shapes_that_differ_are_named_and_never_broadcast(call):  # A12
    with pytest.raises(ValueError, match=r"^shapes must be equal, got \w+ \(.*, \w+ \(.*\)$"):
        call()


CERTAIN = table([[0.0, 2.0], [0.0, 0.0]])  # the second response never won
ISLANDS = table(
    [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
)
SECOND_PROMPT = torch.cat([table([[0.0, 1.0], [1.0, 0.0]]), CERTAIN])
UNDETERMINED = "wins of prompt {} do not determine a reward: .* response {} to response {},"
SUPPORTED = table([0.5, 0.5, 0.0]).log()

REFUSED = {
    "one-dimensional world": (lambda: world.World(REWARD[0], LOG_REF[0]), "got shape (3,)"),
    "no possible response": (
        lambda: world.random_world(generator(), responses=4, impossible=4),
        "impossible must lie in [0, 4), got 4",
    ),
    "reward scale": (
        lambda: world.random_world(generator(), reward_scale=0.0),
        "reward_scale must be positive and finite, got 0.0",
    ),
    "draws from no distribution": (
        lambda: world.sample_responses(HALF_REF, 3, generator()),
        "log_policy row (0,) must sum to probability 1, got 0.5",
    ),
    "NaN policy": (
        lambda: objective.expected_reward(table([0.0, NAN, NAN]), REWARD),
        "log_policy must not be NaN or +inf, got nan at (0, 1)",
    ),
    "NaN log-probability": (
        lambda: losses.dpo_loss(table(-1.0, NAN), ONE, ONE, ONE, 0.1),
        "policy_logps must not be NaN or +inf, got nan at (1,)",
    ),
    "NaN partition": (
        lambda: objective.reward_from_policy(LOG_REF, LOG_REF, 0.1, table(NAN)),
        "log_partition must be finite, got nan at (0,)",
    ),
    "both answers impossible": (
        lambda: losses.dpo_loss(*(table(-INF),) * 2, *(table(-1.0),) * 2, 0.1),
        "chosen_rewards - rejected_rewards is NaN",
    ),
    "weight of two impossible answers": (
        lambda: losses.dpo_weight(*(table(-INF),) * 2, *(table(-1.0),) * 2, 0.1),
        "chosen_rewards - rejected_rewards is NaN",
    ),
    "NaN reward of a pair": (
        lambda: losses.reward_loss(table(NAN), table(0.0)),
        "chosen_rewards - rejected_rewards is NaN",
    ),
    "answer preferred to itself": (
        lambda: labels(chosen=1, rejected=1),
        "chosen and rejected must differ in every pair",
    ),
    "label out of range": (
        lambda: preferences.count_wins(labels(chosen=3), 1, 3),
        "chosen must lie in [0, 3), got 3 at (0,)",
    ),
    "negative label": (
        lambda: preferences.count_wins(labels(rejected=-1), 1, 3),
        "rejected must lie in [0, 3), got -1 at (0,)",
    ),
    "prompt out of range": (
        lambda: preferences.count_wins(labels(prompt=1), 1, 3),
        "prompt must lie in [0, 1), got 1 at (0,)",
    ),
    "float labels": (
        lambda: preferences.count_wins(labels(prompt=0.0), 1, 3),
        "prompt must hold integers, got torch.float32",
    ),
    "train_dpo, label out of range": (
        lambda: run_dpo(labels(chosen=3), LOG_REF.expand(2, 3)),
        "chosen must lie in [0, 3), got 3 at (0,)",
    ),
    "train_dpo, float labels": (
        lambda: run_dpo(labels(rejected=1.0)),
        "rejected must hold integers, got torch.float32",
    ),
    "train_dpo, impossible answer": (
        lambda: run_dpo(log_ref=SUPPORTED),
        "preferences compare a response that log_ref gives probability 0",
    ),
    "train_dpo, no labels": (
        lambda: run_dpo(Preferences(*torch.zeros(3, 0, dtype=torch.int64))),
        "number of preferences must be positive and finite, got 0",
    ),
    "train_dpo, empty minibatch": (
        lambda: run_dpo(batch_size=0),
        "batch_size must be positive and finite, got 0",
    ),
    "fit_dpo, impossible answer": (
        lambda: fitting.fit_dpo(WINS, SUPPORTED, 0.1),
        "wins compare response 2 of prompt 0, which log_ref gives probability 0",
    ),
    "fit_dpo, NaN": (
        lambda: fitting.fit_dpo(WINS * NAN, LOG_REF, 0.1),
        "wins must be finite, got nan at (0, 0, 0)",
    ),
    "a response ranked twice": (
        lambda: preferences.plackett_luce_logp(REWARD, torch.tensor([[0, 0, 1]])),
        "ranking must list a response at most once",
    ),
    "a response ranked that does not exist": (
        lambda: preferences.plackett_luce_logp(REWARD, torch.tensor([[0, 3]])),
        "ranking must lie in [0, 3), got 3 at (0, 1)",
    ),
    "an impossible response ranked": (
        lambda: fitting.fit_ranking_dpo(RANKING, SUPPORTED, 0.1),
        "rankings hold a response that log_ref gives probability 0",
    ),
    "rankings of one response": (
        lambda: preferences.sample_rankings(REWARD, 3, generator(), shown=1),
        "shown must lie in [2, 3], got 1",
    ),
    "rankings of more than there are": (
        lambda: preferences.sample_rankings(REWARD, 3, generator(), shown=4),
        "shown must lie in [2, 3], got 4",
    ),
    "float ranking": (
        lambda: preferences.plackett_luce_logp(REWARD, table([0.0, 1.0, 2.0])),
        "ranking must hold integers, got torch.float64",
    ),
    "a single response": (
        lambda: preferences.sample_preferences(table([1.0]), 3, generator()),
        "a pair needs two responses, got reward of shape (1, 1)",
    ),
    "a population without pairs": (
        lambda: preferences.population_wins(table([1.0])),
        "wins must hold at least one comparison",
    ),
    "no wins": (
        lambda: preferences.label_entropy(0 * WINS),
        "wins must hold at least one comparison in each world, got none",
    ),
    "negative wins": (lambda: fitting.fit_reward(-WINS), "wins must not be negative, got -3.0"),
    "wins that are no table": (
        lambda: fitting.fit_reward(WINS[0]),
        "wins needs axes (prompts, responses, responses), got shape (3, 3)",
    ),
    "clip range": (
        lambda: losses.ppo_clip_loss(ONE, ONE, ONE, clip_range=0.0),
        "clip_range must be positive and finite, got 0.0",
    ),
    "coefficient": (
        lambda: losses.adapted_coefficient(-1.0, 0.1, 0.1),
        "coefficient must be positive and finite, got -1.0",
    ),
    "target": (
        lambda: losses.adapted_coefficient(1.0, 0.1, NAN),
        "target must be positive and finite, got nan",
    ),
    "gamma": (
        lambda: losses.generalized_advantages(ONE, ONE, gamma=1.1),
        "gamma must lie in [0, 1], got 1.1",
    ),
    "lam": (
        lambda: losses.generalized_advantages(ONE, ONE, lam=NAN),
        "lam must lie in [0, 1], got nan",
    ),
    "a group": (
        lambda: losses.group_advantages(ONE[:1]),
        "scores needs two draws or more, got shape (1,)",
    ),
    "the others": (
        lambda: losses.leave_one_out_advantages(table(0.0, NAN)),
        "scores must be finite, got nan at (1,)",
    ),
    "learning rate": (
        lambda: ppo.natural_gradient_ascent(REWARD, LOG_REF, 2.0, 3, lr=1.0),
        "lr must lie in (0, 2 / beta) to converge, got 1.0",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wins", "place"),
    [(CERTAIN, (0, 1, 0)), (ISLANDS, (0, 0, 2)), (SECOND_PROMPT, (1, 1, 0))],
    ids=["undefeated response", "two islands", "second prompt"],
)
def test_wins_that_determine_no_reward_are_refused_with_prompt_and_responses(wins, place):
    with pytest.raises(ValueError, match=UNDETERMINED.format(*place)):
        fitting.fit_reward(wins)
    with pytest.raises(ValueError, match=UNDETERMINED.format(*place)):
        fitting.fit_reward(torch.stack([torch.ones_like(wins), wins]))


def test_zeros_rounding_and_empty_indices_are_no_errors():
    check_log_policy("log_ref", table([1.0, 0.0], [0.5, 0.5 + 4e-7]).log())
    check_indices("chosen", torch.tensor([0, 2]), 3)
    check_indices("chosen", torch.tensor([], dtype=torch.int64), 3)
