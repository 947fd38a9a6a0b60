import itertools
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from conftest import ROOT

from dpo_lib.page.plotting import figure, svg
from dpo_lib.page.sliders import StaticSlider, text, ticks
from dpo_lib.page.widgets import BETAS, slide

VOID = {"input", "br", "hr", "img", "meta", "link"}
SCRIPT = (ROOT / "assets/sliders.js").read_text()
GRID = (0.1, 0.25, 0.5, 1.0)


def draw(beta, wins=3):
    fig, ax = figure(2, 1)
    ax.plot([0, beta], [0, wins])
    return fig


def describe(beta, wins=3):
    return f'At β = {beta:g} the line ends at {wins}, "</script><b>" & all.'


class Page(HTMLParser):
    """Elements as (tag, attributes, text) in document order; refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"attribute twice in {tag}"
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def find(self, tag, **wanted):
        found = [e for e in self.elements if e[0] == tag and wanted.items() <= e[1].items()]
        return [(attributes, text) for _, attributes, text in found]


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("DPO_BOOK_BUILD", "1")

    def made(**options):
        options = {"draw": draw, "describe": describe, "title": "A line", "beta": GRID} | options
        return slide(**options)

    return made


def data_of(page):
    return json.loads(page.find("script", type="application/json")[0][1])


def test_the_book_s_slider_is_well_formed_and_shows_its_starting_position(static):
    text = static(start={"beta": 0.25})._repr_html_()
    page = Page(text)
    ((control, _),) = page.find("input", type="range")
    assert (control["min"], control["max"], control["value"]) == ("0", "3", "1")
    assert control["aria-valuetext"] == "β = 0.25"
    ((typed, _),) = page.find("input", type="text")
    assert (typed["value"], typed["aria-label"]) == ("0.25", "β, a value")
    ((label, words),) = page.find("label")
    assert (label["for"], words) == (control["id"], "β =")
    ((button, _),) = page.find("button")
    assert "hidden" in button  # it does nothing without the script
    ((_, sentence),) = page.find("p", role="status")
    assert sentence == describe(0.25)
    assert f'<div class="dpo-frame">{svg(draw(0.25), describe(0.25))}</div>' in text


def test_the_data_hold_a_frame_and_a_sentence_for_each_position(static):
    data = data_of(Page(static()._repr_html_()))
    assert data["labels"] == ["β"]
    assert data["values"] == [["0.1", "0.25", "0.5", "1"]]
    assert data["sentences"] == [describe(beta) for beta in GRID]
    assert data["frames"] == [svg(draw(beta), describe(beta)) for beta in GRID]


def test_a_sentence_cannot_break_out_of_the_data_or_the_page(static):
    text = static()._repr_html_()
    assert text.count("</script>") == 1  # the data's own end
    page = Page(text)
    assert len(page.find("script")) == 1
    assert not page.find("b")


def test_a_value_that_looks_like_markup_is_shown_as_text(static):
    def made(*values):
        slider = static(beta=values, describe=lambda beta: "", draw=lambda beta: draw(1))
        return Page(slider._repr_html_())

    values = ('<i>"', "&amp;")
    few, many = made(*values), made(*values, *"abcde")
    for page in few, many:
        assert not page.find("i")
        assert [text for _, text in page.find("td")][:3:2] == list(values)
    assert [text for _, text in few.find("label")] == list(values)
    assert [text for _, text in many.find("option")][:2] == list(values)


def test_numbers_are_slid_along_and_names_are_chosen_from(static):
    def kinds(**choices):
        page = Page(static(describe=lambda **_: "", draw=lambda **_: draw(1), **choices)
                    ._repr_html_())  # fmt: skip
        inputs = [attributes["type"] for attributes, _ in page.find("input")]
        return inputs, len(page.find("select")), len(page.find("fieldset"))

    assert kinds(beta=(1, 2)) == (["text", "range"], 0, 0)
    assert kinds(beta=tuple("abcdef")) == (["radio"] * 6, 0, 1)
    assert kinds(beta=tuple("abcdefg")) == ([], 1, 0)


def test_names_are_a_named_group_with_the_starting_one_chosen(static):
    page = Page(static(wins=("few", "many"), start={"wins": "many"}, describe=lambda **_: "",
                       draw=lambda **_: draw(1))._repr_html_())  # fmt: skip
    assert [text for _, text in page.find("legend")] == ["wins"]
    radios = [attributes for attributes, _ in page.find("input", type="radio")]
    assert ["checked" in radio for radio in radios] == [False, True]
    assert len({radio["name"] for radio in radios}) == 1
    page = Page(static(beta=tuple("abcdefg"), start={"beta": "b"}, describe=lambda **_: "",
                       draw=lambda **_: draw(1))._repr_html_())  # fmt: skip
    assert [text for a, text in page.find("option") if "selected" in a] == ["b"]


def test_a_slider_says_what_it_takes_and_each_control_its_name(static):
    page = Page(static(wins=(3, 30))._repr_html_())
    ((slider, _),) = page.find("div", **{"class": "dpo-slider"})
    controls = page.find("div", **{"class": "dpo-control"})
    assert slider["data-takes"].split() == [c["data-name"] for c, _ in controls] == ["beta", "wins"]


@pytest.mark.parametrize(
    "values", [BETAS, range(3), range(9), range(10), range(41), range(0, 10**6, 7919)]
)
def test_five_to_eight_values_stand_under_a_slider_the_ends_among_them(values):
    texts = [text(value) for value in values]
    chosen = ticks(texts)
    assert chosen == sorted(set(chosen))
    assert {0, len(texts) - 1} <= set(chosen)
    assert len(chosen) == len(texts) or 5 <= len(chosen) <= 8
    gaps = [b - a for a, b in pairwise(chosen)]
    assert gaps == [] or max(gaps) <= 2 * min(gaps)


def test_two_sliders_count_positions_as_the_script_does(static):
    wins = (3, 30)
    page = Page(static(wins=wins)._repr_html_())
    data, controls = data_of(page), page.find("input", type="range")
    assert [int(control["max"]) + 1 for control, _ in controls] == [4, 2]
    assert "parts.reduce((sum, part) => sum * part.values.length + part.at(), 0)" in SCRIPT
    for places in itertools.product(range(4), range(2)):
        position = 0
        for k, place in enumerate(places):  # the script's arithmetic: the last varies fastest
            position = position * len(data["values"][k]) + place
        chosen = GRID[places[0]], wins[places[1]]
        assert data["sentences"][position] == describe(*chosen)
        assert data["frames"][position] == svg(draw(*chosen), describe(*chosen))
    start = sum(int(c["value"]) * size for (c, _), size in zip(controls, (2, 1), strict=True))
    assert page.find("p", role="status")[0][1] == data["sentences"][start]


def test_a_table_says_every_position_without_javascript(static):
    page = Page(static(wins=(3, 30))._repr_html_())
    cells = [text for _, text in page.find("td")]
    wanted = [[f"{b:g}", str(w), describe(b, w)] for b, w in itertools.product(GRID, (3, 30))]
    assert cells == [cell for row in wanted for cell in row]
    assert [text for _, text in page.find("th")] == ["β", "wins", "what the picture shows"]
    assert len(page.find("summary")) == 1


def test_a_slider_is_the_same_bytes_each_time_and_its_ids_are_its_own(static):
    assert static()._repr_html_() == static()._repr_html_()
    pages = [Page(static(**options)._repr_html_()) for options in ({}, {"title": "Another line"})]
    ids = [[a["id"] for _, a, _ in page.elements if "id" in a] for page in pages]
    for page_ids in ids:
        assert len(page_ids) == len(set(page_ids))
    controls = [{i for i in page_ids if i.startswith("dpo-")} for page_ids in ids]
    assert controls[0].isdisjoint(controls[1])
    for page in pages:
        (control,) = (attributes for attributes, _ in page.find("input", type="range"))
        assert page.find("label", **{"for": control["id"]})


def test_a_title_is_the_group_s_name(static):
    slider = static(title='"β" & <you>')
    ((group, _),) = Page(slider._repr_html_()).find("div", role="group")
    assert group["aria-label"] == '"β" & <you>'
    assert repr(slider) == f'Slider: "β" & <you>. {describe(0.5)}'


@pytest.mark.parametrize("start", [{"beta": 0.3}, {"gamma": 0.1}])
def test_a_start_off_the_grid_is_refused(static, start):
    ((name, value),) = start.items()
    with pytest.raises(
        ValueError, match=re.escape(f"start['{name}'] must lie on the grid, got {value}")
    ):
        static(start=start)


def test_the_grid_of_beta_rises_and_holds_the_values_of_the_text():
    assert list(BETAS) == sorted(set(BETAS))
    assert {0.05, 0.1, 0.5, 1.0, 5.0, 20.0} <= set(BETAS)


@pytest.mark.parametrize(
    ("grid", "kind"),
    [(GRID, "SelectionSlider"), (("few", "many"), "RadioButtons"), (tuple("abcdefg"), "Dropdown")],
)
def test_with_a_kernel_a_control_is_of_the_kind_that_a_page_has(monkeypatch, grid, kind):
    monkeypatch.delenv("DPO_BOOK_BUILD", raising=False)
    box = slide(lambda x: draw(1), lambda x: str(x), "A line", {"x": grid[1]}, x=grid)
    _, control, picture = box.children
    assert type(control).__name__ == kind and control.value == grid[1]
    control.value = grid[0]
    assert f"<p>{grid[0]}</p>" in picture.value


def test_with_a_kernel_moving_the_slider_redraws_the_picture(monkeypatch):
    monkeypatch.delenv("DPO_BOOK_BUILD", raising=False)
    box = slide(draw, describe, "A line", {"beta": 0.25}, beta=GRID, wins=(3, 30))
    assert not isinstance(box, StaticSlider)
    _, beta, wins, picture = box.children
    assert (beta.description, beta.value, wins.value) == ("β", 0.25, 30)
    assert picture.value.startswith(svg(draw(0.25, 30), describe(0.25, 30)))
    beta.value = 1.0
    assert picture.value.startswith(svg(draw(1.0, 30), describe(1.0, 30)))
    wins.value = 3
    assert picture.value.startswith(svg(draw(1.0, 3), describe(1.0, 3)))
    Page(picture.value)
    assert "<b>" not in picture.value
