"""The bug zoo: DPO runs with one thing wrong each, to test `judging.doctor` on."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "start": ["Start", "make_start", "record"],
        "bugs": ["HEALTHY", "Healthy", "INVISIBLE", "VISIBLE"],
    },
)
