"""What is trained, one file each: its data, its loss, its log."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "sft": ["SFT"],
        "reward": ["Reward"],
        "dpo": ["DPO"],
        "kto": ["KTO"],
        "online": ["OnlineDPO"],
        "ppo": ["PPO"],
    },
)
