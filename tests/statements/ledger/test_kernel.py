"""The proofs in proofs/: complete, accepted by the kernel, resting on no axiom of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

from dpo_lib.statements.ledger import LEDGER, kernel, report

FILES = sorted(kernel.FOLDER.glob("*.v"))
PAGES = sorted([*(ROOT / "book").glob("*.ipynb"), *(ROOT / "book").glob("*.md")])
QUOTED = re.compile(r"```coq\n(.*?)\n```", re.DOTALL)


def needs_coq(test):
    """Run with the tests of the book, for which .ci/run installs what it lacks."""
    missing = not shutil.which("coqc") and "CI" not in os.environ
    return pytest.mark.book(pytest.mark.skipif(missing, reason="there is no coqc")(test))


def sources(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return [text]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"]]


def quoted(page):
    return [block for text in sources(page) for block in QUOTED.findall(text)]


def flat(text):
    return " ".join(text.split())


def test_every_row_of_the_ledger_has_theorems_and_a_refuted_twin_or_a_reason():
    assert list(kernel.witnesses()) == [row.number for row in LEDGER]
    for number, witness in kernel.witnesses().items():
        whole = witness.theorems and witness.twins and witness.twin_says and witness.adds
        assert bool(whole) != bool(witness.reason), number


def test_a_twin_is_the_negation_of_a_statement_and_a_theorem_is_not():
    for witness in kernel.witnesses().values():
        for name in witness.twins:
            assert re.match(rf"Theorem {name} :\s+~ \(forall", kernel.statement(name)), name
            assert f"Theorem {name} :" in (kernel.FOLDER / witness.file).read_text()
        for name in witness.theorems:
            assert not re.search(r":\s+~ ", kernel.statement(name).split("\n  ")[0]), name
            assert f"Theorem {name} " in (kernel.FOLDER / witness.file).read_text(), name


def test_no_goal_is_admitted_and_no_axiom_is_added():
    for path in FILES:
        code = re.sub(r"\(\*.*?\*\)", "", path.read_text(), flags=re.DOTALL)
        found = re.findall(r"\b(Admitted|admit|give_up|Axioms?|Parameters?|Conjecture)\b", code)
        assert not found, path.name
        assert code.count("Proof.") == len(re.findall(r"\b(Qed|Defined)\.", code)), path.name


@needs_coq
def test_the_kernel_accepts_every_file_and_every_theorem_rests_on_the_real_numbers_alone():
    axioms = kernel.check_kernel()
    named = [n for w in kernel.witnesses().values() for n in (*w.theorems, *w.twins)]
    assert list(axioms) == list(dict.fromkeys(named))
    assert all(found <= kernel.AXIOMS for found in axioms.values())
    assert set.union(*map(set, axioms.values())) == kernel.AXIOMS  # or the list is too long


@needs_coq
def test_a_file_that_is_refused_and_an_axiom_of_ones_own_are_told(tmp_path, monkeypatch):
    shutil.copytree(kernel.FOLDER, tmp_path / "proofs", ignore=shutil.ignore_patterns("*.vo*"))
    monkeypatch.setattr(kernel, "FOLDER", tmp_path / "proofs")
    (tmp_path / "proofs/_CoqProject").write_text("-Q . DPO\nSums.v\n")
    only = {"x": kernel.Witness("Sums.v", ("gibbs_inequality",), ())}
    monkeypatch.setattr(kernel, "witnesses", lambda: only)
    assert kernel.check_kernel()["gibbs_inequality"] <= kernel.AXIOMS
    path = tmp_path / "proofs/Sums.v"
    whole = path.read_text()
    claim = "Axiom easy : 1 = 0.\nTheorem gibbs_inequality : 1 = 0.\nProof. exact easy. Qed.\n"
    path.write_text(whole.replace("gibbs_inequality", "gibbs_unequal") + claim)
    with pytest.raises(AssertionError, match=r"gibbs_inequality rests on .*easy"):
        kernel.check_kernel()
    path.write_text(whole.replace("sum l f <= sum l g", "sum l g <= sum l f", 1))
    with pytest.raises(AssertionError, match=r"proofs/Sums\.v is refused: .*line"):
        kernel.check_kernel()


@needs_coq
def test_a_statement_with_one_symbol_changed_is_refused():
    """For all of them `python scripts/kernel_mutants.py` takes three minutes."""
    script = [sys.executable, ROOT / "scripts/kernel_mutants.py"]
    done = subprocess.run([*script, "(5)", "Lemma 2"], capture_output=True, text=True)
    *lines, last = done.stdout.splitlines()
    names = [n for row in ("(5)", "Lemma 2") for n in kernel.witnesses()[row].theorems]
    assert [line.split()[0] for line in lines] == ["rejected"] * len(names)
    assert all(name in line for name, line in zip(names, lines, strict=True))
    assert done.returncode == 0 and last.endswith("0 of them accepted or malformed")


def test_without_coqc_or_the_folder_the_ledger_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel.shutil, "which", lambda name: None)
    assert kernel.check_kernel() == "not run here: there is no coqc"
    monkeypatch.setattr(kernel, "FOLDER", tmp_path / "none")
    assert kernel.check_kernel() == "not run here: proofs/ is not part of an installed copy"


def test_a_row_says_how_many_theorems_which_and_on_what_they_rest(monkeypatch):
    witness = kernel.Witness("A.v", ("one", "two"), ("one_false",), "a slip", "a quantifier")
    rows = {"(1)": witness, "(2)": kernel.Witness(reason="not a statement")}
    monkeypatch.setattr(report, "witnesses", lambda: rows)
    axioms = {
        "one": frozenset({"Reals.a"}),
        "two": frozenset({"Reals.b"}),
        "one_false": frozenset(),
    }
    assert report._counted("(1)", axioms) == "2 + 1"
    assert report._accepted("(1)", axioms) == (
        "`proofs/A.v`: `one`, `two`; adds a quantifier. *Refuted twin:* `one_false`, a slip. "
        "*Axioms:* `a`, `b`"
    )
    assert report._counted("(2)", axioms) == report._accepted("(2)", axioms) == "not a statement"


def test_the_words_of_a_row_have_its_statements_folded_and_none_where_nothing_was_run():
    axioms = {
        n: kernel.AXIOMS for w in kernel.witnesses().values() for n in (*w.theorems, *w.twins)
    }
    said = report._statements("(5)", axioms)
    assert said.count("Theorem ") == 2 and "reward_false_without_the_partition" in said
    assert said.lstrip().startswith("<details>") and said.endswith("</details>")
    assert report._statements("(5)", "not run here: there is no coqc") == ""


@pytest.mark.parametrize("page", [p for p in PAGES if quoted(p)], ids=lambda page: page.stem)
def test_what_a_page_quotes_stands_in_a_proof_file(page):
    files = [flat(path.read_text()) for path in FILES]
    for block in quoted(page):
        assert any(flat(block) in file for file in files), textwrap.shorten(block, 90)


def test_each_chapter_with_statements_of_its_own_quotes_one_of_their_theorems():
    chapters = {}
    for row in LEDGER:
        names = kernel.witnesses()[row.number].theorems
        chapters.setdefault(row.chapter, []).extend(names)
    for chapter, names in chapters.items():
        shown = " ".join(quoted(ROOT / f"book/{chapter}.ipynb"))
        assert any(f"Theorem {name} " in shown for name in names), chapter
