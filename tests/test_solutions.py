"""The worked solutions of the exercises run, and what they assert holds."""

import re

import nbformat
import pytest
from conftest import NOTEBOOKS

CHAPTERS = [path for path in NOTEBOOKS if "## Exercises" in path.read_text()]
SOLUTION = re.compile(r"<details>\s*<summary>Solution.*?</details>", re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def exercises(cells):
    """The cells from the heading of the exercises to the next heading."""
    start = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises"))
    rest = cells[start + 1 :]
    end = next((i for i, cell in enumerate(rest) if cell.source.startswith("## ")), len(rest))
    return cells[start : start + 1 + end]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_hold(path):
    """Run the set-up, then the section's cells and its solutions, in their order."""
    cells = nbformat.read(path, 4).cells
    _guard, setup = [cell for cell in cells if cell.cell_type == "code"][:2]
    names = {}
    exec(compile(setup.source, f"{path.name}, set-up", "exec"), names)
    solutions = 0
    for cell in exercises(cells):
        if cell.cell_type == "code":
            blocks = [cell.source]
        else:
            found = SOLUTION.findall(cell.source)
            solutions += len(found)
            blocks = [block for solution in found for block in PYTHON.findall(solution)]
        for block in blocks:
            where = f"{path.name}, exercises, after solution {solutions}"
            exec(compile(block, where, "exec"), names)
    assert solutions >= 4
