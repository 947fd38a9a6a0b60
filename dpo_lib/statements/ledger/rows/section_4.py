"""Section 4: the optimum (4), the reward through it (5), (6), the DPO loss (7), its gradient.

Source: Rafailov et al. 2023, section 4.
"""

import math
from functools import partial

import torch
from torch.testing import assert_close

from dpo_lib import losses, objective, preferences
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.rows.shared import comes_back, pair_slopes
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "(4)", "The optimal policy",
    r"\pi_r(y \mid x) = \tfrac{1}{Z(x)}\,\pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta}",
    "objective.optimal_log_policy", mutants.reference_forgotten, "05_optimal_policy",
    also="(5); DPO outline; Theorem 1; (9); (10); Valid distribution; (13); (14); (17); (19); "
    "(23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """its objective is beta log Z, and no smaller than a random policy's"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    best = objective.objective(star, reward, log_ref, beta)
    assert_close(best, beta * objective.log_partition(reward, log_ref, beta))
    assert (best >= objective.objective(case.log_policy, reward, log_ref, beta) - 1e-12).all()


@state(
    "Z", "The partition function",
    r"Z(x) = \sum_y \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta}",
    "objective.log_partition", mutants.reward_over_beta, "05_optimal_policy",
    also="(4); (5); (9); (10); (13); (14); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """beta log Z lies between the mean and the largest reward; equals the plain sum"""
    reward, log_ref, beta = case.arguments
    log_z = objective.log_partition(reward, log_ref, beta)
    assert_close(log_z, (log_ref.exp() * (reward / beta).exp()).sum(-1).log())
    top = reward.masked_fill(log_ref.isneginf(), -torch.inf).amax(-1)
    assert (beta * log_z <= top + 1e-12).all()
    assert (beta * log_z >= objective.expected_reward(log_ref, reward) - 1e-12).all()


@state(
    "(5)", "The reward in terms of its optimum",
    r"r(x,y) = \beta\log\frac{\pi_r(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)} + \beta\log Z(x)",
    "objective.reward_from_policy", mutants.partition_without_beta, "06_implicit_reward",
    also="(23)",
)  # fmt: skip
def _(case):
    """returns the reward from its own optimum, on the support"""
    comes_back(case.world.true_reward, case)


@state(
    "(6)", "The preference in terms of the policy",
    r"p^*(y_1 \succ y_2 \mid x) = \sigma\Big(\beta\log\frac{\pi^*(y_1)}{\pi_{\mathrm{ref}}(y_1)}"
    r" - \beta\log\frac{\pi^*(y_2)}{\pi_{\mathrm{ref}}(y_2)}\Big)",
    "objective.policy_preference", mutants.policy_alone, "06_implicit_reward",
    also="(7)",
)  # fmt: skip
def _(case):
    """at a policy's implicit reward, equals (1) at that reward plus any shift f(x)"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    reward_w, reward_l = (case.beta * (w - ref_w) + 3.0, case.beta * (l - ref_l) + 3.0)
    assert_close(
        objective.policy_preference(w, l, ref_w, ref_l, case.beta),
        preferences.bradley_terry(reward_w, reward_l),
    )


@state(
    "(7)", "The DPO loss",
    r"\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\log\sigma\Big(\beta\log"
    r"\frac{\pi_\theta(y_w)}{\pi_{\mathrm{ref}}(y_w)} - \beta\log"
    r"\frac{\pi_\theta(y_l)}{\pi_{\mathrm{ref}}(y_l)}\Big)\Big]",
    "losses.dpo_loss", mutants.beta_twice, "07_dpo_loss",
    also="DPO gradient; (20); (21); (22)",
)  # fmt: skip
def _(case):
    """is minus the logarithm of preference (6), and log 2 at the reference"""
    loss = losses.dpo_loss(*case.pairs, case.beta)
    assert_close(loss, -objective.policy_preference(*case.pairs, case.beta).log())
    ref_w, ref_l = case.pairs[2:]
    start = losses.dpo_loss(ref_w, ref_l, ref_w, ref_l, case.beta)
    assert_close(start, torch.full_like(start, math.log(2)))


@state(
    "DPO gradient", "What the DPO update does",
    r"\nabla_\theta \mathcal{L}_{\mathrm{DPO}} = -\beta\,\mathbb{E}\big[\sigma(\hat r_l - \hat r_w)"
    r"\,(\nabla\log\pi(y_w) - \nabla\log\pi(y_l))\big]",
    "losses.dpo_weight", mutants.weight_swapped, "07_dpo_loss",
    also="(22); Slip in A.4",
)  # fmt: skip
def _(case):
    """autograd's derivatives are minus and plus beta times the weight"""
    weight = losses.dpo_weight(*case.pairs, case.beta)
    by_w, by_l = pair_slopes(case)
    assert_close(by_w, -case.beta * weight)
    assert_close(by_l, case.beta * weight)


@state(
    "DPO outline", "Labels from (1), loss (7), policy (4)",
    r"\arg\min_\pi \mathcal{L}_{\mathrm{DPO}}(\pi; \pi_{\mathrm{ref}}) = \pi_{r^*}",
    "losses.table_loss", mutants.loser_first, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """on the labels of (1), (4) has gradient zero and the entropy of the labels as its loss"""
    reward, log_ref, beta = case.arguments
    possible = ~case.impossible
    wins = preferences.population_wins(reward)
    wins = wins * possible.unsqueeze(-1) * possible.unsqueeze(-2)
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implicit = objective.implicit_reward(star, log_ref, beta).masked_fill(case.impossible, 0.0)
    loss = losses.table_loss(implicit.requires_grad_(), wins)
    (slope,) = torch.autograd.grad(loss, implicit)
    assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    assert_close(loss.detach(), preferences.label_entropy(wins))
