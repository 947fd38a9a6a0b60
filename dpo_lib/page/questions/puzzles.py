"""Derivations as puzzles: steps to put in order, gaps to fill."""

import re
from collections.abc import Mapping, Sequence

from dpo_lib.page.questions.question import Question, distinct
from dpo_lib.page.questions.words import listed, rich, shuffled

GAP = re.compile(r"\[(\d+)\]")


def arrange(
    name: str,
    question: str,
    steps: Sequence[str],
    extra: Mapping[str, str] | None = None,
    hint: str = "",
    solution: str = "",
) -> Question:
    """Ask for the order of the steps of a proof.

    Args:
        name: small letters, digits and hyphens; unique in the book. The order in which the steps
            are offered depends on it alone.
        question: its text.
        steps: in the right order.
        extra: wrong steps that are offered too -> why each belongs nowhere.
        hint: shown folded, and said after a wrong order.
        solution: shown with the right order.

    Returns:
        an object that a notebook and the book show.

    Raises:
        ValueError: if two steps are the same, or there are fewer than two.
    """
    extra = dict(extra or {})
    steps = distinct(steps, "steps")
    offered = shuffled(distinct([*steps, *extra], "steps and wrong steps"), name)
    data = {
        "steps": [rich(step) for step in offered],
        "answer": [offered.index(step) for step in steps],
        "slips": {offered.index(step): rich(why) for step, why in extra.items()},
    }
    order = "\n\n".join(f"{place}. {step}" for place, step in enumerate(steps, 1))
    shown = f"{order}\n\n{solution}"
    return Question(name, "order", question, data, listed(offered, "dpo-choices"), hint, shown)


def blanks(
    name: str,
    question: str,
    template: str,
    options: Sequence[str],
    answer: Sequence[str],
    slips: Mapping[str | tuple[int, str], str] | None = None,
    hint: str = "",
    solution: str = "",
) -> Question:
    """Ask for what is missing in a derivation.

    The gaps are chosen from lists, so the options are Unicode, without ``$…$``:

        blanks("refill-4", "Fill in equation (4).", "π*(y|x) = [1] · exp([2]) / [3]",
               options=("π_ref(y|x)", "π(y|x)", "r(x, y)/β", "β r(x, y)", "Z(x)"),
               answer=("π_ref(y|x)", "r(x, y)/β", "Z(x)"),
               slips={"β r(x, y)": "a large β holds the policy back, so β divides"})

    Args:
        name: small letters, digits and hyphens; unique in the book.
        question: its text.
        template: the lines of the derivation, with the gaps `[1]`, `[2]`, … in them.
        options: what every gap is offered, in the order of the name as in `arrange`.
        answer: the right filling of gap 1, of gap 2, and so on.
        slips: a wrong filling -> what went wrong; or (gap, filling), where it is right elsewhere.
        hint: shown folded, and said after a wrong filling.
        solution: shown with the right filling.

    Returns:
        an object that a notebook and the book show.

    Raises:
        ValueError: if gaps and answers do not match, if an answer or a slip is no option, or if a
            slip is the right filling.
    """
    offered = shuffled(distinct(options, "options"), name)
    gaps = [int(gap) for gap in GAP.findall(template)]
    if sorted(gaps) != list(range(1, len(answer) + 1)):
        raise ValueError(f"gaps {gaps} in the template, but {len(answer)} answers")
    if missing := [text for text in answer if text not in offered]:
        raise ValueError(f"the answers {missing} are not among the options")
    data = {
        "options": offered,
        "answer": [offered.index(text) for text in answer],
        "slips": _by_gap(slips or {}, offered, answer),
    }
    lines = template.strip().splitlines()
    body = "".join(f'<p class="dpo-line">{_gapped(rich(line.strip()))}</p>' for line in lines)
    body += listed(offered, "dpo-choices")
    filled = GAP.sub(lambda gap: answer[int(gap[1]) - 1], template)
    shown = "\n\n".join(filled.strip().splitlines())
    return Question(name, "blanks", question, data, body, hint, f"{shown}\n\n{solution}")


def _gapped(line: str) -> str:
    """A line's HTML with an element for each gap."""
    return GAP.sub(lambda gap: f'<span class="dpo-gap" data-gap="{gap[1]}">[{gap[1]}]</span>', line)


def _by_gap(slips, offered: list[str], answer: Sequence[str]) -> dict[str, str]:
    """Slips by "gap/option", counted from 0; a slip without a gap counts wherever it is wrong."""
    found = {}
    for key, why in sorted(slips.items(), key=lambda slip: isinstance(slip[0], tuple)):
        gap, text = key if isinstance(key, tuple) else (None, key)
        if text not in offered:
            raise ValueError(f"the slip {text!r} is not among the options")
        if gap is not None and answer[gap - 1] == text:
            raise ValueError(f"{text!r} is the right filling of gap {gap}, and among the slips")
        for place, right in enumerate(answer):
            if gap in (None, place + 1) and right != text:
                found[f"{place}/{offered.index(text)}"] = rich(why)
    return found
