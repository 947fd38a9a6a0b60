"""Every statement of the paper: its algebra proved in sympy, and how it is checked in numbers.

`symbolic` and `proofs` need sympy alone: `PROOFS` can be checked without torch. `ledger` checks
the library's functions on random worlds, and imports torch when `LEDGER` is asked for.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(__name__, {"proofs": ["PROOFS"], "ledger": ["LEDGER"]})
