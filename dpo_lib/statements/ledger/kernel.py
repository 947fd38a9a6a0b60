"""What a proof kernel says: the files of proofs/, compiled by Rocq and asked for their axioms.

sympy proves identities between terms that are written out; Rocq accepts a statement for any finite
number of prompts and answers, inequalities and uniqueness among them. proofs/statements.json
names, for each row of the ledger, the theorems, and the twins: theorems which say that a plausible
false version of the statement *is* false.
"""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "proofs"  # in a checkout; not in an installed copy
# What the standard library's real numbers and their analysis rest on, and nothing else.
AXIOMS = frozenset({
    "Classical_Prop.classic",
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
})  # fmt: skip


@dataclass(frozen=True)
class Witness:
    """What proofs/ holds for one row of the ledger; without theorems, `reason` says why."""

    file: str = ""
    theorems: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()  # each the negation of a false statement
    twin_says: str = ""  # what is wrong in it, in words
    adds: str = ""  # what the kernel adds to sympy's identity
    reason: str = ""


@cache
def witnesses() -> dict[str, Witness]:
    """The witness of each row, by its number; {} where there is no folder proofs/."""
    path = FOLDER / "statements.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8")).items()
    lists = ("theorems", "twins")
    return {
        number: Witness(**{k: tuple(v) if k in lists else v for k, v in row.items()})
        for number, row in rows
    }


def statement(name: str) -> str:
    """The text of a theorem of proofs/, from its name to its full stop, without its proof.

    Raises:
        KeyError: there is none of this name.
    """
    for path in sorted(FOLDER.glob("*.v")):
        text = path.read_text(encoding="utf-8")
        if found := re.search(rf"^ *Theorem {name}\b.*?\.(?=\s+Proof\.)", text, re.M | re.S):
            lines = found[0].splitlines()
            indent = len(lines[0]) - len(lines[0].lstrip())
            return "\n".join(line[indent:] for line in lines)
    raise KeyError(f"no theorem {name} in {FOLDER}")


def check_kernel() -> dict[str, frozenset[str]] | str:
    """Compile all files from clean, and ask on which axioms each theorem rests.

    Returns:
        the axioms of each theorem and twin that a row names; or why nothing could be run here.

    Raises:
        AssertionError: a file is refused, or a theorem rests on more than `AXIOMS`; names it.
    """
    if not FOLDER.exists():
        return "not run here: proofs/ is not part of an installed copy"
    if not shutil.which("coqc"):
        return "not run here: there is no coqc"
    files = re.findall(r"^(\w+)\.v$", (FOLDER / "_CoqProject").read_text(), re.M)
    names = [n for w in witnesses().values() for n in (*w.theorems, *w.twins)]
    asked = "".join(
        f'Goal True. idtac "== {name}". Abort.\nPrint Assumptions {name}.\n' for name in names
    )
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copy(FOLDER / f"{file}.v", folder)
            _coqc(folder, file)
        Path(folder, "Asked.v").write_text(f"From DPO Require Import {' '.join(files)}.\n{asked}")
        answers = _coqc(folder, "Asked").split("== ")[1:]
    found = {}
    for answer in answers:
        name, _, said = answer.partition("\n")
        found[name] = frozenset(
            re.findall(r"^([\w.]+)(?= *:|$)", said.replace("Axioms:", ""), re.M)
        )
        more = found[name] - AXIOMS
        assert not more, f"{name} rests on {', '.join(sorted(more))}"
    return found


def _coqc(folder: str, file: str) -> str:
    told = ["coqc", "-q", "-Q", ".", "DPO", f"{file}.v"]
    done = subprocess.run(told, cwd=folder, capture_output=True, text=True)
    said = " ".join(done.stderr.split())
    assert done.returncode == 0, f"proofs/{file}.v is refused: {said[:300]}"
    return done.stdout
