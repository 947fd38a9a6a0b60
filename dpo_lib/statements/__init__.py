"""Every statement of the paper: its algebra proved in sympy, and how it is checked in numbers.

`symbolic`, `proofs` and `theory` need sympy alone, not torch. `ledger`, `mutants` and `paper` check
the library's functions on random worlds.
"""
