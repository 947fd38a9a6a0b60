"""TRL's numbers, and the page on which everything is compared with TRL; neither needs TRL.

`scripts/trl_oracle.py` writes both files.
"""

import json
import re

import pytest
import torch
from conftest import ROOT
from oracle.rows import DIFFERENT, EQUAL, Row, judged, markdown

from dpo_lib.variants import LOSSES, choose_loss

PAGE = (ROOT / "docs/trl.md").read_text()
STORED = json.loads((ROOT / "tests/trl.json").read_text())
FORMULAS = [
    pytest.param(formula, id=" ".join([formula["loss"], *map(str, formula["settings"].values())]))
    for formula in STORED["formulas"]
]


def table(heading: str) -> dict[str, str]:
    """First and last cell of each line of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", section, re.M)]
    return {first.strip(): rest[-1].strip() for first, *rest in lines[2:]}


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_loss_equals_trl_s_to_twelve_digits(formula):  # D1-D4; six where TRL is in float32
    for case, wanted in zip(STORED["cases"], formula["values"], strict=True):
        smoothing = {"label_smoothing": case["label_smoothing"]} if formula["smoothed"] else {}
        loss = choose_loss(formula["loss"], case["beta"], **smoothing, **formula["settings"])
        logps = torch.tensor(case["logps"], dtype=torch.float64)
        lengths = torch.tensor(case["lengths"], dtype=torch.float64)
        if formula["per_token"]:  # TRL's is at log-probabilities per token
            logps = logps / lengths.repeat(2)
        given = [*logps[:, None], *lengths[:, None]]
        digits = 10.0 ** -formula["digits"]
        assert loss(*given).item() == pytest.approx(wanted, rel=digits, abs=digits / 1000)


def test_every_loss_has_its_row():
    assert {*LOSSES, "kto"} <= {name.partition(",")[0] for name in table("Losses")}


def test_every_loss_that_trl_has_is_among_the_stored_numbers():
    without = {name for name, verdict in table("Losses").items() if verdict == "TRL has none"}
    assert LOSSES.keys() - without <= {formula["loss"] for formula in STORED["formulas"]}


def test_nothing_on_the_page_differs_and_every_letter_and_number_is_explained():
    assert DIFFERENT not in PAGE
    used = {letter for verdict in re.findall(r"\| ([a-z](?:, [a-z])*) (?=\|)", PAGE)
            for letter in verdict.split(", ")}  # fmt: skip
    assert used == set(re.findall(r"^- ([a-z]): ", PAGE, re.M))
    for heading in ("Losses", "Log and weights"):
        section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        numbers = set(re.findall(r"explained \((\d+)\)", section))
        assert numbers == set(re.findall(r"^(\d+)\. ", section, re.M))


def test_the_page_and_the_numbers_are_of_one_run():
    assert f"TRL {STORED['versions']['trl']}" in PAGE


def test_a_reason_excuses_a_difference_only_if_it_was_tested():
    assert judged(1e-13, 1e-12, "a reason", checked=False) == EQUAL
    assert judged(1e-3, 1e-12) == judged(1e-3, 1e-12, "a reason", checked=False) == DIFFERENT
    assert judged(1e-3, 1e-12, "a reason") == "explained: a reason"
    assert judged(float("nan"), 1e-12) == DIFFERENT


def test_reasons_are_numbered_once_each():
    rows = [Row("a", 1.0, 2.0, 0.5, "explained: x"), Row("b", 0.0, 0.0, 0.0, EQUAL),
            Row("c", 3e-7, "", 2e-9, "explained: x")]  # fmt: skip
    assert markdown(rows, ("n", "ours", "TRL", "difference", "verdict"))[2:] == [
        "| a | 1 | 2 | 0.5 | explained (1) |",
        "| b | 0 | 0 | 0 | equal |",
        "| c | 3e-07 |  | < 1e-8 | explained (1) |",
        "",
        "1. x.",
    ]
