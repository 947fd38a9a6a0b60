"""Section 5: equivalent rewards, the lemmas, the theorem, projection (8), (9), objective (10).

Source: Rafailov et al. 2023, section 5.
"""

from functools import partial

import torch
from torch.testing import assert_close

from dpo_lib import evaluation, objective, preferences
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.rows.shared import (
    possible,
    same_preferences,
    shift,
    soft_objective_is_minus_divergence,
)
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "Definition 1", "Equivalent rewards",
    r"r \sim r' \iff r(x,y) - r'(x,y) = f(x)",
    "objective.are_equivalent", mutants.same_order, "08_equivalent_rewards",
)  # fmt: skip
def _(case):
    """a shift of each prompt stays in the class; a scale and a shift of one response leave it"""
    reward = case.world.true_reward
    one_response = reward.clone()
    one_response[..., 0] += 1
    assert objective.are_equivalent(reward, reward + shift(case)).all()
    assert objective.are_equivalent(reward + shift(case), reward).all()
    assert not objective.are_equivalent(reward, 2 * reward).any()
    assert not objective.are_equivalent(reward, one_response).any()


@state(
    "Lemma 1", "A class has one preference distribution",
    r"r' = r + f \implies p_{r'}(\tau \mid y_1, \dots, y_K, x) = p_r(\tau \mid y_1, \dots, y_K, x)",
    "preferences.plackett_luce_logp", mutants.pointwise_scores, "08_equivalent_rewards",
    also="(18); (19); (20)",
)  # fmt: skip
def _(case):
    """a shift leaves rankings and pairs as they were; a scale does not"""
    reward = case.world.true_reward
    logp = preferences.plackett_luce_logp(reward, case.ranking)
    assert_close(preferences.plackett_luce_logp(reward + shift(case), case.ranking), logp)
    assert not preferences.plackett_luce_logp(2 * reward, case.ranking).allclose(logp)
    same_preferences(reward + shift(case), reward)


@state(
    "Lemma 2", "A class has one optimal policy",
    r"r' = r + f \implies \pi_{r'} = \pi_r",
    "objective.optimal_log_policy", mutants.clipped_reward, "08_equivalent_rewards",
    also="(4); (5); DPO outline; Theorem 1; (9); (10); (13); (14); (17); (19); (23); (24); "
    "(25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """a shift leaves the optimum within TV 1e-12; a scale moves it unless beta is scaled too"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    shifted = objective.optimal_log_policy(reward + shift(case), log_ref, beta)
    both_scaled = objective.optimal_log_policy(2 * reward, log_ref, 2 * beta)
    assert (evaluation.total_variation(star, shifted) < 1e-12).all()
    assert (evaluation.total_variation(star, both_scaled) < 1e-12).all()
    # Where one response has all but 1e-12 of the probability, only the logarithms still move.
    scaled = objective.optimal_log_policy(2 * reward, log_ref, beta)
    assert (possible(log_ref, scaled - star).abs().amax(-1) > 1e-4).all()


@state(
    "Theorem 1", "Every class has an implicit reward",
    r"\exists\,\pi: \quad r \sim \beta\log\frac{\pi(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}",
    "objective.implicit_reward", mutants.in_bits, "09_theorem",
    also="PPO reward; (5); (6); DPO gradient; DPO outline; (10); (17); (19); (20); (21); "
    "(22); (23); (24); (25); Slip in A.4; Slip in 5.2",
)  # fmt: skip
def _(case):
    """the implicit reward of the optimum is equivalent to the reward, on the support"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implicit = objective.implicit_reward(star, log_ref, beta)
    on_support = [table.gather(-1, case.ranking) for table in (reward, implicit)]
    assert objective.are_equivalent(*on_support).all()


@state(
    "(8)", "The projection onto the representative",
    r"f(r; \pi_{\mathrm{ref}}, \beta)(x,y) = r(x,y)"
    r" - \beta\log\sum_y \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta}",
    "objective.project", mutants.projected_without_beta, "09_theorem",
    also="(9); (10); (24); (25); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """stays in the class, and f(f(r)) = f(r)"""
    reward, log_ref, beta = case.arguments
    projected = objective.project(reward, log_ref, beta)
    assert objective.are_equivalent(projected, reward).all()
    assert_close(objective.project(projected, log_ref, beta), projected, atol=1e-12, rtol=1e-12)


@state(
    "(9)", "The member with Z = 1",
    r"\sum_y \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta} = 1",
    "objective.project", mutants.projected_to_mean_zero, "09_theorem",
    also="(10); (24); (25); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """after the projection the plain sum is 1, and its terms are the optimal policy"""
    reward, log_ref, beta = case.arguments
    terms = log_ref.exp() * (objective.project(reward, log_ref, beta) / beta).exp()
    assert_close(terms.sum(-1), torch.ones_like(terms[..., 0]), atol=1e-12, rtol=0)
    assert_close(terms, objective.optimal_log_policy(reward, log_ref, beta).exp())


@state(
    "(10)", "The objective with the soft value subtracted",
    r"\max_\pi\; \mathbb{E}_{y\sim\pi}\Big[f(r; \pi_{\mathrm{ref}}, \beta)(x,y)"
    r" - \beta\log\frac{\pi(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}\Big]",
    "objective.soft_advantage", mutants.soft_value_forgotten, "11_actor_critic",
    also="Slip in 5.2",
)  # fmt: skip
def _(case):
    """its mean is -beta KL(pi || pi*); at the optimum it is 0 for every response"""
    soft_objective_is_minus_divergence(case)
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    at_star = objective.soft_advantage(reward, star, log_ref, beta)
    assert_close(possible(log_ref, at_star), torch.zeros_like(reward), atol=1e-12, rtol=0)
