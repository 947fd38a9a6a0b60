"""DPO on a real GPT-2, and everything the paper compares it to: SFT, a reward model, PPO.

Modules, each importing only those before it: `settings` (what each stage can be told), `files`
(written whole or not at all), `rows`, `shapes` and `data` (from files to tokens), `reviews` (a
built-in world with a known reward), `models`, `layouts` and `logprobs`, `sharding`, `checkpoint`,
`run_folder`, `processes`, `progress` and `trainer`, `sampling`, one stage each in `sft`,
`reward_model`, `dpo` and `ppo` (with `rollouts`), then `evaluate`, `training_log`, `doctor` and
`bugs` to test it on. The losses are those of `dpo_lib.losses`. Needs the packages of the extra
`language-model`.
"""
