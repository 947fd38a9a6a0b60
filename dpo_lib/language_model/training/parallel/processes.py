"""One process, or several that share their sums.

Several are started by `accelerate launch` or by torchrun, the latter on CPUs too; see `sharding`
for FSDP.
Gradients are added once for each optimiser step, after the last micro-batch. Every process
divides by the whole batch from the start, so the sum is the gradient of the batch's mean, and a
stage may call its model as it likes: no wrapper has to see the forward pass.
"""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dpo_lib.language_model.training.parallel.sharding import is_sharded, is_wanted

T = TypeVar("T")


class Processes:
    """This process among the others."""

    def __init__(self, rank: int = 0, count: int = 1, sharded: bool = False):
        self.rank, self.count, self.sharded = rank, count, sharded
        self.main = rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def gather(self, value) -> list:
        """Everyone's value, in the order of the ranks, for everyone."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_main(self, work: Callable[[], T]) -> T:
        """All do the work, none waits; all take what the main process finds, or its ValueError."""
        try:
            found = work()
        except ValueError as error:
            found = error
        found = self.gather(found)[0]
        if isinstance(found, ValueError):
            raise found
        return found

    def any(self, signal: int) -> int:
        """The largest of everyone's numbers: all act on one process's signal, or none."""
        return max(self.gather(signal))

    def require_same(self, facts: dict) -> None:
        """Raise ValueError where processes have loaded different models or data."""
        for other in self.gather(facts):
            if other != facts:
                keys = ", ".join(key for key in facts if facts[key] != other.get(key))
                raise ValueError(f"the processes do not agree on: {keys}")

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place."""
        if self.count == 1:
            return
        by_kind: dict[tuple, list[Tensor]] = {}
        for parameter in parameters:
            if is_sharded(parameter):  # summed already
                continue
            if parameter.grad is None:  # no item of this batch fell to this process
                parameter.grad = torch.zeros_like(parameter)
            kind = (parameter.dtype, parameter.device)
            by_kind.setdefault(kind, []).append(parameter.grad)
        for gradients in by_kind.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            sizes = [gradient.numel() for gradient in gradients]
            for gradient, summed in zip(gradients, flat.split(sizes), strict=True):
                gradient.copy_(summed.view_as(gradient))


@lru_cache(maxsize=1)
def processes() -> Processes:
    """The processes of this run. Call it before a model goes to a GPU: it picks the GPU too."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes()
    from accelerate import PartialState  # slow to import, and needed only here

    # without `cpu` accelerate takes no notice of torchrun where there is no GPU
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, is_wanted())


def micro_batches(indices: list[int], accumulate: int, group: Processes) -> list[list[int]]:
    """This process's part of a batch, in at most `accumulate` pieces of nearly equal size."""
    mine = _split(indices, group.count)[group.rank]
    return [piece for piece in _split(mine, accumulate) if piece]


def _split(items: list[int], count: int) -> list[list[int]]:
    """`count` runs of nearly equal length, in order."""
    bounds = [len(items) * part // count for part in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


class Signals:
    """SIGTERM and SIGINT are remembered until the step is done; a second one is not held back."""

    def __init__(self):
        self.received = 0
        self.before: dict = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _) -> None:
        self.received = number
        self.__exit__()
        os.write(2, b"\nstopping after this step; once more stops at once\n")  # print may not nest
