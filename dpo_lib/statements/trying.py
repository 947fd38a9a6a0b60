"""A cell of algebra that a reader has changed: is what it claims proved or refuted, and where.

The book's pages run this in the browser, where there is sympy and no torch. A claim is a call of
`is_zero` or `differs_from_zero`; a cell may also write a `prove_…` function that returns a
`Proof`, whose claims are then checked.
"""

import ast
import inspect
import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import NamedTuple

from sympy import Expr

from dpo_lib.statements import symbolic
from dpo_lib.statements.proofs import proof as proofs
from dpo_lib.statements.symbolic import identities
from dpo_lib.statements.witness import counterexample, in_words

CELL, SETUP = "<cell>", "<set-up>"
ASKED = {name: getattr(identities, name) for name in ("is_zero", "differs_from_zero")}
PLACES = (symbolic, identities, proofs)  # where cells and proofs find the two


@dataclass(frozen=True)
class Verdict:
    """What became of a cell."""

    word: str  # proved, refuted, undecided or error
    sentence: str
    printed: str = ""  # what the cell printed until then


class Claim(NamedTuple):
    """One question that a cell asked, with its answer."""

    asks: str  # is_zero or differs_from_zero
    expression: Expr
    answer: bool
    lines: frozenset[int]  # of the cell, that were being run

    def within(self, node: ast.AST | None) -> bool:
        """Whether it was asked by a statement of the cell."""
        return node is not None and any(node.lineno <= n <= node.end_lineno for n in self.lines)


def attempt(setup: str, source: str) -> Verdict:
    """Run a cell after its set-up, both in one namespace, and say what became of its claims."""
    printed = io.StringIO()
    with redirect_stdout(printed), _watched() as claims:
        word, sentence = _outcome(setup, source, claims)
    return Verdict(word, sentence, printed.getvalue())


def _outcome(setup: str, source: str, claims: list[Claim]) -> tuple[str, str]:
    namespace = {"__name__": "cell"}
    try:
        exec(compile(setup, SETUP, "exec"), namespace)
        before = dict(namespace)
        claims.clear()
        exec(compile(source, CELL, "exec"), namespace)
        new = {name: value for name, value in namespace.items() if value is not before.get(name)}
        for name in sorted(name for name in new if name.startswith("prove_")):
            if failed := _check(new[name](), claims):
                return failed
    except AssertionError as failure:
        return _broken(failure, source, claims)
    except (Exception, SystemExit) as error:  # whatever a reader may write
        return "error", _in_one_line(error)
    return _held(source, claims)


def _check(proof: proofs.Proof, claims: list[Claim]) -> tuple[str, str] | None:
    """What became of the first claim of a proof that fails."""
    try:
        proof.check()
    except AssertionError as failure:
        return _judged(claims[-1], f"“{str(failure).partition(': ')[2]}”")
    return None


@contextmanager
def _watched() -> Iterator[list[Claim]]:
    """While it lasts, every question asked of an identity is added to the list."""
    claims: list[Claim] = []

    def watch(name: str) -> Callable[[Expr], bool]:
        def ask(expression):
            answer = ASKED[name](expression)
            claims.append(Claim(name, expression, answer, _lines()))
            return answer

        return ask

    def put(questions: dict[str, Callable]) -> None:
        for place in PLACES:
            vars(place).update(questions)

    put({name: watch(name) for name in ASKED})
    try:
        yield claims
    finally:
        put(ASKED)


def _lines() -> frozenset[int]:
    """The lines of the cell that are being run, the innermost call's and those around it."""
    frames = (frame for frame, _ in traceback.walk_stack(inspect.currentframe()))
    return frozenset(f.f_lineno for f in frames if f.f_code.co_filename == CELL)


def _asserts(source: str) -> list[ast.Assert]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]


def _held(source: str, claims: list[Claim]) -> tuple[str, str]:
    """A cell that ran to its end; of what it did not assert the answer counts."""
    asserts = _asserts(source)
    for claim in claims:
        if not claim.answer and not any(map(claim.within, asserts)):
            return _judged(claim, f"line {min(claim.lines, default=1)}")
    proved, refuted = (sum(c.asks == name and c.answer for c in claims) for name in ASKED)
    if not proved + refuted:
        return "undecided", "The cell ran and claimed nothing: write assert is_zero(left - right)."
    said = [_counted(proved, "claim")] if proved else []
    said += [f"{_counted(refuted, 'false claim')} refuted"] if refuted else []
    return "proved", f"Proved: {', '.join(said)}."


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _broken(failure: AssertionError, source: str, claims: list[Claim]) -> tuple[str, str]:
    """Which claim an assertion failed for."""
    line = _line(failure, CELL)
    node = next((n for n in _asserts(source) if n.lineno <= (line or 0) <= n.end_lineno), None)
    if claims and claims[-1].within(node):
        return _judged(claims[-1], f"line {node.lineno}")
    if node is None:
        return "error", _in_one_line(failure)
    said = str(failure) or ast.get_source_segment(source, node.test)
    return "refuted", f"Refuted: line {line} does not hold, {' '.join(said.split())}"


def _judged(claim: Claim, where: str) -> tuple[str, str]:
    """Of a claim that failed: is it wrong, or is sympy not able to tell?"""
    if claim.answer:
        return "refuted", f"Refuted: {where} does not hold."
    if claim.asks == "is_zero":
        if found := counterexample(claim.expression):
            point, size = found
            at = f" at {in_words(point)}" if point else ""
            return "refuted", f"Refuted{at}: the two sides of {where} differ by {size:.2g}."
        return "undecided", (
            f"Undecided: sympy does not prove {where}, and no point was found where it fails."
        )
    if ASKED["is_zero"](claim.expression):
        return "refuted", f"Refuted: {where} says that two sides differ, and they are equal."
    return "undecided", f"Undecided: {where} is neither proved nor refuted."


def _line(error: BaseException, file: str) -> int | None:
    """The line of a file on which an error arose."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    return lines[-1] if lines else None


def _in_one_line(error: BaseException) -> str:
    """`NameError on line 3: name 'x' is not defined`."""
    here, above = _line(error, CELL), _line(error, SETUP)
    place = f"on line {here}" if here else f"in the set-up, line {above}" if above else "here"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__} {place}: {' '.join(text.split())}"
