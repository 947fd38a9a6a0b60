"""Appendix A.6: the theorem of section 5 in three lines, (23) to (25), and Proposition 1.

Source: Rafailov et al. 2023, appendix A.6. Its lines have no numbers there.
"""

from functools import partial

from torch.testing import assert_close

from dpo_lib import objective
from dpo_lib.statements.ledger import mutants
from dpo_lib.statements.ledger.rows.shared import comes_back, equals_implicit_reward, shift
from dpo_lib.statements.ledger.statement import Statement, enter

ROWS: list[Statement] = []
state = partial(enter, ROWS)


@state(
    "(23)", "A.6: any reward through its optimal policy",
    r"r(x,y) = \beta\log\frac{\pi_r(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)} + \beta\log Z(x)",
    "objective.reward_from_policy", mutants.partition_subtracted, "09_theorem",
    also="(5)",
)  # fmt: skip
def _(case):
    """each member of a class comes back from the one policy and its own Z"""
    comes_back(case.world.true_reward + shift(case), case)


@state(
    "(24)", "A.6: the projection is an implicit reward",
    r"r'(x,y) = f(r; \pi_{\mathrm{ref}}, \beta)(x,y)"
    r" = \beta\log\frac{\pi_r(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}",
    "objective.project", mutants.mean_for_soft_value, "09_theorem",
    also="(9); (10); (25); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """the projection equals beta log(pi_r / pi_ref) on the support"""
    reward, log_ref, beta = case.arguments
    equals_implicit_reward(objective.project(reward, log_ref, beta), reward, case)


@state(
    "(25)", "A.6: one projection for a class",
    r"f(r; \pi_{\mathrm{ref}}, \beta) = \beta\log\frac{\pi_r}{\pi_{\mathrm{ref}}}"
    r" = \beta\log\frac{\pi_{r'}}{\pi_{\mathrm{ref}}} = f(r'; \pi_{\mathrm{ref}}, \beta)",
    "objective.project", mutants.projected_without_reference, "09_theorem",
    also="(9); (10); (24); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """two members of a class have one projection, the implicit reward of either's policy"""
    reward, log_ref, beta = case.arguments
    member = reward + shift(case)
    projected = objective.project(reward, log_ref, beta)
    assert_close(objective.project(member, log_ref, beta), projected, atol=1e-11, rtol=1e-11)
    equals_implicit_reward(projected, member, case)


@state(
    "Proposition 1", "The representative is unique",
    r"\beta\log\frac{\pi'}{\pi_{\mathrm{ref}}} = \beta\log\frac{\pi}{\pi_{\mathrm{ref}}} + f(x)"
    r" \implies f = 0",
    "objective.log_partition", mutants.maximum_not_added_back, "09_theorem",
    also="(4); Z; (5); (8); (9); (10); (13); (14); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """the member f(x) away from the representative has log Z = f(x) / beta, so Z = 1 once only"""
    reward, log_ref, beta = case.arguments
    member = objective.project(reward, log_ref, beta) + shift(case)
    log_z = objective.log_partition(member, log_ref, beta)
    assert_close(log_z, shift(case)[..., 0] / beta, atol=1e-9, rtol=1e-9)
