"""The slips of the paper: in A.4, in 5.2, and where section 4 cites Table 3.

Source: Rafailov et al. 2023.
"""

from functools import partial

import torch
from torch.testing import assert_close

from dpo_lib import losses
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.rows.shared import soft_objective_is_minus_divergence
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "Slip in A.4", "The weight is printed the wrong way round",
    r"\sigma(\hat r_w - \hat r_l) \ne \sigma(\hat r_l - \hat r_w)",
    "losses.dpo_weight", mutants.weight_swapped, "07_dpo_loss",
    also="DPO gradient; (22)",
)  # fmt: skip
def _(case):
    """the printed weight exceeds the true one by tanh(u / 2), u the margin"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    u = case.beta * ((w - ref_w) - (l - ref_l))
    printed = torch.sigmoid(u)
    assert_close(printed - losses.dpo_weight(*case.pairs, case.beta), torch.tanh(u / 2))


@state(
    "Slip in 5.2", "The optimal policy comes from (4), not from (7)",
    r"\min_\pi \mathrm{KL}(\pi \,\Vert\, \pi^*), \quad \pi^* \text{ of (4)}",
    "objective.optimal_log_policy", mutants.pair_preference, "11_actor_critic",
    also="(4); (5); DPO outline; Lemma 2; Theorem 1; (9); (10); Valid distribution; (13); "
    "(14); (15); (17); (19); (23); (24); (25)",
)  # fmt: skip
def _(case):
    """(10) is -beta KL(pi || pi*) for pi* from (4)"""
    soft_objective_is_minus_divergence(case)


@state(
    "Slip on Table 3", "Unlikelihood is not the loss without its weight",
    r"\nabla[-\log\pi(y_w) + \alpha\log\pi(y_l)] \propto -(\nabla\log\pi(y_w)"
    r" - \nabla\log\pi(y_l)) \iff \alpha = 1",
    "losses.unlikelihood_loss", mutants.weighted_unlikelihood, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """its derivatives are -1 and alpha at every margin: opposite for alpha = 1 alone"""
    w, l = (logps.clone().requires_grad_() for logps in case.pairs[:2])  # noqa: E741
    for alpha in (0.5, 1.0):
        loss = losses.unlikelihood_loss(w, l, alpha).sum()
        by_w, by_l = torch.autograd.grad(loss, (w, l))
        assert_close(by_w, torch.full_like(w, -1.0))
        assert_close(by_l, torch.full_like(l, alpha))
