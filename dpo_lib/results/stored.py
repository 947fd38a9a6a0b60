"""A result in a file: signed when it is written, refused when it is damaged."""

import hashlib
import json
from importlib import resources

STORED = resources.files(__package__)  # this folder: frontier_tiny.json is in it


class ResultError(ValueError):
    """Why a stored result cannot be used, in one line."""


def read(path=STORED / "frontier_tiny.json") -> dict:
    """A stored result whose content is what its hash says.

    Raises:
        ResultError: if it is damaged, in one line.
    """
    try:
        result = dict(json.loads(path.read_text()))
    except ValueError:
        raise ResultError(f"{path}: is not JSON") from None
    if result.get("sha256") != digest(result):
        raise ResultError(f"{path}: its content is not that of its sha256")
    return result


def signed(result: dict) -> dict:
    return result | {"sha256": digest(result)}


def digest(result: dict) -> str:
    """SHA-256 of a result without its own "sha256"."""
    content = {key: value for key, value in result.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
