"""The page `docs/trl.md`, from what was compared."""

from oracle.losses import NOT_HERE
from oracle.rows import DIFFERENT, Row, markdown
from oracle.templates import CHANGES, RELATIONS, SHORT

COLUMNS = ("ours", "TRL", "difference", "verdict")


def text(
    versions: dict[str, str],
    losses: tuple[list[Row], float],
    metrics: tuple[list[Row], dict[str, list[str]]],
    conversations: dict[str, dict[str, str]],
    texts: dict[str, str],
) -> str:
    """The page, of the results of `losses`, `metrics` and `templates`."""
    named = {"trl": "TRL"}
    used = ", ".join(f"{named.get(name, name)} {version}" for name, version in versions.items())
    sections = [
        ["# Compared with TRL"],
        [f"Written by `python scripts/trl_oracle.py` with {used}; every number and verdict is the "
         "script's. *Equal* is what agrees to rounding, *explained* what differs for a reason that "
         "was tested: with the reason taken away it is equal."],
        *_losses(*losses),
        *_metrics(*metrics),
        *_token_ids(conversations, texts),
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _losses(rows: list[Row], rounding: float) -> list[list[str]]:
    return [
        ["## Losses"],
        ["TRL's trainer makes a batch of six pairs of unequal lengths, computes its loss and goes "
         "back to the parameters of a GPT-2; ours is `choose_loss` at our log-probabilities of the "
         "same token ids, or `kto_loss` with the same mismatched answers for z_0. Two settings of "
         "beta and of what else a loss is told; values are those of the first, the difference is "
         "the larger of value and gradient, relative, in float64, with TRL's log-probabilities in "
         f"float64 too. As it comes it takes them in float32: then the largest is {rounding:.0e}, "
         "on a GPT-2 and a Llama."],
        markdown(rows, ("loss", *COLUMNS)),
        [f"TRL has, and we have not: {NOT_HERE}."],
    ]  # fmt: skip


def _metrics(rows: list[Row], alone: dict[str, list[str]]) -> list[list[str]]:
    listed = [f"`{name}`" for name in alone["TRL"]]
    return [
        ["## Log and weights"],
        ["Ten steps of AdamW in float32 from the same folder, on the same batches in the same "
         "order: a GPT-2, and a Llama with two micro-batches a step. Values are those of the last "
         "step of the run that differs more, of held-out means those of the one that differs most;"
         " the difference is the largest of all steps, relative "
         "to the column's largest value."],
        markdown(rows, ("column", *COLUMNS)),
        [f"TRL logs, and we do not: {', '.join(listed)}."],
    ]  # fmt: skip


def _token_ids(conversations: dict[str, dict[str, str]], texts: dict[str, str]) -> list[list[str]]:
    names = list(next(iter(conversations.values())))
    reasons = {letter: why for letter, (_, why) in (CHANGES | RELATIONS).items()}
    return [
        ["## Token ids"],
        ["Prompt, chosen and rejected as TRL's collator hands them to the model, and as our "
         f"reader gives them. *Cut*: with max_length {SHORT}. A letter is explained below."],
        [f"| chat template | {' | '.join(names)} |",
         f"|---{'|---' * len(names)}|",
         *(f"| {name} | {' | '.join(row.values())} |" for name, row in conversations.items())],
        ["| other rows | | | |", "|---|---|---|---|", *_two_abreast(texts)],
        [f"- {letter}: {why}." for letter, why in sorted(reasons.items())],
    ]  # fmt: skip


def _two_abreast(verdicts: dict[str, str]) -> list[str]:
    cells = [f"{name} | {verdict}" for name, verdict in verdicts.items()]
    cells += [" | "] * (len(cells) % 2)
    return [f"| {left} | {right} |" for left, right in zip(cells[::2], cells[1::2], strict=True)]


__all__ = ["DIFFERENT", "text"]
