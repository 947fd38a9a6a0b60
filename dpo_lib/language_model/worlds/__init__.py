"""Worlds of text whose true reward is known: film reviews."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "reviews": ["draw_completion", "draw_prompt", "reward"],
        "data_set": ["train_tokenizer", "write_world"],
    },
)
