"""What every self-check is made of: an attempt, the truth, the inputs, and the verdict."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.page.questions.words import folded
from dpo_lib.world import random_world


@dataclass(frozen=True)
class Verdict:
    """The outcome of a self-check: true if the exercise is solved.

    A stub that nobody has touched yet is no mistake: on a built page it leaves a folded hint.
    """

    passed: bool
    message: str
    hint: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        hint = f" Hint: {self.hint}" if self.hint else ""
        return f"{'Solved' if self.passed else 'Not yet'}: {self.message}{hint}"

    def _repr_html_(self) -> str | None:
        if self.passed or not os.environ.get("DPO_BOOK_BUILD"):
            return None  # a notebook then shows the sentence
        return folded("Hint", self.hint or self.message)


def compare(
    attempt: Callable,
    truth: Callable,
    inputs: Iterable[tuple],
    property_: str,
    hint: str,
    tolerance: float = 1e-9,
) -> Verdict:
    """Try `attempt` on each tuple of inputs against `truth`.

    Args:
        property_: what the right function does, in words, shown when it is found.
        hint: shown with the first input on which the two differ.
        tolerance: largest allowed difference, absolute and relative.
    """
    for trial, arguments in enumerate(inputs, start=1):
        wanted = torch.as_tensor(truth(*arguments), dtype=torch.float64)
        try:
            got = attempt(*arguments)
            if got is None:
                return Verdict(False, "the function returns nothing so far.", hint)
            got = torch.as_tensor(got, dtype=torch.float64)
        except Exception as error:  # whatever a reader's first draft raises
            return Verdict(False, f"it raised {type(error).__name__}: {error}.", hint)
        if got.shape != wanted.shape:
            shapes = f"shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            return Verdict(False, f"input {trial} gives {shapes}.", hint)
        if not torch.allclose(got, wanted, rtol=tolerance, atol=tolerance):
            return Verdict(False, f"input {trial} gives another value.", hint)
    return Verdict(True, property_)


def world_inputs(
    seed: int, betas: tuple[float, ...] = (0.1, 1.0, 10.0), **sizes
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """(reward, log_ref, beta) of random worlds, one for each beta."""
    generator = torch.Generator().manual_seed(seed)
    for beta in betas:
        world = random_world(generator, prompts=2, **sizes)
        yield world.true_reward, world.log_ref, beta


def gradient_of(total: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The gradient of a scalar function in its first argument, by autograd."""

    def gradient(first: Tensor, *others) -> Tensor:
        first = first.clone().requires_grad_()
        return torch.autograd.grad(total(first, *others), first)[0]

    return gradient
