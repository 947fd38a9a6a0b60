"""DPO on a real language model, and everything the paper compares it to: SFT, reward model, PPO.

The losses are those of `dpo_lib.losses`. Rooms, each importing only from those before it:
`data` (from files to tokens), `worlds` (text with a known reward), `models`, `scoring`
(log pi(y | x)), `generation`, `training` (the one loop), `stages` (SFT, reward model, DPO, PPO),
`judging` (evaluation, logs, `doctor`), `zoo` (runs with a bug). All use `settings` (what each
stage can be told) and `files` (written whole or not at all). Needs the packages of the extra
`language-model`.
"""
