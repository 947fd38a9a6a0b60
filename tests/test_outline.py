"""What a built page says of its parts: folds, figures, and statements that one can point at."""

import re
from collections import Counter

import pytest
from bs4 import BeautifulSoup
from conftest import SOURCES
from equations import NUMBER, key
from outline import label, outline
from test_pages import settle, visit

EQUATIONS = [f"eq-{number}" for number in range(1, 26)]
NAMED = ["definition-1", "lemma-1", "lemma-2", "theorem-1", "proposition-1"]


@pytest.fixture(scope="session")
def soups(built_book):
    return {
        n: BeautifulSoup((built_book / f"{n}.html").read_text(), "html.parser") for n in SOURCES
    }


def targets(soup, page: str) -> set[tuple[str, str]]:
    """(page, id) of the links of a page."""
    found = set()
    for link in soup.select("a[href]"):
        path, _, ident = link["href"].partition("#")
        name = path.removesuffix(".html").rpartition("/")[2] if path else page.rpartition("/")[2]
        found.add((name, ident))
    return found


def test_the_first_page_leads_on_to_the_first_chapter_and_back(soups):
    for here, way, there in [("00_start", "right-next", "01_preferences"),
                             ("01_preferences", "left-prev", "00_start")]:  # fmt: skip
        (link,) = soups[f"book/{here}"].select(f"a.{way}")
        assert link["href"] == f"{there}.html"


def test_from_the_first_page_each_statement_of_the_paper_is_two_clicks_away(soups):
    start = SOURCES[0]
    first = {name for name, _ in targets(soups[start], start)}
    near = [page for page in SOURCES if page.rpartition("/")[2] in first]
    second = set().union(*(targets(soups[page], page) for page in near))
    assert [name for name in EQUATIONS + NAMED if name not in {ident for _, ident in second}] == []


@pytest.mark.parametrize("name", EQUATIONS + NAMED)
def test_a_statement_has_one_home_that_shows_it(soups, name):
    linked = {page for soup in soups.values() for page, i in targets(soup, "") if i == name}
    homes = [page for page in SOURCES if page.rpartition("/")[2] in linked - {""}]
    assert len(homes) == 1
    [shown] = soups[homes[0]].select(f"#{name}")
    number = name.rpartition("-")[2]
    wanted = (
        rf"\tag{{{number}}}" if name in EQUATIONS else f"{name.partition('-')[0].title()} {number}."
    )
    assert wanted in shown.text


def test_a_number_in_the_text_is_a_link_and_other_numbers_in_brackets_are_none():
    found = [
        match[0] for match in NUMBER.finditer("By (4), PPO (7) and f(2), of (12) or [3](5), (0.5).")
    ]
    assert found == ["(4)", "PPO (7)", "(12)"]
    assert key("eq PPO 7") == "eq-ppo-7" and key("Lemma 1") == "lemma-1"


@pytest.mark.parametrize("act", ["hover", "focus"])
def test_a_number_shows_its_equation_while_it_is_pointed_at(browser, built_book, act):
    address = (built_book / "book/06_implicit_reward.html").as_uri()
    with visit(browser, address, viewport={"width": 390, "height": 844}) as (page, complaints):
        settle(page)
        link = page.locator("article a.dpo-eq[href$='#eq-4']").first
        getattr(link, act)()
        preview = page.locator(".dpo-eq-preview")
        preview.wait_for(state="visible")
        assert preview.locator("mjx-container").count() == 1
        assert link.get_attribute("aria-describedby") == preview.get_attribute("id")
        box = preview.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        page.keyboard.press("Escape")
        assert preview.is_hidden()
        assert complaints == []


def test_no_preview_of_an_equation_is_cut_off_on_a_phone(browser, built_book):
    address = (built_book / "book/statements.html").as_uri()
    with visit(browser, address, viewport={"width": 390, "height": 844}) as (page, complaints):
        settle(page)
        preview, seen = page.locator(".dpo-eq-preview"), set()
        for link in page.locator("article a.dpo-eq[href*='#eq-']").all():
            link.focus()
            preview.wait_for(state="visible")
            assert preview.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), link.inner_text()
            seen.add(link.get_attribute("href").partition("#")[2])
        assert set(EQUATIONS) <= seen
        assert complaints == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_folded_cell_says_what_it_holds_and_no_two_stand_together(soups, name):
    words = Counter(x.get_text(strip=True) for x in soups[name].select("details.hide > summary"))
    known = {f"Code of this {what}" for what in ("figure", "slider", "table", "workbench")}
    known |= {"Numbers for the figure below", "Numbers quoted above"}
    assert {word.removesuffix(word[len(word) // 2 :]) for word in words} <= known
    for cell in soups[name].select("div.cell.tag_hide-input"):
        following = cell.find_next_sibling()
        folded = following is not None and "tag_hide-input" in following.get("class", [])
        assert not folded or cell.select(".cell_output"), cell.text[:80]
    assert "importlib.util" not in soups[name].get_text()


@pytest.mark.parametrize("name", SOURCES)
def test_figures_are_numbered_in_order_and_each_has_a_caption_that_is_seen_and_heard(soups, name):
    numbers = [link.get_text() for link in soups[name].select("a.dpo-number")]
    place = label(name.rpartition("/")[2])
    assert numbers == [f"Figure {place}.{k}" for k in range(1, len(numbers) + 1)]
    assert len(soups[name].select(".dpo-figure, .dpo-slider, .dpo-workbench")) == len(numbers)
    for figure in soups[name].select(".dpo-figure"):
        assert figure.name == "figure" and len(figure.figcaption.get_text()) > 30
        assert figure.svg["aria-hidden"] == "true"  # the caption is its name
    ids = Counter(x["id"] for x in soups[name].select("[id^=fig-], [id^=eq-]"))
    assert max(ids.values(), default=1) == 1


@pytest.mark.parametrize("name", SOURCES)
def test_a_page_has_a_description_and_its_korean_lines_are_marked_as_korean(soups, name):
    said = soups[name].select_one("meta[name=description]")["content"]
    assert "\\" not in said  # formulas as one types them
    assert 20 < len(said) <= 160
    for element in soups[name].select("article p, article td, article li"):
        own = "".join(element.find_all(string=True, recursive=False))
        hangul, letters = re.findall(r"[\uac00-\ud7a3]", own), re.findall(r"[^\W\d_]", own)
        if 2 * len(hangul) > len(letters):
            assert element.find_parent(lang="ko") or element.get("lang") == "ko", own[:60]


def cell(source, *tags, html=None):
    data = {"text/html": html} if html else {}
    outputs = [{"data": data}] if html else []
    metadata = {"tags": list(tags)}
    return {"cell_type": "code", "source": [source], "metadata": metadata, "outputs": outputs}


def test_an_outline_joins_folded_cells_names_them_and_numbers_figures():
    figure = '<figure class="dpo-figure"><figcaption>Bars.</figcaption></figure>'
    slider = '<div class="dpo-slider"><p class="dpo-title">Hill</p></div>'
    book = {
        "cells": [
            cell("import importlib.util\nfind_spec", "hide-input"),
            cell("import torch", "hide-input"),
            cell("import math"),
            cell("b = 2", "hide-input"),
            cell("show()", "hide-input", html=figure),
            cell("slide()", "hide-input", html=slider),
        ]
    }
    cells = outline(book, "05_optimal_policy")["cells"]
    assert ["remove-cell" in c["metadata"]["tags"] for c in cells] == [True, True] + [False] * 3
    words = [c["metadata"].get("mystnb", {}).get("code_prompt_show") for c in cells[2:]]
    assert words == [None, "Code of this figure", "Code of this slider"]
    assert "".join(cells[3]["source"]) == "b = 2\n\n\nshow()"
    shown = [
        re.search(r"Figure [\d.]+", c["outputs"][0]["data"]["text/html"])[0] for c in cells[3:]
    ]
    assert shown == ["Figure 5.1", "Figure 5.2"]
    assert label("misreadings") == "M" and label("00_start") == "0"
