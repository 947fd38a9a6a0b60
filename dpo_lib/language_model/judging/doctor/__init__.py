"""Read a training log and name the likely bugs, the most suspicious first.

A rule is a function from a `Log` to one sentence with the numbers it saw, or None. To add one,
write it in the file of its subject and give it its place in `diagnosis.RULES`, which has them all
in order of suspicion; what it sees by reason of another's bug alone goes into `FOLLOWS`.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__, {"diagnosis": ["FOLLOWS", "NOTES", "RULES", "Finding", "diagnose", "lines"]}
)
