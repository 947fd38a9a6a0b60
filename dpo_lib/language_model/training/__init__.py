"""The one training loop of all stages: order, steps, checkpoints, run folder, processes."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "stage": ["Stage"],
        "learner": ["Learner"],
        "loop": ["train"],
    },
)
