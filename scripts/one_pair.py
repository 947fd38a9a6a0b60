"""One held-out pair under two models: `python scripts/one_pair.py FOLDER`.

Makes the models in FOLDER with the commands below, scores the pair under both and writes
dpo_lib/results/one_pair.json, which several chapters read. About two minutes on two cores.
"""

import json
import os
import sys

import torch

from dpo_lib.__main__ import main as dpo
from dpo_lib.language_model.data.reading import read_preferences
from dpo_lib.language_model.data.tokens import tokenize_preferences
from dpo_lib.language_model.models import load_policy, load_tokenizer
from dpo_lib.language_model.scoring import plain_logps
from dpo_lib.language_model.training.run_folder import machine
from dpo_lib.results.about import commit, cpu
from dpo_lib.results.stored import STORED, signed

BETA = 0.1
REJECTED = " Leo Marsh only from television. In short, flat."  # the two answers begin alike
TRAINING = "--data world --optimizer adamw --warmup-steps 10 --seed 1"
COMMANDS = [
    "world --out world --pairs 4000 --words 9 24 --seed 1",
    f"sft --model tiny --out sft --steps 250 --lr 1e-3 {TRAINING}",
    f"dpo --model sft/model --out dpo --beta {BETA} --steps 125 --lr 1e-4 {TRAINING}",
]
MODELS = {"policy": "dpo/model", "ref": "sft/model"}


def main(folder: str) -> int:
    os.chdir(folder)
    for command in COMMANDS:
        if code := dpo(command.split()):
            return code
    tokenizer = load_tokenizer("sft/model")
    rows, report = read_preferences("world/test_preferences.jsonl", tokenizer)
    row = next(row for row in rows if row.rejected == REJECTED)
    (pair,) = tokenize_preferences([row], tokenizer, 128, report)
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    logps = {}
    for name, model in MODELS.items():
        policy = load_policy(model, tokenizer).eval()
        with torch.no_grad():
            both = plain_logps(policy, [(pair.prompt, ids) for ids in sides.values()])
        logps |= {f"{name}_{side}": found.tolist() for side, found in zip(sides, both, strict=True)}
    result = {
        "commands": [f"dpo {command}" for command in COMMANDS],
        "commit": commit(),
        "machine": machine() | {"cpu": cpu()},
        "beta": BETA,
        "prompt": row.prompt,
        **{side: getattr(row, side) for side in sides},
        "tokens": {side: [tokenizer.decode(i) for i in ids] for side, ids in sides.items()},
        "token_logps": logps,
    }
    path = STORED / "one_pair.json"
    path.write_text(json.dumps(signed(result), indent=1) + "\n")
    print(path, {name: round(sum(values), 3) for name, values in logps.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
