"""What a model and a tokenizer are, as hashes: a run is bound to them."""

import hashlib

import torch
from torch import nn


def state_hash(model: nn.Module) -> str:
    """SHA-256 of the names, shapes, dtypes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_hash(tokenizer) -> str:
    """SHA-256 of all that a tokenizer does with a text: its rules, words and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(f"{rules} {tokenizer.eos_token_id}".encode()).hexdigest()
