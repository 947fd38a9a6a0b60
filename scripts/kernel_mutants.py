"""A change of one symbol in each statement makes its file fail.

`python scripts/kernel_mutants.py` goes through the theorems of proofs/statements.json. The
first of SWAPS that applies changes one symbol of the conclusion, at the last place where it
does, in a copy of the file that ends with this theorem. Where none applies, the last arrow
becomes "and", or the statement is denied. The changed statement must be well formed, which
Rocq confirms by admitting it, and the proof must be rejected. One line a theorem; exit 1 if
one is accepted or malformed. It wants `coqc` (or another path in $COQC), and
takes four minutes; with rows as arguments, `python scripts/kernel_mutants.py "(4)" Z`, it
changes only these.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROOFS = Path(__file__).resolve().parents[1] / "proofs"
COQC = os.environ.get("COQC", "coqc")
FILES = ("Sums.v", "Section3.v", "Section4.v", "Section5.v", "AppendixA.v")
SWAPS = (
    ("<->", "/\\"),
    ("<=", "<"),
    ("/ beta", "* beta"),
    ("-", "+"),
    ("+", "-"),
    ("=", "<"),
    ("<", ">"),
    ("exists", "forall"),
)
# A shift by f may be a shift by -f: there the swap of a sign leaves the statement true.
OTHERWISE = dict.fromkeys(
    (
        "normalised_reward_exists_once",
        "normalised_reward_keeps_preferences",
        "policy_is_optimal_for_its_implicit_reward",
    ),
    (("=", "<"),),
)


def compile_file(folder: Path, name: str, library: Path) -> bool:
    """Whether Rocq accepts the file."""
    command = [COQC, "-q", "-Q", str(library), "DPO", name]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


def parts(source: str, theorem: str) -> tuple[str, str, str]:
    """The source up to the name of a theorem, its statement, and its proof."""
    start = re.search(rf"Theorem {theorem}\b", source).end()
    proof = source.index("Proof.", start)
    end = source.index("Qed.", proof) + len("Qed.")
    return source[:start], source[start:proof], source[proof:end]


def open_sections(source: str) -> str:
    """The lines that end the sections still open, innermost first."""
    names: list[str] = []
    for opened, closed in re.findall(r"^Section (\w+)\.|^End (\w+)\.", source, re.MULTILINE):
        names.append(opened) if opened else names.remove(closed)
    return "".join(f"\nEnd {name}." for name in reversed(names))


def outer(statement: str, symbol: str) -> int:
    """Where the last such symbol outside brackets starts, or -1."""
    depth, last = 0, -1
    for place, character in enumerate(statement):
        depth += (character in "({[") - (character in ")}]")
        if depth == 0 and statement.startswith(f" {symbol}", place):
            last = place + 1
    return last


def change(theorem: str, statement: str) -> tuple[str, str, str]:
    """The changed statement, the symbol before and after."""
    arrow, colon = outer(statement, "->"), outer(statement, ":")
    start = max(arrow, colon)
    for old, new in OTHERWISE.get(theorem, SWAPS):
        pattern = rf"(?<=[\w\])>])\s+{re.escape(old)}(?=[\s)])"
        places = list(re.finditer(pattern, statement[start:]))
        if places:
            end = start + places[-1].end()
            return statement[: end - len(old)] + new + statement[end:], old, new
    if arrow >= 0:
        return statement[:arrow] + "/\\" + statement[arrow + 2 :], "->", "/\\"
    return statement[:colon] + ": ~ (" + statement[colon + 1 :].rstrip()[:-1] + ").\n", "", "~"


with tempfile.TemporaryDirectory() as temporary:
    library, folder = Path(temporary, "library"), Path(temporary, "changed")
    library.mkdir()
    folder.mkdir()
    for name in FILES:
        shutil.copy(PROOFS / name, library)
        if not compile_file(library, name, library):
            sys.exit(f"{name} is rejected as it is")

    failures = count = 0
    rows = json.loads((PROOFS / "statements.json").read_text())
    for number, row in rows.items():
        if sys.argv[1:] and number not in sys.argv[1:]:
            continue
        for theorem in row.get("theorems", ()):
            before, statement, proof = parts((PROOFS / row["file"]).read_text(), theorem)
            changed, old, new = change(theorem, statement)
            copy, end = folder / row["file"], open_sections(before)
            copy.write_text(f"{before}{changed}Admitted.{end}\n")
            well_formed = compile_file(folder, copy.name, library)
            copy.write_text(f"{before}{changed}{proof}{end}\n")
            accepted = compile_file(folder, copy.name, library)
            verdict = "ACCEPTED" if accepted else "rejected" if well_formed else "MALFORMED"
            count += 1
            failures += verdict != "rejected"
            print(f"{verdict:9} {number:18} {theorem}: {old} -> {new}", flush=True)

print(f"{count} statements changed, {failures} of them accepted or malformed")
sys.exit(failures > 0)
