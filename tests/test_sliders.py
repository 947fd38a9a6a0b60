"""What sets a slider: its address, links in the text, a typed value, play; panels on a phone."""

import re
from itertools import pairwise
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from conftest import SOURCES, build, build_or_fail
from setting_links import untaken
from test_build import tiny_book
from test_pages import TEXT, UNFOLD, visit

SETTING = re.compile(r"\]\(#[^)]*=")
WITH_LINKS = [name for name in SOURCES if SETTING.search(TEXT[name])]
PHONE = {"width": 390, "height": 844}
IN_SIGHT = """selector => [...document.querySelectorAll(selector)].some(element => {
  const box = element.getBoundingClientRect();
  return box.top < innerHeight - 100 && box.bottom > 100;
})"""


@pytest.fixture
def opened(browser, built_book):
    """Open a page of the book from disk, and find no complaint of it at the end."""
    visits = []

    def open_(name, address="", **options):
        visits.append(visit(browser, f"{(built_book / name).as_uri()}.html{address}", **options))
        page, complaints = visits[-1].__enter__()
        visits.append(complaints)
        page.evaluate("window.MathJax?.startup.promise")
        return page

    yield open_
    for closing, complaints in zip(visits[::2], visits[1::2], strict=True):
        closing.__exit__(None, None, None)
        assert complaints == []


def shown(control) -> str:
    """The value that a control of any kind stands at."""
    if (field := control.locator(".dpo-value")).count():
        return field.input_value()
    if (choices := control.locator("select")).count():
        return choices.input_value()
    return control.locator("label:has(input:checked)").inner_text()


def values(page) -> dict[str, str]:
    """What every control of a page shows, by its name."""
    controls = page.locator(".dpo-control").all()
    return {control.get_attribute("data-name"): shown(control) for control in controls}


def sentence(page) -> str:
    return page.locator(".dpo-sentence").first.inner_text()


def stop_the_clock(page):
    """From here on only `page.clock.run_for` lets time pass."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)


def said_in_table(page, *choice: str) -> str:
    """The sentence of a position in the table that needs no script."""
    cells = page.evaluate(
        "[...document.querySelectorAll('.dpo-slider tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return next(words[-1] for words in cells if words[:-1] == list(choice))


@pytest.mark.parametrize("address", ["#beta=0.3", "#fig-3-7&beta=0.3"])
def test_an_address_sets_the_slider_and_brings_it_into_sight(opened, address):
    page = opened("book/03_objective")
    own = page.locator(".dpo-slider .dpo-number").get_attribute("id")
    page = opened("book/03_objective", re.sub(r"fig-[\d-]+", own, address))
    assert values(page) == {"beta": "0.3"}
    assert sentence(page) == said_in_table(page, "0.3")
    page.wait_for_function(IN_SIGHT, arg=".dpo-slider .dpo-frame")


def test_the_address_of_another_figure_sets_nothing(opened):
    before, after = (opened("book/03_objective", a) for a in ("", "#fig-3-1&beta=0.3"))
    assert values(before) == values(after)


def test_moving_a_slider_writes_the_address_that_sets_it(opened):
    page = opened("book/12_one_world")
    own = page.locator(".dpo-slider .dpo-number").get_attribute("id")
    page.locator(".dpo-slider input[type=range]").press("Home")
    page.get_by_label("20% flipped").check()
    page.wait_for_function("location.hash.includes('flipped')")
    _, mark, rest = page.url.partition("#")
    assert unquote(rest) == f"{own}&beta=0.1&labels=20% flipped"
    again = opened("book/12_one_world", mark + rest)
    assert values(again) == {"beta": "0.1", "labels": "20% flipped"}
    assert sentence(again) == sentence(page)


@pytest.mark.parametrize("name", WITH_LINKS)
def test_each_link_in_the_text_sets_its_figure_to_the_value_that_it_says(opened, name):
    page = opened(name, viewport=PHONE)
    page.evaluate(UNFOLD)
    links = page.locator("article a.dpo-set").all()
    assert len(links) == len(SETTING.findall(TEXT[name]))
    for link in links:
        wanted = unquote(link.get_attribute("href")[1:]).split("&")
        if wanted[0].partition("=")[0] in ("rewards", "ref", "wins", "view"):
            continue  # the workbench's
        link.click()
        seen = values(page)
        assert [f"{key}={seen[key]}" for key, _, _ in (p.partition("=") for p in wanted)] == wanted
        frame = f".dpo-slider:has([data-name={wanted[0].partition('=')[0]}]) .dpo-frame"
        frame += ", .dpo-workbench[data-takes~=beta]" * wanted[0].startswith("beta=")
        page.wait_for_function(IN_SIGHT, arg=frame)


def test_a_typed_value_goes_to_the_nearest_position_and_the_sentence_says_so(opened):
    page = opened("book/03_objective")
    field = page.locator(".dpo-value")
    for typed, value, said in (
        ("0.33", "0.3", "0.33 is not drawn; this is 0.3. "),
        ("1000", "20", "1000 is not drawn; this is 20. "),
        ("0,5", "0.5", ""),
        ("2.0", "2", ""),
    ):
        field.fill(typed)
        field.press("Enter")
        assert field.input_value() == value
        assert sentence(page) == said + said_in_table(page, value)


@pytest.mark.parametrize("typed", ["much", "", "1e", "--1"])
def test_nonsense_that_is_typed_is_said_and_moves_nothing(opened, typed):
    page = opened("book/03_objective")
    field, drawn = page.locator(".dpo-value"), page.locator(".dpo-frame").last
    before, value, words = drawn.inner_html(), field.input_value(), sentence(page)
    field.fill(typed)
    field.press("Enter")
    assert sentence(page) == f"“{typed}” is no value of β. {words}"
    assert (drawn.inner_html(), field.input_value()) == (before, value)


def test_play_walks_to_the_end_in_order_and_stops_there(opened):
    page = opened("book/09_theorem", "#beta=0.25&c=0")
    stop_the_clock(page)
    button = page.get_by_role("button", name="Play c", exact=True)
    seen = []
    button.press("Enter")
    for _ in range(6):
        seen.append(values(page)["c"])
        page.clock.run_for(500)
    assert seen == ["0", "0.5", "1", "1.5", "2", "2"]
    assert values(page)["beta"] == "0.25"
    assert button.inner_text() == "Play"


@pytest.mark.parametrize("touch", ["the button", "a key", "the page", "a link"])
def test_a_slider_that_plays_stops_as_soon_as_anything_is_touched(opened, touch):
    page = opened("book/03_objective", "#beta=0.05")
    stop_the_clock(page)
    page.locator(".dpo-play").click()
    page.clock.run_for(1000)
    assert values(page)["beta"] == "0.08"
    {
        "the button": lambda: page.get_by_role("button", name="Pause β").click(),
        "a key": lambda: page.keyboard.press("Shift"),
        "the page": lambda: page.locator(".dpo-slider .dpo-sentence").click(),
        "a link": lambda: page.evaluate("location.hash = 'beta=0.08'"),
    }[touch]()
    page.clock.run_for(3000)
    assert values(page)["beta"] == "0.08"
    assert page.locator(".dpo-play").inner_text() == "Play"


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_play_is_there_unless_the_reader_asked_for_less_motion(opened, motion):
    page = opened("book/03_objective", reduced_motion=motion)
    assert page.locator(".dpo-play").is_visible() == (motion == "no-preference")


def test_names_are_chosen_by_keyboard_alone(opened):
    page = opened("book/16_tokens", "#answer=good%20.&beta=1")
    page.get_by_label("good .", exact=True).focus()
    for answer in ("not good .", "not not good ."):
        page.keyboard.press("ArrowDown")
        assert values(page)["answer"] == answer
        assert sentence(page) == said_in_table(page, answer, "1")
    page = opened("book/19_reading_logs", "#bug=Healthy")
    chosen = page.locator("select")
    chosen.focus()
    page.keyboard.type("Swapped")
    assert values(page)["bug"].startswith("Swapped")
    assert sentence(page) == said_in_table(page, values(page)["bug"])


def test_numbers_under_a_slider_stand_where_its_thumb_does(opened):
    page = opened("book/03_objective", viewport=PHONE)
    middle = "e => { const box = e.getBoundingClientRect(); return box.x + box.width / 2; }"
    marks = page.locator(".dpo-ticks span").all()
    assert 5 <= len(marks) <= 7
    boxes = [mark.bounding_box() for mark in marks]
    for left, right in pairwise(boxes):
        assert left["x"] + left["width"] < right["x"]
    control = page.locator(".dpo-control input[type=range]")
    box = control.bounding_box()
    for mark in marks:
        x = mark.evaluate(middle) - box["x"]
        control.click(position={"x": x, "y": box["height"] / 2})
        assert values(page)["beta"] == mark.inner_text()


def test_a_link_that_nothing_on_its_page_takes_is_found():
    slider = (
        '<div class="dpo-slider" data-takes="beta labels" aria-label="x">'
        '<p class="dpo-title"><a class="dpo-number" id="fig-5-2" href="#fig-5-2">'
    )
    links = ["beta=1", "labels=a b&amp;beta=1", "fig-5-2&amp;beta=1",
             "gamma=1", "beta=1&amp;gamma=1", "fig-5-1&amp;beta=1"]  # fmt: skip
    made = "".join(f'<a class="dpo-set reference internal" href="#{link}">x</a>' for link in links)
    assert untaken(slider + made) == ["gamma=1", "beta=1&gamma=1", "fig-5-1&beta=1"]
    assert untaken(made + '<div data-takes="beta gamma labels">') == [
        "fig-5-2&beta=1", "fig-5-1&beta=1"]  # fmt: skip


SLIDER = """
from dpo_lib.page.plotting import figure
from dpo_lib.page.widgets import slide

slide(lambda beta: figure(2, 1)[0], lambda beta: f"At {beta:g}.", "Nothing", beta=(0.1, 0.2))
"""


def test_a_link_in_markdown_sets_a_slider_and_one_that_sets_none_fails_the_strict_build(tmp_path):
    page = tiny_book(tmp_path, SLIDER) / "page.ipynb"
    text = page.read_text()
    page.write_text(text.replace("# Page", "# Page\\n\\nSet [β = 0.2](#beta=0.2)."))
    html = (build_or_fail(tmp_path) / "page.html").read_text()
    (link,) = BeautifulSoup(html, "html.parser").select("article a.dpo-set")
    assert (link["href"], link.get_text()) == ("#beta=0.2", "β = 0.2")
    page.write_text(page.read_text().replace("#beta=0.2", "#gamma=0.2"))
    result = build(tmp_path, "--strict")
    assert result.returncode != 0
    assert "no figure of this page can be set by #gamma=0.2" in result.stdout


COLUMNS = re.compile(r"figure\([^)]*(?:columns=|, [2-9][,)]|, len)")
SIDE_BY_SIDE = [name for name in SOURCES if COLUMNS.search(TEXT[name])]


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_on_a_phone_panels_are_stacked_whole_and_legible(opened, built_book, name):
    """All that is written in a drawing is seen once, inside its piece; the smallest has 8.5 px.

    Sizes are those of the text on the screen: its own in points, times the drawing's scale.
    """
    page = opened(name, viewport=PHONE)
    soup = BeautifulSoup((built_book / f"{name}.html").read_text(), "html.parser")
    wide = soup.select(".dpo-frame > svg[data-panels]")
    assert wide
    found = page.evaluate("""() => [...document.querySelectorAll(".dpo-frame")].map(frame => {
      const pieces = [...frame.querySelectorAll("svg")];
      return pieces.map(piece => {
        const own = piece.getBoundingClientRect();
        const texts = [...piece.querySelectorAll("text")];
        const scale = own.width / piece.viewBox.baseVal.width;
        return {
          left: own.left, right: own.right, top: own.top, bottom: own.bottom,
          words: texts.filter(t => {
            const box = t.getBoundingClientRect();
            return own.left - 2 < box.left && box.right < own.right + 2 &&
              own.top - 2 < box.top && box.bottom < own.bottom + 2;
          }).map(t => t.textContent),
          smallest: Math.min(...texts.map(t => parseFloat(getComputedStyle(t).fontSize) * scale)),
        };
      });
    }).filter(pieces => pieces.length > 1)""")
    assert len(found) == len(wide)
    for pieces, drawing in zip(found, wide, strict=True):
        words = [word for piece in pieces for word in piece["words"]]
        written = [text.get_text() for text in drawing.select("text")]
        assert set(written) <= set(words) and len(words) >= len(written)
        for above, below in pairwise(pieces):
            assert above["bottom"] <= below["top"]
        for piece in pieces:
            assert piece["left"] >= 0 and piece["right"] <= PHONE["width"]
            assert piece["smallest"] >= 8.5
    page.set_viewport_size({"width": 1280, "height": 844})
    page.wait_for_function("document.querySelectorAll('.dpo-frame svg + svg').length === 0")
