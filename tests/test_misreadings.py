"""Each misreading has its prediction, a cell that decides with a control, and a reading."""

import re

import nbformat
import pytest
from conftest import ROOT

CELLS = nbformat.read(ROOT / "book/misreadings.ipynb", 4).cells


def entries():
    """Number of an entry -> its cells."""
    found, number = {}, None
    for cell in CELLS:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            heading = re.match(r'### ([SP]\d+)\. "', cell.source)
            number = heading[1] if heading else None
            assert number not in found
            if number:
                found[number] = []
        if number:
            found[number].append(cell)
    return found


ENTRIES = entries()
each_entry = pytest.mark.parametrize("number", ENTRIES)


def test_all_thirty_of_the_review_and_the_public_ones_are_there():
    wanted = {f"S{n}" for n in range(1, 31)} | {f"P{n}" for n in range(1, 14)}
    assert ENTRIES.keys() == wanted


def test_they_are_grouped_for_browsing():
    groups = [c.source.splitlines()[0] for c in CELLS if c.source.startswith("## ")]
    assert groups[1:6] == [
        "## The reward model",
        "## Z and the optimum",
        "## Classes and the theorem",
        "## PPO",
        "## Training",
    ]
    index = CELLS[0].source
    assert all(re.search(rf"\b{number}\b", index) for number in ENTRIES)


@each_entry
def test_an_entry_predicts_runs_and_reads(number):
    first, *middle, last = ENTRIES[number]
    assert "**It is said:**" in first.source
    assert "**Predict.**" in first.source
    assert middle and all(cell.cell_type == "code" for cell in middle)
    assert last.source.startswith("**Read.**")
    assert re.search(r"\]\(\d\d_\w+\.ipynb\)", last.source)  # the chapter that derives it


@each_entry
def test_an_entry_decides_by_assertions_and_has_a_control(number):
    code = "\n".join(c.source for c in ENTRIES[number] if c.cell_type == "code")
    assert len(re.findall(r"\bassert", code)) >= 2
    assert re.search(r"# control\b", code)


@each_entry
def test_an_entry_has_one_korean_line(number):
    lines = re.findall(r"^> \*\*한 줄\.\*\* .*$", ENTRIES[number][-1].source, re.MULTILINE)
    assert len(lines) == 1
    assert len(re.findall(r"[가-힣]", lines[0])) > 15
