"""Each misreading has its prediction, a cell that decides with a control, and a reading."""

import re

import nbformat
import pytest
from conftest import ROOT

CELLS = nbformat.read(ROOT / "book/misreadings.ipynb", 4).cells
PUBLIC, PAPER, READING = (
    "## Met in public",
    "## Slips in the paper itself",
    "## Met in reading the paper",
)


def entries():
    """Numbers of an entry -> its cells; the section or fold that an entry stands in."""
    found, places, number, place = {}, {}, None, None
    for cell in CELLS:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            title = cell.source.splitlines()[0]
            heading = re.match(r'### ([SP]\d+(?:, [SP]\d+)*)\. "', title)
            number = heading[1] if heading else None
            place = title if title.startswith("## ") else place
            assert number not in found
            if number:
                found[number], places[number] = [], place
        if number:
            found[number].append(cell)
    return found, places


ENTRIES, PLACES = entries()
SINGLE = [one for several in ENTRIES for one in several.split(", ")]
each_entry = pytest.mark.parametrize("number", ENTRIES)


def folded(number):
    return PLACES[number].startswith("## Depth: ")


def prose(cells):
    """What an entry says besides its code, its heading and its Korean line, links' targets too."""
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"(?m)^(#|> ).*$|<[^>]*>|\]\([^)]*\)", " ", text)
    return re.sub(r"\$[^$]*\$", " formula ", text).split()


def test_all_thirty_of_the_review_and_the_public_ones_are_there():
    wanted = [f"S{n}" for n in range(1, 31)] + [f"P{n}" for n in range(1, 19)]
    assert sorted(SINGLE) == sorted(wanted)


def test_the_public_ones_come_first_and_in_the_open():
    order = list(dict.fromkeys(PLACES.values()))
    assert order[:2] == [PUBLIC, PAPER]
    assert not any(folded(number) for number in ENTRIES if "P" in number)
    assert {n for n in ENTRIES if PLACES[n] == PAPER} == {"P4", "P12", "P13"}
    assert sum(not folded(number) for number in ENTRIES) <= 25
    headings = [c.source.splitlines()[0] for c in CELLS if c.source.startswith("## ")]
    assert headings.index(PAPER) < headings.index(READING) < headings.index(order[2])


def test_the_index_names_all():
    index = CELLS[0].source
    assert all(re.search(rf"\[{number}\]\(#", index) for number in SINGLE)


def test_a_merged_entry_keeps_the_addresses_of_its_parts():
    for numbers in ENTRIES:
        if "," in numbers:
            kept = re.findall(r'<span id="([sp]\d+)-', ENTRIES[numbers][0].source)
            assert kept == numbers.lower().split(", ")


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


@pytest.mark.parametrize("number", [number for number in ENTRIES if folded(number)])
def test_a_folded_entry_is_short(number):
    assert len(prose(ENTRIES[number])) <= 110


@each_entry
def test_an_entry_has_one_korean_line(number):
    lines = re.findall(r"^> \*\*한 줄\.\*\* .*$", ENTRIES[number][-1].source, re.MULTILINE)
    assert len(lines) == 1
    assert len(re.findall(r"[가-힣]", lines[0])) > 15
