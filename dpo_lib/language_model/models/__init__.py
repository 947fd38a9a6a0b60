"""Models and tokenizers: loaded, copied, saved, compared, named by hashes."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "hub": ["ModelError"],
        "adapters.layers": ["add_adapter", "start_of"],
        "adapters.folders": ["merge"],
        "policies": [
            "check_same_tokens",
            "frozen_copy",
            "load_policy",
            "load_tokenizer",
            "load_trained",
            "save_policy",
        ],
        "reward_model": ["RewardModel", "ValueHead"],
        "judges": ["Judge", "load_judge", "named_judge", "world_score"],
        "hashes": ["state_hash", "tokenizer_hash"],
        "devices": ["pick_device", "pick_dtype", "precision"],
    },
)
