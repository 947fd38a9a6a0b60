"""What pages show and do not make: long runs, each with its script, and the votes of people."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "stored": ["ResultError", "read"],
        "pair": ["StoredPair", "one_pair"],
        "choices": ["Choices", "human_choices"],
        "trial": [
            *("FairTrial", "Judged", "Seed", "fair_trial"),
            *("Answers", "LengthTrial", "length_trial"),
        ],
        "plan": ["Plan", "numbers"],
        "judging": ["Judge", "agreement"],
    },
)
