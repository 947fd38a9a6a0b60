"""Two layers of a page: what is folded, what opens it, and how long each takes to read."""

import itertools
import json
import re

import fast_path
import pytest
from bs4 import BeautifulSoup
from conftest import NOTEBOOKS, ROOT
from execution import Chapters
from layers import minutes, sizes, state_times, words
from test_pages import visit

DEEP = [path for path in NOTEBOOKS if "# Depth: " in path.read_text(encoding="utf-8")]
# Words and visible lines of a main line.
LIMITS = {path.stem: (1500, 80) for path in NOTEBOOKS if path.stem[:2] <= "11"}
LIMITS |= dict.fromkeys(
    ["12_one_world", "13_when_the_theorem_fails", "17_tiny_gpt2", "18_gpt2", "19_reading_logs"],
    (2000, 120),
)
LIMITS |= dict.fromkeys(
    ["14_chosen_goes_down", "15_loss_atlas", "16_tokens", "neighbours", "online", "how_to_judge"],
    (1500, 120),
)
LIMITS |= {"which_knob_first": (750, 0)}


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text, output="", tags=()):
    outputs = [{"output_type": "stream", "text": output}] if output else []
    about = {"cell_type": "code", "metadata": {"tags": list(tags)}}
    return about | {"source": text, "outputs": outputs}


def test_words_are_those_that_a_reader_meets():
    assert words("One [two](three_four.ipynb) `five`, $a + b = c$ and $$x\n= y$$.") == 6
    assert words("<details><summary>It's</summary> 0.53</details>") == 2


def test_depth_ends_at_the_next_heading_of_its_level():
    book = {
        "cells": [
            markdown("# Title\n\none two\n\n### Depth: three four\n\nfive"),
            code("a = 1\n\nb = 2", "printed"),
            markdown("#### six\n\nseven"),
            markdown("### eight"),
            code("c = 3", "nine ten"),
            code("d = 4\ne = 5", tags=["hide-input"]),
        ]
    }
    main, everything = sizes(book)
    assert main == (6, 1)  # Title one two, eight, nine ten; c = 3
    assert everything == (13, 3)


def test_a_folded_solution_and_an_undrawn_table_are_not_of_the_main_line():
    table = "<p>a b</p><svg>c</svg><details>d</details><script>e</script>"
    figure = {"cell_type": "code", "metadata": {"tags": ["hide-input"]}, "source": "draw()"}
    figure["outputs"] = [{"data": {"text/html": table, "text/plain": "f g h"}}]
    book = {"cells": [markdown("one <details><summary>x</summary>y z</details>"), figure]}
    assert sizes(book) == ((3, 0), (6, 0))


def test_reading_takes_150_words_or_ten_lines_a_minute():
    assert minutes((1500, 0)) == minutes((0, 100)) == 10
    book = {"cells": [markdown("# A\n\n**You need** nothing.\n\nText"), code("x\n" * 100)]}
    assert "nothing. **Time** 10 minutes. Its" in state_times(book, "none")["cells"][0]["source"]


@pytest.mark.parametrize("path", DEEP, ids=lambda path: path.stem)
def test_depth_is_folded_opens_by_a_link_and_on_paper_and_reads_without_javascript(
    browser, built_book, path
):
    address = (built_book / f"book/{path.stem}.html").as_uri()
    with visit(browser, address) as (page, complaints):
        folds = page.locator(".dpo-depth > details")
        headings = re.findall(r"#+ Depth: ", path.read_text(encoding="utf-8"))
        assert folds.count() == len(headings)
        assert page.locator(".dpo-depth > details[open]").count() == 0
        for ident in page.locator(".dpo-depth").evaluate_all("all => all.map(e => e.id)"):
            page.evaluate("id => { location.hash = id; }", ident)
            page.wait_for_function(f"document.querySelector('#{ident} > details').open")
        page.reload()
        assert page.locator(".dpo-depth > details[open]").count() == 1
        page.locator(".dpo-depth > details > summary").first.press("Enter")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".dpo-depth > details[open]").count() == len(headings)
        assert complaints == []
    with visit(browser, address, java_script_enabled=False) as (page, _):
        page.locator(".dpo-depth > details > summary").first.press("Enter")
        assert page.locator(".dpo-depth > details[open]").count() == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_shows_what_its_last_call_happened_to_return(built_book, path):
    executed, _ = Chapters(ROOT).with_outputs(path, path.read_text(encoding="utf-8"))
    for cell in json.loads(executed)["cells"]:
        for shown in cell.get("outputs", []):
            if shown["output_type"] == "execute_result":
                assert {"text/html", "text/markdown"} & set(shown["data"]), cell["source"]


@pytest.mark.parametrize("name", LIMITS)
def test_a_main_line_keeps_its_limits(built_book, name):
    path = ROOT / f"book/{name}.ipynb"
    executed, _ = Chapters(ROOT).with_outputs(path, path.read_text(encoding="utf-8"))
    (long, lines), _ = sizes(json.loads(executed))
    most_words, most_lines = LIMITS[name]
    assert long <= most_words and lines <= most_lines


def test_the_fast_path_takes_at_most_ninety_minutes(built_book):
    stated = []
    for name in fast_path.PATH:
        page = (built_book / f"book/{name}.html").read_text(encoding="utf-8")
        stated += re.findall(r"<strong>Time</strong> (\d+) minutes", page)
    assert len(stated) == len(fast_path.PATH)
    assert sum(map(int, stated)) <= 90


def test_the_fast_path_leads_from_each_of_its_pages_to_the_next(built_book):
    pages = [built_book / f"book/{name}.html" for name in fast_path.PATH]
    for here, there in itertools.pairwise(pages):
        links = BeautifulSoup(here.read_text(encoding="utf-8"), "html.parser").select("main a")
        assert there.name in {link.get("href") for link in links}


def test_the_list_of_pages_marks_the_fast_path_and_nothing_else(built_book):
    page = (built_book / "book/05_optimal_policy.html").read_text(encoding="utf-8")
    links = BeautifulSoup(page, "html.parser").select("nav.bd-docs-nav a")
    marked = [link["href"] for link in links if "(fast path)" in link.text]
    shown = [f"{name}.html" for name in fast_path.PATH[1:]]  # the first heads the list anyway
    assert marked == ["#" if name.startswith("05") else name for name in shown]


def test_a_mark_stands_in_the_link_and_other_links_stay():
    one = '<a class="reference internal" href="03_objective.html">3. Keep</a>'
    other = one.replace("03_objective", "04_ppo")
    assert (
        fast_path.mark(one + other, "book/05")
        == one.replace("</a>", f"{fast_path.MARK}</a>") + other
    )
