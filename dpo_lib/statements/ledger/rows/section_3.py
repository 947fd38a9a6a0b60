"""Section 3: Bradley-Terry (1), the reward model (2), objective (3), the reward of PPO.

Source: Rafailov et al. 2023, section 3.
"""

import math
from functools import partial

import torch
from torch.testing import assert_close

from dpo_lib import evaluation, losses, objective, preferences
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.rows.shared import possible, same_preferences
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "(1)", "Bradley-Terry preference",
    r"p^*(y_1 \succ y_2 \mid x) = \frac{e^{r^*(x,y_1)}}{e^{r^*(x,y_1)} + e^{r^*(x,y_2)}}",
    "preferences.bradley_terry", mutants.first_reward_only, "01_preferences",
    also="Normalised reward; (6); (7); DPO outline; Lemma 1; (16)",
)  # fmt: skip
def _(case):
    """equals the softmax of two rewards; the two orders sum to one"""
    first, second = case.world.true_reward[..., 0], case.world.true_reward[..., 1]
    probability = preferences.bradley_terry(first, second)
    assert_close(probability, first.exp() / (first.exp() + second.exp()))
    assert_close(probability + preferences.bradley_terry(second, first), torch.ones_like(first))


@state(
    "(2)", "Reward-model loss",
    r"\mathcal{L}_R = -\mathbb{E}\,[\log\sigma(r_\phi(x,y_w) - r_\phi(x,y_l))]",
    "losses.reward_loss", mutants.swapped_sides, "02_reward_model",
    also="(7); DPO gradient; DPO outline; (20); (21); (22)",
)  # fmt: skip
def _(case):
    """its expectation under (1) has gradient zero at the true reward"""
    reward = case.world.true_reward.clone().requires_grad_()
    rows, columns = torch.broadcast_tensors(reward.unsqueeze(-1), reward.unsqueeze(-2))
    weights = torch.sigmoid(rows - columns).detach()
    (weights * losses.reward_loss(rows, columns)).sum().backward()
    assert_close(reward.grad, torch.zeros_like(reward.grad), atol=1e-12, rtol=0)


@state(
    "Normalised reward", "The mean reward of each prompt is zero",
    r"\mathbb{E}_{x,y}[r_\phi(x, y)] = 0 \text{ for all } x",
    "evaluation.centre", mutants.mean_of_the_batch, "02_reward_model",
)  # fmt: skip
def _(case):
    """every prompt averages to zero, and no preference changes"""
    reward = case.world.true_reward
    centred = evaluation.centre(reward)
    assert_close(centred.sum(-1), torch.zeros_like(reward[..., 0]), atol=1e-12, rtol=0)
    same_preferences(centred, reward)


@state(
    "(3)", "KL-constrained objective",
    r"\max_\pi\; \mathbb{E}_{y\sim\pi}[r(x,y)]"
    r" - \beta\,\mathrm{KL}(\pi \,\Vert\, \pi_{\mathrm{ref}})",
    "objective.objective", mutants.penalty_reversed, "03_objective",
    also="PPO reward; (4); (12); (13)",
)  # fmt: skip
def _(case):
    """equals a plain loop over the responses that occur"""
    reward, log_ref, beta = case.arguments
    tables = (table.tolist() for table in (case.log_policy, reward, log_ref))
    wanted = [
        sum(math.exp(p) * (r - beta * (p - q)) for p, r, q in zip(*row, strict=True) if p > -1e9)
        for row in zip(*tables, strict=True)
    ]
    value = objective.objective(case.log_policy, reward, log_ref, beta)
    assert_close(value, torch.tensor(wanted, dtype=torch.float64))


@state(
    "PPO reward", "The reward that PPO is run on",
    r"r(x,y) = r_\phi(x,y) - \beta\,(\log\pi_\theta(y \mid x) - \log\pi_{\mathrm{ref}}(y \mid x))",
    "objective.kl_shaped_reward", mutants.bonus_not_penalty, "03_objective",
    also="(10); Slip in 5.2",
)  # fmt: skip
def _(case):
    """its mean under the policy is objective (3)"""
    reward, log_ref, beta = case.arguments
    shaped = objective.kl_shaped_reward(reward, case.log_policy, log_ref, beta)
    mean = (case.log_policy.exp() * possible(log_ref, shaped)).sum(-1)
    assert_close(mean, objective.objective(case.log_policy, reward, log_ref, beta))
