"""How good a policy is, and what its training log says of likely bugs."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "statistics": [
            *("Estimate", "estimate", "difference", "win_rate", "holm"),
            *("best_of", "best_of_kl"),
        ],
        "evaluation": ["evaluate", "evaluate_settings"],
        "training_log": ["Log", "read_log"],
        "curves": ["plot"],
        "web_page": ["leave_page", "write_page"],
        "doctor": ["Finding", "diagnose"],
    },
)
