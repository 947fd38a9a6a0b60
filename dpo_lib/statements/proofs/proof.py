"""What a proof is: steps that sympy must prove, and controls that it must refute.

A step says that two sides are identical; a control is a tempting error.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sympy import Expr

from dpo_lib.statements.symbolic.identities import differs_from_zero, is_zero


@dataclass(frozen=True)
class Step:
    """A claim that two sides are equal; the residual is their difference."""

    claim: str
    residual: Expr


@dataclass(frozen=True)
class Proof:
    """A statement of the paper: steps that must hold and controls, false claims, that must not."""

    number: str
    title: str
    steps: tuple[Step, ...]
    controls: tuple[Step, ...]

    def check(self) -> None:
        """Prove every step and refute every control.

        Raises:
            AssertionError: naming the statement and the first claim that fails.
        """
        for step in self.steps:
            if not is_zero(step.residual):
                raise AssertionError(f"{self.number} not proved: {step.claim}")
        for control in self.controls:
            if not differs_from_zero(control.residual):
                raise AssertionError(f"{self.number} not refuted: {control.claim}")


def each(claim: str, left: Iterable[Expr], right: Iterable[Expr]) -> tuple[Step, ...]:
    """One step for each pair of components."""
    pairs = enumerate(zip(left, right, strict=True), start=1)
    return tuple(Step(f"{claim} [{i}]", a - b) for i, (a, b) in pairs)
