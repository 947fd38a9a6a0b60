"""The reference's log-probabilities of a run's data, kept in the run's folder."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpo_lib.language_model.files import discard, whole
from dpo_lib.language_model.settings import TrainingError


def save_scores(path: Path, key: dict[str, str], logps: Tensor) -> None:
    """Write log-probabilities with all they depend on, whole or not at all."""
    try:
        if path.is_dir():  # damaged beyond `load_scores`
            discard(path)
        with whole(path) as [scratch]:
            save_file({"logps": logps}, scratch, metadata=_signed(key, logps))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"{path}: cannot save: {reason}") from None


def load_scores(path: Path, key: dict[str, str]) -> Tensor | None:
    """What `save_scores` wrote under this key; None if it is of another key, damaged or not there.

    Scores of other data or of another reference are thus computed again, never used.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found, logps = file.metadata(), file.get_tensor("logps")
    except (OSError, SafetensorError):
        return None
    return logps if found == _signed(key, logps) else None


def _signed(key: dict[str, str], logps: Tensor) -> dict[str, str]:
    """The key and the scores' SHA-256, as one text: safetensors would shuffle several."""
    digest = hashlib.sha256(logps.contiguous().view(torch.uint8).numpy()).hexdigest()
    return {"key": json.dumps(key | {"sha256": digest}, sort_keys=True)}
