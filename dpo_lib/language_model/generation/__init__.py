"""Completions drawn from a model, and what PPO keeps of them."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "sampling": ["generate"],
        "samples": ["Samples", "repeated_share", "sample", "sequence_kl"],
        "rollouts": ["Completions", "Rollouts"],
    },
)
