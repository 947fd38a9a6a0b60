"""What a run of the ledger found, as Markdown: a table of counts, and each statement in words."""

from collections.abc import Mapping, Sequence

from dpo_lib.statements.ledger.checking import Outcome
from dpo_lib.statements.ledger.kernel import statement, witnesses

Axioms = Mapping[str, frozenset[str]] | str  # what `check_kernel` returns


def table(outcomes: Sequence[Outcome], mutant_count: int = 20, kernel: Axioms = "not asked") -> str:
    """The ledger at a glance, a Markdown table of counts."""
    lines = [
        "| No. | Statement | steps proved | controls refuted | worlds held | mutant caught "
        "| noticed by | kernel |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for found in outcomes:
        row = found.statement
        counts = (found.steps, found.controls, found.cases)
        caught = f"{found.caught[row.number]} of {mutant_count} | {len(found.caught)}"
        counted = f"{' | '.join(map(str, counts))} | {caught} | {_counted(row.number, kernel)}"
        lines.append(f"| {row.number} | {row.title} | {counted} |")
    return "\n".join(lines)


def details(outcomes: Sequence[Outcome], kernel: Axioms = "not asked") -> str:
    """The ledger in words, a Markdown paragraph and list for each statement."""
    return "\n\n".join(_in_words(found, kernel) for found in outcomes)


def _counted(number: str, kernel: Axioms) -> str:
    """How many theorems a kernel accepted, or why none."""
    if isinstance(kernel, str):
        return kernel
    witness = witnesses()[number]
    return witness.reason or f"{len(witness.theorems)} + {len(witness.twins)}"


def _accepted(number: str, kernel: Axioms) -> str:
    if isinstance(kernel, str):
        return kernel
    witness = witnesses()[number]
    if witness.reason:
        return witness.reason
    names, twins = (", ".join(map("`{}`".format, n)) for n in (witness.theorems, witness.twins))
    resting = sorted(set.union(*(set(kernel[name]) for name in witness.theorems)))
    axioms = ", ".join(f"`{name.split('.')[-1]}`" for name in resting) or "none"
    return (
        f"`proofs/{witness.file}`: {names}; adds {witness.adds}. "
        f"*Refuted twin:* {twins}, {witness.twin_says}. *Axioms:* {axioms}"
    )


def _statements(number: str, kernel: Axioms) -> str:
    """What a kernel accepted, theorems and twins, folded."""
    witness = witnesses().get(number)
    if isinstance(kernel, str) or witness is None or witness.reason:
        return ""
    texts = "\n\n".join(map(statement, (*witness.theorems, *witness.twins)))
    title = "<summary>What the kernel has accepted</summary>"
    return f"\n\n<details>{title}\n\n```coq\n{texts}\n```\n\n</details>"


def _in_words(found: Outcome, kernel: Axioms) -> str:
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
        + f"\n- *kernel:* {_accepted(row.number, kernel)}"
        + _statements(row.number, kernel)
    )
