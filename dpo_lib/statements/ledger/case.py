"""The random worlds on which the ledger checks its properties."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.world import World, random_world


@dataclass(frozen=True)
class Case:
    """A random world, a beta, and a random policy on the reference's support."""

    world: World
    beta: float
    log_policy: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, float]:
        return self.world.true_reward, self.world.log_ref, self.beta

    @property
    def impossible(self) -> Tensor:
        """Where the reference is 0, bool of shape (prompts, responses)."""
        return self.world.log_ref.isneginf()

    @property
    def ranking(self) -> Tensor:
        """All possible responses of each prompt in an order that the rewards do not know."""
        possible = self.world.responses - int(self.impossible[0].sum())
        return self.log_policy.argsort(-1, descending=True)[..., :possible]

    @property
    def pairs(self) -> tuple[Tensor, ...]:
        """Log-probabilities of two responses to each prompt, policy first, then reference."""
        w, l = self.ranking[..., :1], self.ranking[..., 1:2]  # noqa: E741
        tables = (self.log_policy, self.world.log_ref)
        return tuple(table.gather(-1, y)[..., 0] for table in tables for y in (w, l))


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Random cases: 1-10 prompts, 2-50 responses, some impossible, beta from 0.05 to 20."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        prompts, responses = (int(torch.randint(a, b, (), generator=generator))
                              for a, b in ((1, 11), (2, 51)))  # fmt: skip
        impossible = int(torch.randint(0, responses - 1, (), generator=generator))
        world = random_world(generator, prompts, responses, impossible=impossible)
        log_beta = torch.empty(()).uniform_(math.log(0.05), math.log(20), generator=generator)
        noise = torch.randn(world.log_ref.shape, generator=generator, dtype=torch.float64)
        yield Case(world, log_beta.exp().item(), (world.log_ref + noise).log_softmax(-1))
