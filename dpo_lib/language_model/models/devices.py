"""Where a model computes, and in which precision."""

import torch

from dpo_lib.language_model.settings import Settings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The dtype to compute in (trained weights stay float32, see `load_policy`).

    "auto" is bfloat16 on a CUDA GPU that has it in hardware and float32 everywhere else.
    float16 is not offered: its range would need a loss scale.
    """
    if name == "auto":
        cuda = torch.device(device).type == "cuda"
        fast = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype must be auto, float32 or bfloat16, got {name}")
    return DTYPES[name]


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type to sum log-probabilities and rewards in, whatever a model computes in."""
    return torch.promote_types(dtype, torch.float32)


def precision(settings: Settings, device: torch.device):
    """The context to score in: autocast where settings.dtype asks for 16 bit, else nothing.

    Weights, gradients and optimiser stay as they are. Score policy and reference in the same.
    """
    dtype = pick_dtype(device, settings.dtype)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
