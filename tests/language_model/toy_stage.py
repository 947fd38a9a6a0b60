"""A stage so small that a run takes a tenth of a second: what the trainer itself can be held to."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dpo_lib.language_model.settings import SampledSettings
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.training.stage import Measurement, Stage


@dataclass(frozen=True, kw_only=True)
class ToySettings(SampledSettings):
    model: str = "toy"
    data: str = "none"
    batch_size: int = 8
    lr: float = 0.01
    warmup_steps: int = 3
    save_every: int = 3
    log_every: int = 1000


class Toy(Stage):
    """A bigram model of ragged rows, its output layer tied to its embedding, as in GPT-2.

    The loss is the mean over tokens, and its state changes with each step, as PPO's beta does.
    """

    def __init__(self, settings, items=19, dtype=torch.float32, data_seed=0):
        self.settings, self.items, self.kl = settings, items, 0.1
        generator = torch.Generator().manual_seed(settings.seed)
        self.model = torch.nn.Module()
        embedding = torch.randn(11, 6, generator=generator).to(dtype)
        self.model.embedding = torch.nn.Parameter(embedding)
        self.model.head = self.model.embedding
        self.model.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.modules = {"policy": self.model}
        draw = torch.Generator().manual_seed(data_seed)
        self.rows = [
            torch.randint(11, (2 + index % 5,), generator=draw).tolist() for index in range(items)
        ]
        self.fingerprint = {"data": str(data_seed), "model": "toy"}

    def start(self, step):
        self.kl = self.kl * 1.01 + step / 1000

    def weight(self, indices):
        return sum(len(self.rows[index]) - 1 for index in indices)

    def token_losses(self, indices):
        rows = [torch.tensor(self.rows[index]) for index in indices]
        before, after = torch.cat([r[:-1] for r in rows]), torch.cat([r[1:] for r in rows])
        logits = self.model.embedding[before] @ self.model.head.T
        return F.cross_entropy(logits, after, reduction="none") * (1 + self.kl / 100)

    def backward(self, indices, share):
        losses = self.token_losses(indices)
        (losses.sum() * share).backward()
        self.model.seen += len(indices)
        return {"loss": losses.detach().sum(), "num_tokens": self.weight(indices)}

    def evaluate(self):
        """A figure that is best after 19 items, at step 3, and a text that changes."""
        seen = self.model.seen.item()
        text = {"prompt": "<b>", "completion": f"{self.model.embedding.sum().item()}"}
        return Measurement(
            {"eval_loss": abs(seen - 19) + 0.5, "eval_margin": seen},
            [text][: self.settings.samples],
        )

    def state(self):
        return {"kl": self.kl}

    def load_state(self, state):
        self.kl = state["kl"]

    def save(self, directory: Path):
        directory.mkdir()
        save_file({"embedding": self.model.embedding.detach()}, directory / "model.safetensors")


def run_toy(out, items=19, dtype=torch.float32, data_seed=0, **changes):
    """Train a toy in the folder `out`; returns the stage."""
    stage = Toy(ToySettings(**{"out": str(out), "steps": 10} | changes), items, dtype, data_seed)
    train(stage)
    return stage
