"""A row of the ledger: a statement with its function, proof, property, mutant, chapter."""

from collections.abc import Callable
from dataclasses import dataclass

from dpo_lib.statements.ledger.case import Case
from dpo_lib.statements.proofs import PROOFS, Proof


@dataclass(frozen=True)
class Statement:
    """One row of the ledger."""

    number: str
    title: str
    formula: str  # TeX
    function: str  # "module.name" in dpo_lib
    proof: Callable[[], Proof]
    property: Callable[[Case], None]  # raises AssertionError; its docstring is the claim
    mutant: Callable  # takes the place of `function`; its docstring says what is wrong
    noticed_by: frozenset[str]  # numbers of all statements whose property the mutant breaks
    chapter: str  # file name in book/


def enter(
    rows: list[Statement], number: str, title: str, formula: str, function: str, mutant: Callable,
    chapter: str, also: str = "",
):  # fmt: skip
    """Enter the decorated property, with what belongs to it, into `rows`.

    Args:
        also: the other statements, separated by "; ", whose properties notice the mutant.
    """
    noticed_by = frozenset({number, *also.split("; ")} - {""})
    proof = PROOFS[number]

    def entered(property_: Callable[[Case], None]):
        row = (number, title, formula, function, proof, property_, mutant, noticed_by, chapter)
        rows.append(Statement(*row))
        return property_

    return entered
