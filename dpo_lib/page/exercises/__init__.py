"""Self-checks for the chapters' exercises: a property to satisfy and a hint, never the solution.

A check takes the reader's function, tries it on random worlds, and returns a `Verdict` that a
notebook shows. It never raises: an unfinished stub is not an error. The checks of a chapter are
in the file with its number; a new one is offered here too.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "verdicts": ["Verdict", "compare"],
        "chapters_01_to_04": [
            "check_reward_from_preferences",
            "check_reward_gradient",
            "check_objective_gradient",
            "check_clip_slope",
            "check_token_rewards",
            "check_bonus_optimum",
        ],
        "chapters_05_to_07": [
            "check_stable_log_partition",
            "check_tempered_policy",
            "check_calibrated_reward",
            "check_proposal_variance",
            "check_dpo_loss",
            "check_changed_reference",
        ],
        "chapters_08_to_11": [
            "check_class_distance",
            "check_member_with_partition",
            "check_blended_policy",
            "check_ranking_gradient",
            "check_worst_first",
            "check_optimal_baseline",
            "check_leave_one_out",
            "check_regression_round",
        ],
        "chapters_12_to_15": [
            "check_preferred_ft",
            "check_ipo_optimum",
            "check_answer_slopes",
            "check_unbiased_loss",
            "check_ipo_policy",
        ],
        "chapters_16_to_19": [
            "check_completion_logps",
            "check_tilted_samples",
            "check_paired_z",
            "check_standard_error_over_prompts",
            "check_loss_floor",
            "check_reference_score",
        ],
    },
)
