"""Direct Preference Optimization, statement by statement.

Modules follow the paper's method: `world`, `preferences` (1), (18), `objective` (3)-(6),
(8)-(10), (19), `losses` (2), (7), (20), `divergences`, `per_token`, `variants`, `policies`,
`fitting`, `training`, `ppo`, `evaluation`. Beside them stand `statements` (the paper's claims,
proved and checked), `page` (figures, sliders, exercises) and `language_model` (the same losses on
a GPT-2).
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "evaluation": ["frontier", "reward_error", "total_variation"],
        "fitting": ["fit_dpo", "fit_reward"],
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
        "world": ["World", "random_world", "three_answers"],
    },
)
