"""The worked solutions of the exercises run, and what they assert holds."""

import re

import nbformat
import pytest
from conftest import NOTEBOOKS

CHAPTERS = [path for path in NOTEBOOKS if "## Exercises" in path.read_text()]
SOLUTION = re.compile(r"<details>\s*<summary>Solution.*?</details>", re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_hold(path):
    """Run a chapter from top to bottom, each solution where the reader meets it."""
    names, solutions = {}, 0
    cells = [cell for cell in nbformat.read(path, 4).cells if "%pip" not in cell.source]
    for cell in cells:
        blocks = [cell.source]
        if cell.cell_type == "markdown":
            found = SOLUTION.findall(cell.source)
            solutions += len(found)
            blocks = PYTHON.findall("\n".join(found))
        for block in blocks:
            place = f"{path.name}, after {solutions} solutions"
            exec(compile(block, place, "exec"), names)
    assert solutions >= 4
