"""Stored results of runs that are too long for a page, each with the script that made it."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "stored": ["ResultError", "read"],
        "pair": ["StoredPair", "one_pair"],
        "plan": ["Plan", "numbers"],
        "judging": ["Judge", "agreement"],
    },
)
