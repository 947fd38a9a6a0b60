"""Direct Preference Optimization, statement by statement.

Modules follow the paper's method: `world`, `preferences` (1), (18), `objective` (3)-(6),
(8)-(10), (19), `losses` (2), (7), (20), `policies`, `training`, `evaluation`, `plotting`,
`widgets`. Beside them stand `symbolic`, `proofs` and `theory` (the algebra in sympy),
`exercises`, and `paper` with `ledger` and `mutants` (every statement and its checks).
"""

from dpo_lib.evaluation import frontier, reward_error, total_variation
from dpo_lib.losses import dpo_loss, dpo_weight, plackett_luce_dpo_loss, reward_loss
from dpo_lib.objective import (
    expected_reward,
    implicit_reward,
    kl_divergence,
    log_partition,
    optimal_log_policy,
    policy_preference,
    project,
    reward_from_policy,
)
from dpo_lib.policies import TabularPolicy, TabularReward
from dpo_lib.preferences import bradley_terry, preference_table, sample_preferences
from dpo_lib.training import fit_dpo, fit_reward
from dpo_lib.world import World, random_world, three_answers

__all__ = [
    "TabularPolicy",
    "TabularReward",
    "World",
    "bradley_terry",
    "dpo_loss",
    "dpo_weight",
    "expected_reward",
    "fit_dpo",
    "fit_reward",
    "frontier",
    "implicit_reward",
    "kl_divergence",
    "log_partition",
    "optimal_log_policy",
    "plackett_luce_dpo_loss",
    "policy_preference",
    "preference_table",
    "project",
    "random_world",
    "reward_error",
    "reward_from_policy",
    "reward_loss",
    "sample_preferences",
    "three_answers",
    "total_variation",
]
