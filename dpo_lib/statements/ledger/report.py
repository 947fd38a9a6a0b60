"""What a run of the ledger found, as Markdown: a table of counts, and each statement in words."""

from collections.abc import Sequence

from dpo_lib.statements.ledger.checking import Outcome


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
