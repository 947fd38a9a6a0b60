"""The command line: seconds until help is there, or a mistake is named.

Prints a Markdown table: medians of five calls, each a process of its own. Nothing else should
run on the machine.
"""

import statistics
import subprocess
import sys
import time

LIMIT = 0.5  # seconds, on two cores
LINES = ["--help", "dpo --help", "dpo --loss ipoo", "dpoo", "--version"]


def seconds(line: str) -> float:
    """From the start of `dpo LINE` to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dpo_lib", *line.split()], capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    seconds("--help")  # compiles what is not compiled yet
    print("| call | seconds | limit |", "|---|---:|---:|", sep="\n")
    for line in LINES:
        median = statistics.median(seconds(line) for _ in range(5))
        print(f"| `dpo {line}` | {median:.2f} | {LIMIT} |")


if __name__ == "__main__":
    main()
