"""Appendices A.1, A.2, A.4: section 4 derived line by line, (11) to (17), (21) and (22).

Source: Rafailov et al. 2023, appendices A.1, A.2 and A.4.
"""

import math
from functools import partial

import torch
from torch.testing import assert_close

from dpo_lib import losses, objective, preferences
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.rows.shared import pair_slopes, possible
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "(11)", "The objective, for any reward and all policies",
    r"\max_\pi\; \mathbb{E}_{x,\,y\sim\pi}[r(x,y)] - \beta\,\mathrm{KL}",
    "objective.objective", mutants.penalty_added, "05_optimal_policy",
    also="(3); PPO reward; (4); (12); (13)",
)  # fmt: skip
def _(case):
    """is strictly concave: halfway between two policies it is above the mean of both"""
    reward, log_ref, beta = case.arguments
    middle = torch.logaddexp(case.log_policy, log_ref) - math.log(2)
    ends = [objective.objective(end, reward, log_ref, beta) for end in (case.log_policy, log_ref)]
    assert (objective.objective(middle, reward, log_ref, beta) > sum(ends) / 2).all()


@state(
    "(12)", "Adding and subtracting log Z",
    r"\min_\pi \mathbb{E}_{y\sim\pi}\Big[\log\frac{\pi}{\frac1Z \pi_{\mathrm{ref}}\,e^{r/\beta}}"
    r" - \log Z(x)\Big]",
    "objective.objective", mutants.penalty_reversed, "05_optimal_policy",
    also="(3); PPO reward; (4); (13)",
)  # fmt: skip
def _(case):
    """equals -J / beta for any positive number in the place of Z"""
    reward, log_ref, beta = case.arguments
    wanted = -objective.objective(case.log_policy, reward, log_ref, beta) / beta
    for log_c in (0.0, 1.7):
        denominator = log_ref + reward / beta - log_c
        ratio = possible(log_ref, case.log_policy - denominator)
        assert_close((case.log_policy.exp() * (ratio - log_c)).sum(-1), wanted)


@state(
    "Valid distribution", "The optimum is a distribution",
    r"\pi^*(y \mid x) = \tfrac{1}{Z(x)}\pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta} \ge 0,"
    r"\quad \sum_y \pi^*(y \mid x) = 1",
    "objective.optimal_log_policy", mutants.first_answer_for_partition, "05_optimal_policy",
    also="(4); (5); Lemma 2; (9); (10); (13); (14); (15); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """sums to one, and is positive exactly where the reference is"""
    star = objective.optimal_log_policy(*case.arguments).exp()
    assert_close(star.sum(-1), torch.ones_like(star[..., 0]), atol=1e-12, rtol=0)
    assert ((star > 0) == ~case.impossible).all()


@state(
    "(13)", "The optimum in the denominator",
    r"\min_\pi \mathbb{E}_{y\sim\pi}\Big[\log\frac{\pi(y \mid x)}{\pi^*(y \mid x)}\Big]"
    r" - \log Z(x)",
    "objective.log_partition", mutants.uniform_partition, "05_optimal_policy",
    also="(4); Z; (5); (9); (10); (14); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """equals -J / beta with the library's optimum and Z"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    ratio = possible(log_ref, case.log_policy - star)
    line = (case.log_policy.exp() * ratio).sum(-1) - objective.log_partition(reward, log_ref, beta)
    assert_close(line, -objective.objective(case.log_policy, reward, log_ref, beta) / beta)


@state(
    "(14)", "The objective as a distance to the optimum",
    r"\min_\pi\; \mathrm{KL}(\pi \,\Vert\, \pi^*) - \log Z(x)",
    "objective.kl_divergence", mutants.reversed_kl, "05_optimal_policy",
    also="(3); PPO reward; (4); (10); (12); (13); Slip in 5.2",
)  # fmt: skip
def _(case):
    """E[r] - beta KL(pi || ref) = beta log Z - beta KL(pi || pi*)"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    log_z = objective.log_partition(reward, log_ref, beta)
    left = objective.expected_reward(case.log_policy, reward) - beta * objective.kl_divergence(
        case.log_policy, log_ref
    )
    assert_close(left, beta * log_z - beta * objective.kl_divergence(case.log_policy, star))


@state(
    "(15)", "Gibbs' inequality",
    r"\mathrm{KL}(\pi \,\Vert\, \pi^*) \ge 0,\ = 0 \iff \pi = \pi^*",
    "objective.kl_divergence", mutants.cross_entropy, "05_optimal_policy",
    also="(3); PPO reward; (4); (10); (11); (12); (13); Slip in 5.2",
)  # fmt: skip
def _(case):
    """KL is positive between different policies and zero from a policy to itself"""
    star = objective.optimal_log_policy(*case.arguments)
    assert (objective.kl_divergence(case.log_policy, star) > 0).all()
    assert (objective.kl_divergence(star, star).abs() < 1e-14).all()


@state(
    "(16)", "Bradley-Terry, restated for the derivation of (6)",
    r"p^*(y_1 \succ y_2 \mid x) = \sigma(r^*(x,y_1) - r^*(x,y_2))",
    "preferences.preference_table", mutants.transposed, "06_implicit_reward",
    also="DPO outline",
)  # fmt: skip
def _(case):
    """the table of all pairs has odds exp(r_i - r_j)"""
    reward = case.world.true_reward
    table = preferences.preference_table(reward)
    gaps = reward.unsqueeze(-1) - reward.unsqueeze(-2)
    assert_close((table / table.transpose(-1, -2)).log(), gaps)


@state(
    "(17)", "The true reward through its optimum",
    r"r^*(x,y) = \beta\log\frac{\pi^*(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)} + \beta\log Z(x)",
    "objective.implicit_reward", mutants.beta_missing, "06_implicit_reward",
    also="PPO reward; (5); (6); DPO gradient; DPO outline; Theorem 1; (10); (19); (20); (21); "
    "(22); (23); (24); (25); Slip in A.4; Slip in 5.2",
)  # fmt: skip
def _(case):
    """implicit rewards of the optimum differ from the true ones by beta log Z(x) alone"""
    reward, log_ref, beta = case.arguments
    implicit = objective.implicit_reward(
        objective.optimal_log_policy(reward, log_ref, beta), log_ref, beta
    )
    shift = (beta * objective.log_partition(reward, log_ref, beta)).unsqueeze(-1)
    assert_close(possible(log_ref, implicit + shift), possible(log_ref, reward))


@state(
    "(21)", "The gradient of (7), before simplifying",
    r"\nabla_\theta\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\frac{\sigma'(u)}{\sigma(u)}"
    r"\nabla_\theta u\Big],\quad u = \hat r_w - \hat r_l",
    "losses.dpo_loss", mutants.loss_swapped, "07_dpo_loss",
    also="(7); DPO gradient; (20); (22)",
)  # fmt: skip
def _(case):
    """autograd agrees with sigma'(u) / sigma(u) for u = chosen minus rejected"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    u = case.beta * ((w - ref_w) - (l - ref_l))
    slope = torch.sigmoid(u) * (1 - torch.sigmoid(u)) / torch.sigmoid(u)
    assert_close(pair_slopes(case)[0], -case.beta * slope)


@state(
    "(22)", "The gradient of (7), with the sign that A.4 misprints corrected",
    r"\nabla_\theta\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\big[\beta\,\sigma(\hat r_l - \hat r_w)"
    r"(\nabla\log\pi(y_w) - \nabla\log\pi(y_l))\big]",
    "losses.dpo_weight", mutants.constant_weight, "07_dpo_loss",
    also="DPO gradient; Slip in A.4",
)  # fmt: skip
def _(case):
    """autograd through a softmax moves the two logits of the pair and no other"""
    logits = case.log_policy.masked_fill(case.impossible, -1e3).requires_grad_()
    logps = logits.log_softmax(-1)
    w, l = case.ranking[..., :1], case.ranking[..., 1:2]  # noqa: E741
    pair = [table.gather(-1, y)[..., 0] for table in (logps, case.world.log_ref) for y in (w, l)]
    (slope,) = torch.autograd.grad(losses.dpo_loss(*pair, case.beta).sum(), logits)
    pull = (case.beta * losses.dpo_weight(*pair, case.beta)).unsqueeze(-1)
    wanted = torch.zeros_like(slope).scatter(-1, w, -pull).scatter(-1, l, pull)
    assert_close(slope, wanted)
