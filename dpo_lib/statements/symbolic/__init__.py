"""The paper's algebra in sympy: symbols, sums, the questions asked of an identity, quantities.

There is one prompt with K answers. K is a number for the blocks that take sequences; for any K
at once there are indexed symbols, to be added up with `total`. The chapters write their algebra
with these building blocks, and `proofs` the whole chain.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "symbols": ["ANSWER", "Answers", "AnyAnswers", "K", "answers", "answers_of_any_number"],
        "sums": ["collapsed", "normalised", "total"],
        "identities": ["differs_from_zero", "is_zero"],
        "quantities": [
            "bradley_terry",
            "dpo_loss",
            "expectation",
            "gradient",
            "implicit_reward",
            "kl",
            "log_ratio",
            "objective",
            "optimal_policy",
            "partition",
            "plackett_luce",
            "reward_loss",
            "sigmoid",
            "softmax",
        ],
    },
)
