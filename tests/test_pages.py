"""Every page of the built book in a browser, served and from disk, nothing else in reach."""

import re
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import axe_playwright_python
import pytest
from conftest import ROOT, SOURCES

PAGES = [*SOURCES, "genindex", "search"]
TEXT = {name: path.read_text() for name in SOURCES for path in ROOT.glob(f"{name}.*")}
WITH_SLIDER = [name for name in SOURCES if "slide(" in TEXT[name]]
OUTSIDE = re.compile(r"^(?!file:|data:|blob:|http://127\.0\.0\.1[:/])")
UNFOLD = "document.querySelectorAll('.dpo-depth > details').forEach(e => { e.open = true; })"
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()


@pytest.fixture(scope="session")
def served(built_book):
    handler = partial(SimpleHTTPRequestHandler, directory=built_book)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["from disk", "served"])
def origin(request, built_book, served):
    return served if request.param == "served" else built_book.as_uri()


@contextmanager
def visit(browser, address, **options):
    """Open a page; yields it and a list that fills with errors and requests to other machines."""
    with browser.new_context(**options) as context:
        complaints = []

        def refuse(route):
            complaints.append(f"asked for {route.request.url}")
            route.abort()

        context.route(OUTSIDE, refuse)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        yield page, complaints


def settle(page):
    """Wait for the mathematics, and unfold what is folded."""
    page.evaluate("window.MathJax?.startup.promise")
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    page.evaluate("document.getAnimations().forEach(animation => animation.finish())")


def violations(page, **options):
    page.evaluate(AXE)
    # preload: axe would fetch the style sheets, which a page from disk may not do
    options |= {"preload": False, "resultTypes": ["violations"]}
    found = page.evaluate("options => axe.run(options)", options)
    return [(v["id"], node["target"]) for v in found["violations"] for node in v["nodes"]]


def test_these_are_all_the_pages(built_book):
    built = {str(path.relative_to(built_book)) for path in built_book.rglob("*.html")}
    pages = {name for name in built if not name.startswith("_static")}
    assert pages == {f"{name}.html" for name in [*PAGES, "index"]}


def test_the_index_leads_to_the_first_chapter(browser, origin):
    with visit(browser, f"{origin}/index.html") as (page, complaints):
        page.wait_for_url(f"**/{SOURCES[0]}.html")
        assert complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_complete_without_the_network(browser, origin, name):
    with visit(browser, f"{origin}/{name}.html") as (page, complaints):
        settle(page)
        assert complaints == []
        assert page.locator("mjx-container").count() > 0 or "$" not in TEXT.get(name, "")
        assert page.locator('[data-mml-node="merror"]').count() == 0
        prose = page.evaluate(
            "[...document.querySelectorAll('article :is(p, li, td, th):not(:has(code)), h1, h2')]"
            ".map(e => e.textContent).join(' ')"
        )
        assert not re.search(r"\\[()\[\]]|\$", prose), "mathematics left as source"


@pytest.mark.parametrize("name", WITH_SLIDER)
def test_a_slider_moves_by_keyboard_and_mouse(browser, origin, name):
    with visit(browser, f"{origin}/{name}.html") as (page, complaints):
        page.evaluate(UNFOLD)
        sliders = page.locator(".dpo-slider").all()
        assert sliders
        for slider in sliders:
            for control in slider.locator("input[type=range]").all():

                def seen(slider=slider, control=control):
                    return (
                        slider.locator(".dpo-frame").inner_html(),
                        control.locator("xpath=../input[@class='dpo-value']").input_value(),
                        control.get_attribute("aria-valuetext"),
                    )

                states = []
                for key in ("End", "Home", "ArrowRight"):
                    control.press(key)
                    states.append(seen())
                control.click(position={"x": 2, "y": control.bounding_box()["height"] / 2})
                states.append(seen())
                for before, after in pairwise(states):
                    assert all(old != new for old, new in zip(before, after, strict=True))
        assert complaints == []


@pytest.mark.parametrize("name", WITH_SLIDER)
def test_a_slider_without_javascript_is_a_picture_and_a_table(browser, origin, name):
    with visit(browser, f"{origin}/{name}.html", java_script_enabled=False) as (page, _):
        for fold in page.locator(".dpo-depth > details > summary").all():
            fold.press("Enter")
        sliders = page.locator(".dpo-slider").all()
        assert sliders
        for slider in sliders:
            assert slider.locator("svg").is_visible()
            positions = 1
            for control in slider.locator(".dpo-control").all():
                names = control.locator("input[type=radio], option").count()
                ranges = control.locator("input[type=range]").all()
                positions *= names + sum(int(r.get_attribute("max")) + 1 for r in ranges)
            assert slider.locator("details tbody tr").count() == positions


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible(browser, built_book, name, theme):
    with visit(browser, (built_book / f"{name}.html").as_uri(), color_scheme=theme) as (page, _):
        settle(page)
        assert page.locator("html").get_attribute("data-theme") == theme
        assert violations(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(browser, built_book, name):
    phone = {"width": 390, "height": 844}
    with visit(browser, (built_book / f"{name}.html").as_uri(), viewport=phone) as (page, _):
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
        assert violations(page, runOnly=["scrollable-region-focusable"]) == []


def test_a_search_finds_a_chapter(browser, origin):
    with visit(browser, f"{origin}/search.html") as (page, complaints):
        page.locator("main input[name=q]").fill("preferences")
        page.keyboard.press("Enter")
        page.wait_for_selector("#search-results li a[href*='book/']")
        assert complaints == []
