"""The worked solutions ran in their chapters' kernels, and what they assert holds."""

import pytest
from conftest import NOTEBOOKS, ROOT
from execution import Chapters

CHAPTERS = [path for path in NOTEBOOKS if "## Exercises" in path.read_text()]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_hold(built_book, path):
    outcomes = Chapters(ROOT).about(path)["solutions"]
    assert [outcome for outcome in outcomes if outcome is not None] == []
    assert len(outcomes) >= (4 if path.name[:2].isdigit() else 1)  # pages beside the chapters
