"""Direct Preference Optimization, statement by statement.

Modules follow the paper's method: `world`, `preferences` (1), (18), `objective` (3)-(6),
(8)-(10), (19), `losses` (2), (7), (20), `policies`, `training`, `evaluation`, `plotting`,
`widgets`. Beside them stand `symbolic`, `proofs` and `theory` (the algebra in sympy),
`exercises`, and `paper` with `ledger` and `mutants` (every statement and its checks).
"""

from importlib import import_module

_MODULES = {  # the names below, by the module that has them
    "evaluation": ["frontier", "reward_error", "total_variation"],
    "losses": ["dpo_loss", "dpo_weight", "plackett_luce_dpo_loss", "reward_loss"],
    "objective": [
        "expected_reward",
        "implicit_reward",
        "kl_divergence",
        "log_partition",
        "optimal_log_policy",
        "policy_preference",
        "project",
        "reward_from_policy",
    ],
    "policies": ["TabularPolicy", "TabularReward"],
    "preferences": ["bradley_terry", "preference_table", "sample_preferences"],
    "training": ["fit_dpo", "fit_reward"],
    "world": ["World", "random_world", "three_answers"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """A name's module is imported when the name is asked for: torch takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
