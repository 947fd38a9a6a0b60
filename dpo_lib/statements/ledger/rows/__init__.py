"""The ledger's rows: how each statement of the paper is checked, part by part as in `proofs`.

`LEDGER` has them in the order of `PROOFS`: the paper's, its own slips at the end.
"""

from dpo_lib.statements.ledger.rows.derivations import ROWS as DERIVATIONS
from dpo_lib.statements.ledger.rows.rankings import ROWS as RANKINGS
from dpo_lib.statements.ledger.rows.section_3 import ROWS as SECTION_3
from dpo_lib.statements.ledger.rows.section_4 import ROWS as SECTION_4
from dpo_lib.statements.ledger.rows.section_5 import ROWS as SECTION_5
from dpo_lib.statements.ledger.rows.slips import ROWS as SLIPS
from dpo_lib.statements.ledger.rows.theorem import ROWS as THEOREM
from dpo_lib.statements.proofs import PROOFS

__all__ = ["LEDGER"]

ORDER = list(PROOFS)
LEDGER = sorted(
    [*SECTION_3, *SECTION_4, *SECTION_5, *DERIVATIONS, *RANKINGS, *THEOREM, *SLIPS],
    key=lambda row: ORDER.index(row.number),
)
