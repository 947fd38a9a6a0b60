"""Appendix A.3: rankings of K answers (18), through the optimal policy (19), their loss (20).

Source: Rafailov et al. 2023, appendix A.3.
"""

import math
from functools import partial
from itertools import permutations

import torch
from torch.testing import assert_close

from dpo_lib import losses, objective, preferences
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "(18)", "Plackett-Luce ranking",
    r"p^*(\tau \mid y_1, \dots, y_K, x) = \prod_{k=1}^{K} \frac{e^{r^*(x, y_{\tau(k)})}}"
    r"{\sum_{j=k}^{K} e^{r^*(x, y_{\tau(j)})}}",
    "preferences.plackett_luce_logp", mutants.all_pairs, "10_rankings",
    also="(20)",
)  # fmt: skip
def _(case):
    """the orders of up to four responses add up to one; two responses give (1)"""
    reward, ranking = case.world.true_reward, case.ranking[..., :4]
    orders = (ranking[..., list(order)] for order in permutations(range(ranking.shape[-1])))
    whole = sum(preferences.plackett_luce_logp(reward, order).exp() for order in orders)
    assert_close(whole, torch.ones_like(whole))
    w, l = reward.gather(-1, ranking[..., :2]).unbind(-1)  # noqa: E741
    pair = preferences.plackett_luce_logp(reward, ranking[..., :2])
    assert_close(pair.exp(), torch.sigmoid(w - l))


@state(
    "(19)", "The ranking in terms of the policy",
    r"p^*(\tau \mid y_1, \dots, y_K, x) = \prod_{k=1}^{K} \frac{\exp(\beta\log"
    r"\frac{\pi^*(y_{\tau(k)})}{\pi_{\mathrm{ref}}(y_{\tau(k)})})}{\sum_{j=k}^{K} \exp(\beta\log"
    r"\frac{\pi^*(y_{\tau(j)})}{\pi_{\mathrm{ref}}(y_{\tau(j)})})}",
    "objective.policy_ranking_logp", mutants.ranking_without_reference, "10_rankings",
    also="(20)",
)  # fmt: skip
def _(case):
    """at the optimum, equals (18) at the reward, for a ranking of all possible responses"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implied = objective.policy_ranking_logp(star, log_ref, case.ranking, beta)
    assert_close(implied, preferences.plackett_luce_logp(reward, case.ranking))


@state(
    "(20)", "The DPO loss for rankings",
    r"\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\log\prod_{k=1}^{K} \frac{\exp(\beta\log"
    r"\frac{\pi_\theta(y_{\tau(k)})}{\pi_{\mathrm{ref}}(y_{\tau(k)})})}{\sum_{j=k}^{K}"
    r" \exp(\beta\log\frac{\pi_\theta(y_{\tau(j)})}{\pi_{\mathrm{ref}}(y_{\tau(j)})})}\Big]",
    "losses.plackett_luce_dpo_loss", mutants.best_answer_only, "10_rankings",
)  # fmt: skip
def _(case):
    """equals a plain loop over the places; log K! at the reference; (7) for two responses"""
    log_ref, beta, ranking = case.world.log_ref, case.beta, case.ranking
    implicit = beta * (case.log_policy - log_ref).gather(-1, ranking)
    places = range(ranking.shape[-1])
    loop = sum(implicit[..., k:].logsumexp(-1) - implicit[..., k] for k in places)
    assert_close(losses.plackett_luce_dpo_loss(case.log_policy, log_ref, ranking, beta), loop)
    start = losses.plackett_luce_dpo_loss(log_ref, log_ref, ranking, beta)
    assert_close(start, torch.full_like(start, math.lgamma(len(places) + 1)))
    two = losses.plackett_luce_dpo_loss(case.log_policy, log_ref, ranking[..., :2], beta)
    assert_close(two, losses.dpo_loss(*case.pairs, beta))
