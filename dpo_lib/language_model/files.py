"""Files and folders that are written whole or not at all, whenever the process is killed.

What is new is built under a hidden name on the same file system, forced to the disk, and only
then renamed into place. A folder cannot be renamed onto a full one: the old one stands aside until
the new one has its name, and `standing` finds it there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp-"  # a name that starts so is a leftover, never a result


@contextmanager
def whole(*finals: Path) -> Iterator[list[Path]]:
    """Paths to build files or folders at; they become `finals` if the block ends well.

    Each lies in a folder of its own beside its final path, so that whatever the block makes next
    to it is a leftover too. None takes its name before all are on the disk.

    Raises:
        OSError: the disk is full, say; what had these names has them still, and no litter stays.
    """
    scratches = [_hidden(final) for final in finals]
    built = [scratch / final.name for scratch, final in zip(scratches, finals, strict=True)]
    try:
        for scratch, final in zip(scratches, finals, strict=True):
            _take_back(final)
            _remove(scratch)
            scratch.mkdir()
        yield built
        for path in built:
            _force_all(path)
        for path, final in zip(built, finals, strict=True):
            _publish(path, final)
        for final in finals:
            _force_to_disk(final.parent)
            if final.is_dir():
                with suppress(OSError):  # it is saved by now
                    _remove(_aside(final))
    finally:
        with suppress(OSError):
            for scratch in scratches:
                _remove(scratch)


def write(contents: dict[Path, bytes]) -> None:
    """Write files; each is the old one or the new one, and none is new before all can be."""
    with whole(*contents) as built:
        for path, content in zip(built, contents.values(), strict=True):
            with open(path, "wb") as file:
                file.write(content)


def write_json(path: Path, value) -> None:
    """A small JSON file, replaced whole or not at all."""
    write({path: json_bytes(value)})


def json_bytes(value) -> bytes:
    """JSON as every file here has it; a NaN is refused with a ValueError."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def standing(final: Path) -> Path:
    """Where the folder is that has this name, or had it when a process was killed replacing it."""
    aside = _aside(final)
    return aside if aside.is_dir() and not final.exists() else final


def discard(path: Path) -> None:
    """Remove a file or folder that no reader may see half removed."""
    if os.path.lexists(path):
        scratch = _hidden(path, "old-")
        _remove(scratch)
        os.rename(path, scratch)
        _remove(scratch)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        _remove(leftover)


def _hidden(final: Path, word: str = "") -> Path:
    return final.with_name(f"{TEMPORARY}{word}{final.name}")


def _aside(final: Path) -> Path:
    # no leftover: for a moment it is all that there is
    return final.with_name(f".{final.name}.old")


def _take_back(final: Path) -> None:
    if (found := standing(final)) != final:
        os.rename(found, final)


def _publish(built: Path, final: Path) -> None:
    if built.is_dir() and os.path.lexists(final):
        _remove(_aside(final))
        os.rename(final, _aside(final))
    os.replace(built, final)


def _force_all(path: Path) -> None:
    """Files first, then the folders that name them: no power cut can turn that round."""
    for inner in sorted(path.rglob("*")):
        _force_to_disk(inner)
    _force_to_disk(path)


def _force_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows does not open directories
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
