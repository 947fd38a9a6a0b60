"""Proofs that a reader changes in the page: what is offered, and that Python there runs it."""

import importlib.util
import json
import os
import re
import threading
from functools import partial
from http.server import ThreadingHTTPServer

import live
import pytest
from build import Quiet
from conftest import NOTEBOOKS, ROOT, SOURCES
from playwright.sync_api import expect
from slicing import CLAIM, cut, statements
from test_pages import violations, visit

from dpo_lib.statements.proofs import PROOFS
from dpo_lib.statements.trying import attempt

CHAPTER, LEDGER, OWN = "book/05_optimal_policy", "book/ledger", "book/try_a_statement"
CLAIMING = [path for path in NOTEBOOKS if CLAIM.search(path.read_text())]
WITHOUT = {("how_to_judge", "position-sympy"), ("ppo_in_full", "k-predict")}  # inside a question
MINUTE = 60_000  # milliseconds
LOADING = 120_000  # on a busy machine


@pytest.fixture(scope="module")
def offered(built_book):
    """Page -> what it holds of its proofs; the ledger's are in a script beside it."""
    found = {}
    for name in SOURCES:
        text = (built_book / f"{name}.html").read_text()
        if script := re.search(r'class="dpo-live-data">(.*?)</script>', text):
            found[name] = json.loads(script[1]) | {"bytes": len(script[1].encode())}
            places = re.findall(r'class="dpo-live" data-cell="(.*?)"', text)
            assert sorted(places) == sorted(found[name]["cells"])
    return found


@pytest.fixture(scope="module")
def proofs(built_book):
    text = (built_book / "_static/live_proofs.js").read_text()
    return json.loads(text.partition("=")[2].rstrip(";\n"))


@pytest.fixture(scope="module")
def site(built_book):
    """The address of the built book, Python included."""
    if not (built_book / "live/made.json").exists():
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("there is no Python in the pages: run `make live`")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built_book)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def setup_of(data, cell):
    return "\n".join(data["setup"][place] for place in cell["setup"])


def control(page, cell):
    """The control of a cell, its folds unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    return page.locator(f'.dpo-live[data-cell="{cell}"]')


def told(place, words, timeout=LOADING):
    expect(place.get_by_role("status")).to_contain_text(words, timeout=timeout)


@pytest.mark.parametrize("path", CLAIMING, ids=lambda path: path.stem)
def test_every_cell_of_algebra_has_a_control_that_is_proved(offered, path):
    book = json.loads(path.read_text())
    cells = {cell["id"]: "".join(cell["source"]) for cell in book["cells"] if "outputs" in cell}
    claiming = {name for name, source in cells.items() if CLAIM.search(source)}
    data = offered[f"book/{path.stem}"]
    without = claiming - data["cells"].keys()
    assert without == {cell for page, cell in WITHOUT if page == path.stem}
    for name, cell in data["cells"].items():
        verdict = attempt(setup_of(data, cell), cell["source"])
        assert verdict.word == "proved", (name, verdict)


def test_every_edit_that_is_suggested_is_refuted(offered, proofs):
    edited = []
    for page, data in offered.items():
        for name, cell in data["cells"].items():
            whole, text = (proofs, proofs["cells"][name]) if page == LEDGER else (data, cell)
            for label, old, new in cell.get("edits", []) if page != OWN else []:
                assert old in text["source"]
                changed = text["source"].replace(old, new, 1)
                verdict = attempt(setup_of(whole, text), changed)
                assert verdict.sentence.startswith("Refuted at "), (page, name, label, verdict)
                edited.append([page.removeprefix("book/"), name, label, old, new])
    assert sorted(edited) == sorted(live.EDITS)
    assert len({page for page, *_ in edited}) >= 9


def test_the_three_examples_get_the_three_verdicts(offered):
    cell = offered[OWN]["cells"]["own"]
    words = [attempt(setup_of(offered[OWN], cell), text).word for _, _, text in cell["edits"]]
    assert words == ["proved", "refuted", "undecided"]


def test_the_ledger_has_a_control_for_each_statement(offered, proofs):
    named = {prove.__name__ for prove in PROOFS.values()}
    assert len(named) == 39
    assert offered[LEDGER]["cells"].keys() == proofs["cells"].keys() == named


def test_a_page_is_hardly_heavier_for_it(offered):
    assert {name: n for name, data in offered.items() if (n := data["bytes"]) > 10_000} == {}


def slices(*cells):
    *before, last = cells
    known = [statement for cell in before for statement in statements(cell)]
    made = cut(known, last)
    return made and ([known[place].text for place in made[0]], made[1])


def test_a_slice_takes_what_is_needed_and_what_a_function_needs_when_it_is_called():
    first = "import sympy as sp\nx = sp.Symbol('x')\nunused = 1\n\n\ndef f():\n    return y"
    setup, cell = slices(first, "y = x\nx = 2", "assert is_zero(f())")
    assert setup == [
        "import sympy as sp", "x = sp.Symbol('x')", "\n\ndef f():\n    return y", "y = x",
    ]  # fmt: skip
    assert cell == "assert is_zero(f())"


def test_a_slice_leaves_out_what_no_page_can_run():
    setup, cell = slices(
        "import torch\nimport sympy as sp\nt = torch.ones(3)",
        "a = sp.S(1)  # kept\nb = t.sum()\nassert is_zero(a - 1)\nassert is_zero(b)\nprint(b)",
    )
    assert setup == ["import sympy as sp"]
    assert cell == "a = sp.S(1)  # kept\nassert is_zero(a - 1)"
    assert slices("import torch\nt = torch.ones(3)", "assert is_zero(t)") is None


def test_a_name_that_a_comprehension_binds_is_its_own():
    made = slices("import torch\nx = torch.ones(3)", "assert all(is_zero(x) for x in (0, 0))")
    assert made == ([], "assert all(is_zero(x) for x in (0, 0))")


def test_every_proof_of_the_ledger_runs_in_the_page(browser, site):
    with visit(browser, f"{site}/{LEDGER}.html") as (page, complaints):
        for prove in PROOFS.values():
            place = control(page, prove.__name__)
            place.get_by_role("button", name="Run and change this proof").click()
            place.get_by_role("button", name="Run", exact=True).click()
            told(place, "Proved: ")
        assert complaints == []


def test_nothing_is_asked_for_before_a_reader_opens_a_proof(browser, site):
    for name in (CHAPTER, LEDGER, OWN):
        with browser.new_context() as context:
            page, asked = context.new_page(), []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(f"{site}/{name}.html", wait_until="networkidle")
            assert [url for url in asked if "/live" in url and "live.js" not in url
                    and "live.css" not in url] == []  # fmt: skip


def test_a_proof_is_changed_refuted_and_mended_by_keyboard(browser, site):
    with visit(browser, f"{site}/{CHAPTER}.html") as (page, complaints):
        place = control(page, "cell-15")
        toggle = place.get_by_role("button", name="Run and change this proof")
        toggle.press("Enter")
        area = place.locator("textarea")
        expect(area).to_be_focused()
        told(place, "Ready")
        area.press("Control+Home")
        page.keyboard.type("print('seen')\n")
        page.keyboard.press("Control+Enter")
        told(place, "Proved: 2 claims, 1 false claim refuted.")
        expect(place.locator("pre")).to_have_text("seen\n")
        page.keyboard.press("Control+A")
        page.keyboard.type("assert is_zero(J - b * line_12(Z_symbol))")
        page.keyboard.press("Control+Enter")
        told(place, "NameError on line 1: name 'line_12' is not defined")
        place.get_by_role("button", name="Reset").press("Enter")
        page.keyboard.press("Control+Enter")
        told(place, "Proved: 2 claims")
        page.keyboard.press("Tab")
        expect(place.get_by_role("button", name="Run", exact=True)).to_be_focused()
        page.keyboard.press("Escape")
        expect(toggle).to_be_focused()
        expect(area).to_be_hidden()
        assert complaints == []


def test_a_suggested_edit_is_made_and_refuted_with_numbers(browser, site):
    with visit(browser, f"{site}/{CHAPTER}.html") as (page, complaints):
        place = control(page, "cell-15")
        place.get_by_role("button", name="forget 1/β").click()
        told(place, "Refuted at r_1 = 2, r_2 = 1, r_3 = -1, beta = 1/2, ")
        expect(place.locator("textarea")).to_have_value(re.compile(r"is_zero\(-J - line_12"))
        told(place, "assert is_zero(-J - line_12(Z_symbol))")
        marked = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
        assert place.locator("textarea").evaluate(marked) == "is_zero(-J - line_12(Z_symbol))"
        other = control(page, "cell-25")
        other.get_by_role("button", name="drop log Z").click()
        told(other, "Refuted at ", timeout=MINUTE)
        assert complaints == []


def test_a_run_without_end_is_stopped_and_the_next_one_works(browser, site):
    with visit(browser, f"{site}/{OWN}.html") as (page, complaints):
        page.clock.install()
        page.reload()
        place = control(page, "own")
        place.locator("textarea").fill("while True:\n    pass")
        place.get_by_role("button", name="Run", exact=True).click()
        told(place, "Running")
        page.clock.fast_forward(MINUTE)
        told(place, "Still running after 60 seconds; Stop ends it.")
        place.get_by_role("button", name="Stop").click()
        told(place, "Stopped. The next run loads Python again.")
        for label, verdict in zip(
            ("a true one", "a false one", "an undecided one"),
            ("Proved: 1 claim.", "Refuted at ", "Undecided: "),
            strict=True,
        ):
            place.get_by_role("button", name=label).click()
            told(place, verdict)
        assert complaints == []


def test_a_page_from_disk_says_how_to_open_it(browser, built_book):
    with visit(browser, (built_book / f"{LEDGER}.html").as_uri()) as (page, complaints):
        place = control(page, "prove_theorem")
        place.get_by_role("button", name="Run and change this proof").click()
        told(place, "opened from disk. Run make live once, then make book")
        assert place.locator("textarea").input_value().startswith("def prove_theorem")
        assert complaints == []


def test_a_book_without_python_says_so(browser, site):
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/live/**", lambda route: route.fulfill(status=404))
        page.goto(f"{site}/{CHAPTER}.html")
        page.evaluate(
            """() => document.body.insertAdjacentHTML(
              "beforeend", '<a href="https://colab.research.google.com/here">Colab</a>')"""
        )
        place = control(page, "cell-15")
        place.get_by_role("button", name="Run and change this proof").click()
        told(place, "This copy of the book was built without Python in its pages: make live")
        colab = place.get_by_role("link", name="open the page in Colab")
        assert colab.get_attribute("href") == "https://colab.research.google.com/here"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_open_proof_is_accessible_and_fits(browser, site, theme, width):
    look = {"color_scheme": theme, "viewport": {"width": width, "height": 844}}
    with visit(browser, f"{site}/{OWN}.html", **look) as (page, complaints):
        place = control(page, "own")
        place.get_by_role("button", name="a false one").click()
        told(place, "Refuted at ")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in place.get_by_role("button").all():
            assert button.bounding_box()["height"] >= 24
        assert complaints == []


def test_paper_and_a_browser_without_scripts_show_no_control(browser, built_book):
    address = (built_book / f"{CHAPTER}.html").as_uri()
    with visit(browser, address, java_script_enabled=False) as (page, _):
        assert page.locator(".dpo-live:visible").count() == 0
    with visit(browser, address) as (page, _):
        assert page.locator(".dpo-live-bar").count() > 3
        page.emulate_media(media="print")
        assert page.locator(".dpo-live:visible").count() == 0


@pytest.fixture
def fetching(monkeypatch, tmp_path):
    """scripts/live.py, for a folder of its own."""
    spec = importlib.util.spec_from_file_location("live_script", ROOT / "scripts/live.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "LIVE", tmp_path / "_live")
    return script


def test_without_npm_one_sentence_says_what_is_missing(fetching, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"^npm is missing: install it .*$"):
        fetching.main()
    assert not fetching.LIVE.exists()


def test_another_file_than_the_one_that_is_meant_is_refused(fetching, monkeypatch, tmp_path):
    def fetch(folder):
        for name in fetching.HASHES:
            (folder / name).write_bytes(b"something else")

    monkeypatch.setattr(fetching, "fetch", fetch)
    with pytest.raises(SystemExit, match=r"pyodide-.* its hash differs"):
        fetching.main()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_fetched_is_told_in_one_line(fetching):
    with pytest.raises(SystemExit) as stopped:
        fetching.run("sympy", "sh", "-c", "echo first >&2; echo 'no such version' >&2; exit 1")
    assert str(stopped.value) == "sympy was not fetched: no such version"
