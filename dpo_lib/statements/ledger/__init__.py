"""The ledger: every statement of the paper, its proof, and how the library's functions are checked.

A *property* checks a function of the library on a random world against something computed
another way. A *mutant* is a plausible wrong version of that function. With the mutant in its
place throughout the library, the statement's own property must fail, and with it exactly the
properties that the ledger names: each check looks at what it claims to look at.
`ledger.run(LEDGER)` checks everything but the proofs of a kernel, which `kernel.check_kernel`
compiles; the ledger page of the book prints what they find.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "case": ["Case", "cases"],
        "statement": ["Statement"],
        "checking": ["Outcome", "holds", "mutated", "noticed", "run"],
        "kernel": ["Witness", "check_kernel", "witnesses"],
        "report": ["details", "table"],
        "rows": ["LEDGER"],
    },
)
