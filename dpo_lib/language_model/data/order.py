"""Which items a step trains on: pure functions of the seed and the step, so a resume is exact."""

import hashlib
import math
from functools import lru_cache

import torch


def derive_seed(seed: int, *counters: int) -> int:
    """A seed for a `torch.Generator`, from (seed, epoch) or (seed, step): nothing to save.

    Through a hash, because torch's CPU generator looks at the low 32 bits only.
    """
    digest = hashlib.sha256(repr((seed, *counters)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, items: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    return tuple(torch.randperm(items, generator=generator).tolist())


def batch_indices(seed: int, step: int, batch_size: int, items: int) -> list[int]:
    """The items of optimiser step `step` (1, 2, ...): a pure function, so a resume is exact.

    Each epoch is a fresh permutation, cut into batches; its last batch may be shorter.
    """
    epoch, batch = divmod(step - 1, math.ceil(items / batch_size))
    return list(_permutation(seed, epoch, items)[batch * batch_size : (batch + 1) * batch_size])


def next_items(seed: int, number: int, count: int, items: int) -> list[int]:
    """The `count` items of draw `number` (0, 1, ...): every item once before any comes again."""
    places = range(number * count + 1, (number + 1) * count + 1)
    return [batch_indices(seed, place, 1, items)[0] for place in places]
