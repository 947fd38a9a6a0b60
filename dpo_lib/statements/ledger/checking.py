"""How statements are checked: proofs, properties on random worlds, mutants of the library."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dpo_lib.statements.ledger.case import Case, cases
from dpo_lib.statements.ledger.statement import Statement


@dataclass(frozen=True)
class Outcome:
    """What `run` found for one statement."""

    statement: Statement
    steps: int  # sympy steps proved
    controls: int  # sympy controls refuted
    cases: int  # random worlds on which the property held
    caught: dict[str, int]  # number of a statement -> worlds on which it noticed the mutant


@contextlib.contextmanager
def mutated(function: str, mutant: Callable) -> Iterator[None]:
    """Replace a library function everywhere in dpo_lib, and put it back at the end."""
    module, _, name = function.rpartition(".")
    original = getattr(sys.modules[f"dpo_lib.{module}"], name)
    ours = [place for path, place in sys.modules.items() if path.split(".")[0] == "dpo_lib"]
    places = [(place, key) for place in ours
              for key, value in vars(place).items() if value is original]  # fmt: skip
    try:
        for place, key in places:
            setattr(place, key, mutant)
        yield
    finally:
        for place, key in places:
            setattr(place, key, original)


def holds(statement: Statement, case: Case) -> bool:
    """Whether the statement's property holds on a case; a raised error counts as failing."""
    try:
        statement.property(case)
    except (AssertionError, ValueError):
        return False
    return True


def noticed(
    statement: Statement, statements: Sequence[Statement], drawn: Sequence[Case]
) -> dict[str, int]:
    """On how many cases each property fails while the statement's mutant is in place."""
    with mutated(statement.function, statement.mutant):
        failures = {
            other.number: sum(not holds(other, case) for case in drawn) for other in statements
        }
    return {number: count for number, count in failures.items() if count}


def run(statements: Sequence[Statement], count: int = 50, mutant_count: int = 20) -> list[Outcome]:
    """Check a ledger: proofs, properties on `count` worlds, mutants on `mutant_count` of them.

    Raises:
        AssertionError: if a proof or a property fails, or the properties that notice a mutant
            are not those that the ledger names.
    """
    drawn, outcomes = list(cases(count)), []
    for statement in statements:
        proof = statement.proof()
        proof.check()
        for case in drawn:
            statement.property(case)
        caught = noticed(statement, statements, drawn[:mutant_count])
        named = statement.noticed_by
        assert caught.keys() == named, (
            f"{statement.number}: its mutant breaks {sorted(caught)}, not {sorted(named)}"
        )
        sizes = len(proof.steps), len(proof.controls)
        outcomes.append(Outcome(statement, *sizes, count, caught))
    return outcomes
