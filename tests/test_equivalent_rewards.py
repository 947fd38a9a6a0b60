"""Rewards of one class in 200 random worlds: what a shift, a scale, a single response change."""

import pytest
import torch
from helpers import generator

from dpo_lib.evaluation import total_variation
from dpo_lib.objective import are_equivalent, optimal_log_policy
from dpo_lib.preferences import plackett_luce_logp, preference_table, sample_rankings
from dpo_lib.world import random_world

# Next to a shift of 100 neighbouring numbers are 1.4e-14 apart; divided by beta = 0.1 this is
# about 1e-13 nats in a policy, and a ranking of 50 adds up 50 logarithms.
SAME = torch.tensor([1e-12, 1e-12, 1e-9], dtype=torch.float64)
POLICY, PAIRS = 0, 1


def draw(source):
    """A random world of any shape, its beta, and a shift for each prompt."""

    def whole(low, high):
        return torch.randint(low, high + 1, (), generator=source).item()

    def log_uniform(low, high):
        return low * (high / low) ** torch.rand((), generator=source).item()

    answers, prompts = whole(3, 50), whole(1, 10)
    world = random_world(source, prompts, answers, impossible=whole(0, answers // 3))
    sign = 2 * torch.rand(prompts, 1, generator=source).double() - 1
    return world, log_uniform(0.1, 10), log_uniform(0.01, 100) * sign


def raised(world):
    """The rewards, with 0.1 more for the answer that the reference likes most."""
    top = world.log_ref.argmax(-1, keepdim=True)
    return world.true_reward.scatter_add(-1, top, torch.full(top.shape, 0.1).double())


def changes(world, beta, other, other_beta, source):
    """Largest change of policies, preferences and log-probabilities of rankings."""
    reward, log_ref = world.true_reward, world.log_ref
    policies = total_variation(
        optimal_log_policy(reward, log_ref, beta), optimal_log_policy(other, log_ref, other_beta)
    )
    tables = preference_table(reward) - preference_table(other)
    rankings = sample_rankings(torch.zeros_like(reward), 5, source)
    first, second = (
        plackett_luce_logp(x.unsqueeze(-2).expand_as(rankings), rankings) for x in (reward, other)
    )
    return torch.stack([x.abs().max() for x in (policies, tables, first - second)])


@pytest.fixture(scope="module")
def measured():
    source = generator(27)
    rows = {"shift": [], "scale": [], "scale and beta": [], "one answer": [], "sure": []}
    for _ in range(200):
        world, beta, shift = draw(source)
        reward = world.true_reward
        assert are_equivalent(reward, reward + shift).all()
        assert not are_equivalent(reward, 2 * reward).any()
        for name, other, other_beta in [
            ("shift", reward + shift, beta),
            ("scale", 2 * reward, beta),
            ("scale and beta", 2 * reward, 2 * beta),
            ("one answer", raised(world), beta),
        ]:
            rows[name].append(changes(world, beta, other, other_beta, source))
        top = optimal_log_policy(reward, world.log_ref, beta).amax(-1).exp()
        rows["sure"].append((top > 0.99).all())
    return {name: torch.stack(row) for name, row in rows.items()}


def test_a_shift_of_each_prompt_changes_no_policy_no_preference_and_no_ranking(measured):
    assert (measured["shift"] < SAME).all()


def test_a_doubled_reward_changes_preferences_and_every_policy_that_is_not_yet_sure(measured):
    assert (measured["scale"][:, PAIRS] > 1e-3).all()
    assert (measured["scale"][~measured["sure"], POLICY] > 1e-3).all()


def test_doubling_beta_too_brings_back_the_policies_and_not_the_preferences(measured):
    assert (measured["scale and beta"][:, POLICY] < SAME[POLICY]).all()
    assert (measured["scale and beta"][:, PAIRS] > 1e-3).all()


def test_raising_one_answer_is_seen_by_policies_preferences_and_rankings(measured):
    assert (measured["one answer"] > SAME).all()
