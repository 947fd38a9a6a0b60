import subprocess
import sys

from conftest import ROOT

from dpo_lib.statements import LEDGER, PROOFS

# None in the place of a module makes its import fail.
EVERY_PROOF = """
import sys

sys.modules["torch"] = None
import dpo_lib.statements

for prove in dpo_lib.statements.PROOFS.values():
    proof = prove()
    proof.check()
    print(proof.number)
try:
    dpo_lib.statements.LEDGER
except ImportError:
    print("no torch, no ledger")
"""


def test_all_thirty_nine_statements_are_proved_where_torch_is_not_installed():
    call = [sys.executable, "-c", EVERY_PROOF]
    *proved, last = subprocess.check_output(call, cwd=ROOT, text=True).splitlines()
    assert proved == list(PROOFS)
    assert len(proved) == 39
    assert last == "no torch, no ledger"


def test_every_statement_of_the_ledger_has_its_proof_among_them():
    assert len(LEDGER) == 39
    assert [statement.number for statement in LEDGER] == list(PROOFS)
    assert [statement.proof for statement in LEDGER] == list(PROOFS.values())
