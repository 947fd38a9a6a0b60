"""The worked solutions of the exercises run, and what they assert holds."""

import re

import nbformat
import pytest
from conftest import NOTEBOOKS

CHAPTERS = [path for path in NOTEBOOKS if "## Exercises" in path.read_text()]
SOLUTION = re.compile(r"<details>\s*<summary>Solution.*?</details>", re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_hold(path, monkeypatch):
    """Run the chapter's cells in their order, and each solution where it stands."""
    monkeypatch.delenv("DPO_BOOK_BUILD", raising=False)  # sliders draw one position only
    _title, _guard, *cells = nbformat.read(path, 4).cells
    names, solutions = {}, 0
    for number, cell in enumerate(cells, start=2):
        if cell.cell_type == "code":
            blocks = [cell.source]
        else:
            found = SOLUTION.findall(cell.source)
            solutions += len(found)
            blocks = [block for solution in found for block in PYTHON.findall(solution)]
        for block in blocks:
            exec(compile(block, f"{path.name}, cell {number}", "exec"), names)
    assert solutions >= 4
