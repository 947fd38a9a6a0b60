"""How the ledger is checked: random worlds, properties on them, and mutants of the library.

A *property* checks a function of the library on a random world against something computed
another way. A *mutant* is a plausible wrong version of that function. With the mutant in its
place throughout the library, the statement's own property must fail, and with it exactly the
properties that the ledger names: each check looks at what it claims to look at. The statements
themselves stand in `paper`, the mutants in `mutants`.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib.statements.proofs import Proof
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


@dataclass(frozen=True)
class Outcome:
    """What `run` found for one statement."""

    statement: Statement
    steps: int  # sympy steps proved
    controls: int  # sympy controls refuted
    cases: int  # random worlds on which the property held
    caught: dict[str, int]  # number of a statement -> worlds on which it noticed the mutant


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


@contextlib.contextmanager
def mutated(function: str, mutant: Callable) -> Iterator[None]:
    """Replace a library function everywhere in dpo_lib, and put it back at the end."""
    module, name = function.split(".")
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


def table(outcomes: Sequence[Outcome], mutant_count: int = 20) -> str:
    """The ledger at a glance, a Markdown table of counts."""
    lines = [
        "| No. | Statement | steps proved | controls refuted | worlds held | mutant caught "
        "| noticed by |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for found in outcomes:
        row = found.statement
        counts = (found.steps, found.controls, found.cases)
        caught = f"{found.caught[row.number]} of {mutant_count} | {len(found.caught)}"
        lines.append(f"| {row.number} | {row.title} | {' | '.join(map(str, counts))} | {caught} |")
    return "\n".join(lines)


def details(outcomes: Sequence[Outcome]) -> str:
    """The ledger in words, a Markdown paragraph and list for each statement."""
    return "\n\n".join(map(_in_words, outcomes))


def _in_words(found: Outcome) -> str:
    row = found.statement
    others = [number for number in found.caught if number != row.number]
    return (
        f"**{row.number}.** {row.title}: `{row.function}`, "
        f"[chapter {int(row.chapter[:2])}]({row.chapter}.ipynb)\n\n"
        f"$${row.formula}$$\n\n"
        f"- *proof:* `{row.proof.__module__.removeprefix('dpo_lib.')}.{row.proof.__name__}`; "
        f"steps: {found.steps}, controls: {found.controls}\n"
        f"- *property:* {row.property.__doc__}\n"
        f"- *mutant:* {row.mutant.__doc__}; noticed here"
        + (f" and by {', '.join(others)}" if others else " only")
    )
