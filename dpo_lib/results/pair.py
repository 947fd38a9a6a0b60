"""One labelled pair of texts under two stored models, which several chapters look at."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.results.stored import STORED, read


@dataclass(frozen=True)
class StoredPair:
    """A held-out pair, and what each token of its answers got from policy and reference.

    `tokens` holds the tokens of "chosen" and "rejected" as text, the last one the end of the
    answer; `token_logps` their log-probabilities in nats, float64, shape (tokens,), under the
    keys policy_chosen, policy_rejected, ref_chosen and ref_rejected.
    """

    prompt: str
    chosen: str
    rejected: str
    beta: float  # at which the policy was trained
    tokens: dict[str, list[str]]
    token_logps: dict[str, Tensor]

    @property
    def logps(self) -> dict[str, Tensor]:
        """The four sums, shape (), under the names that `dpo_loss` takes."""
        return {f"{name}_logps": of_tokens.sum() for name, of_tokens in self.token_logps.items()}


def one_pair() -> StoredPair:
    """What scripts/one_pair.py has stored.

    Raises:
        ResultError: if it is damaged, in one line.
    """
    found = read(STORED / "one_pair.json")
    as_tensor = {
        name: torch.tensor(values, dtype=torch.float64)
        for name, values in found["token_logps"].items()
    }
    texts = {name: found[name] for name in ("prompt", "chosen", "rejected", "beta", "tokens")}
    return StoredPair(**texts, token_logps=as_tensor)
