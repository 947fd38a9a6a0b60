"""Checkpoints that are whole or not there: tensors and JSON, checksummed, renamed into place.

`save` writes one directory per checkpoint under a temporary name on the same file system, forces
every file to the disk, writes a manifest with sizes and SHA-256 last, and only then renames it;
older checkpoints go after that. A process killed at any byte leaves the previous checkpoint as
it was. `load` believes no file that does not match its manifest. Nothing here can run code:
safetensors and JSON, no other format.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dpo_lib.language_model.files import discard, json_bytes, sha256, whole

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
# torch's dtypes by the names of the safetensors format
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointError(ValueError):
    """Why a checkpoint cannot be written or read, in one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint as it was saved."""

    step: int  # optimiser steps taken
    tensors: dict[str, Tensor]  # on the CPU
    extras: dict  # JSON
    passed_over: tuple[str, ...] = ()  # newer ones that are damaged, "path: reason"


def save(
    run: Path,
    step: int,
    tensors: dict[str, Tensor],
    extras: dict,
    keep: int = 2,
    also: int | None = None,
) -> Path:
    """Write RUN/checkpoints/step-NNNNNN, whole or not at all; then keep the newest `keep`.

    What is newer than `step` is removed too: a run that fell back to an older checkpoint has
    passed a damaged one.

    Args:
        run: the run's folder.
        step: optimiser steps taken, at least 0.
        tensors: any devices and dtypes; shared storage is written once for each name.
        extras: what JSON can hold; floats come back to the bit.
        also: the step of another one to keep, if it is there.

    Raises:
        CheckpointError: the disk is full, say; the checkpoints there are untouched.
    """
    folder = Path(run) / "checkpoints"
    final = folder / f"step-{step:06d}"
    try:
        folder.mkdir(exist_ok=True)
        with whole(final) as [scratch]:
            scratch.mkdir()
            files = {
                TENSORS: _write(scratch / TENSORS, _safetensors(tensors)),
                STATE: _write(scratch / STATE, [json_bytes(extras)]),
            }
            _write(scratch / MANIFEST, [json_bytes({"format": 1, "step": step, "files": files})])
        steps = sorted(_steps(folder))
        kept = [also, *[other for other in steps if other <= step][-keep:]]
        for other in steps:
            if other not in kept:
                discard(folder / f"step-{other:06d}")
    except OSError as error:
        raise CheckpointError(f"{final}: cannot save: {error.strerror or error}") from None
    return final


def load(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None where none was ever saved.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    folder = Path(run) / "checkpoints"
    damaged = []
    for step in sorted(_steps(folder), reverse=True):
        try:
            return replace(load_at(run, step), passed_over=tuple(damaged))
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"no complete checkpoint; {'; '.join(damaged)}")
    return None


def load_at(run: Path, step: int) -> Checkpoint:
    """The checkpoint of one step; CheckpointError says why it cannot be had."""
    directory = Path(run) / "checkpoints" / f"step-{step:06d}"
    try:
        verify(directory, step)
        extras = json.loads((directory / STATE).read_text())
        return Checkpoint(step, load_file(directory / TENSORS), extras)
    except CheckpointError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: {getattr(error, 'strerror', None) or error}") from None


def verify(directory: Path, step: int) -> None:
    """Raise CheckpointError unless the directory holds what its manifest says, and just that."""
    if directory.is_symlink():
        raise CheckpointError(f"{directory}: a symbolic link is not followed")
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        files = {str(name): dict(entry) for name, entry in manifest["files"].items()}
        same_step = manifest["step"] == step
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{directory}: {MANIFEST} cannot be read") from None
    if not same_step:
        raise CheckpointError(f"{directory}: {MANIFEST} is for another step")
    for name in files:
        if name not in (TENSORS, STATE):  # so no "..", no absolute path, nothing unknown
            raise CheckpointError(f"{directory}: {MANIFEST} names {name!r}, which is refused")
    for name in (TENSORS, STATE):
        path = directory / name
        if name not in files or not path.exists():
            raise CheckpointError(f"{directory}: {name} is missing")
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(f"{path}: not a plain file")
        if path.stat().st_size != files[name].get("size"):
            raise CheckpointError(f"{path}: size differs from the manifest")
        if sha256(path) != files[name].get("sha256"):
            raise CheckpointError(f"{path}: SHA-256 differs from the manifest")


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and buffers by name, each once: GPT-2's head is its embedding.

    What is frozen, the base of an adapter, never changes; its hash is among those of the run.
    Each is the object itself, not an address: where a process has no part of a sharded one,
    the addresses of all are equal.
    """
    seen: set[int] = set()
    tensors = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        if id(tensor) not in seen and not frozen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


@torch.no_grad()
def copy_into(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Copy saved tensors into a module's own, in place, so that tied weights stay tied."""
    for name in sorted(own.keys() ^ saved.keys()):
        where = "the model" if name in saved else "the checkpoint"
        raise CheckpointError(f"{name} is missing in {where}")
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape or tensor.dtype != saved[name].dtype:
            have = f"{tuple(saved[name].shape)} {saved[name].dtype}"
            need = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise CheckpointError(f"{name} is {have} in the checkpoint, {need} in the model")
        tensor.copy_(saved[name])


def _safetensors(tensors: dict[str, Tensor]) -> Iterable[memoryview | bytes]:
    """The safetensors format piece by piece, so that a model is never in memory twice."""
    # Not the library's save_file: it holds a GPU's tensors on the CPU all at once, refuses shared
    # storage, and what it has written would be read again for the hash.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    header, end = {}, 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield memoryview(flat.view(torch.uint8).numpy())


def _write(path: Path, pieces: Iterable[memoryview | bytes]) -> dict:
    """Write a file and return its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(match[1]) for match in map(_NAME.fullmatch, names) if match]
