"""What holds on every page: nothing is cut off unseen, paper and a browser without scripts get all
of it, and it is light to load and to take along."""

import re
import zipfile

import pytest
from address import pages_url
from archive import NAME, SIZE
from conftest import SOURCES
from PIL import Image
from shrink import icons_of
from test_pages import PAGES, ROOT, settle, visit

WIDTHS = (1280, 768, 390)
SHARED, PAGE = 3_000_000, 1_500_000  # bytes, uncompressed
ON_A_CLICK = ("mathjax/a11y", "mathjax/sre")  # MathJax's menu loads them

# Elements that lie beyond the window, or whose text does not fit: [what, does it show a sign?].
CUT_OFF = """() => {
  const found = [];
  for (const e of document.querySelectorAll(".bd-article-container *")) {
    if (e.closest("svg svg, svg *, mjx-assistive-mml, [hidden], .visually-hidden")) continue;
    const style = getComputedStyle(e), name = `${e.tagName} ${e.textContent.trim().slice(0, 60)}`;
    const scrolls = style.overflowX !== "visible" && style.display !== "inline";
    if (!e.checkVisibility() || e.clientWidth <= 1) continue; // one pixel wide: said, not shown
    if (scrolls && e.scrollWidth > e.clientWidth + 1) {
      const shadows = style.backgroundAttachment.split(", ");
      const sign = ["local", "scroll"].every((kind) => shadows.includes(kind));
      const covered = [...e.querySelectorAll("tr, td")].some(
        (part) => getComputedStyle(part).backgroundColor !== "rgba(0, 0, 0, 0)");
      found.push([e.matches("div.math, mjx-container") ? "equation" : e.tagName, name,
        sign && !covered && e.tabIndex === 0]);
    }
    if (e.matches("span.math mjx-container:not(td *, .dpo-frame *)")) {
      const line = e.closest("p, li, dd, dt, figcaption, summary, h1, h2, h3, h4");
      if (line && e.getBoundingClientRect().right > line.getBoundingClientRect().right + 2)
        found.push(["formula", name, false]);
    }
  }
  return found;
}"""


def url(built_book, name):
    return (built_book / f"{name}.html").as_uri()


@pytest.mark.parametrize("name", PAGES)
def test_at_three_widths_what_is_cut_off_shows_it_and_is_reached_by_keyboard(
    browser, built_book, name
):
    with visit(browser, url(built_book, name)) as (page, _):
        settle(page)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            page.evaluate(
                "() => new Promise((r) => requestAnimationFrame(() => setTimeout(r, 50)))"
            )
            found = page.evaluate(CUT_OFF)
            assert [what for _, what, sign in found if not sign] == [], width
            if width == 390:
                assert [what for kind, what, _ in found if kind == "equation"] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


BREAKS = [  # an equation, a width in ex, what a mathematician writes
    (r"a=b+c", 99, r"a=b+c"),
    (
        r"p(y_1 \succ y_2) = \log\sigma(y_1 + y_2) = \log\sigma(y_1 - y_2)",
        36,
        r"\begin{aligned}p(y_1 \succ y_2)&= \log\sigma(y_1 + y_2)\\"
        r"&= \log\sigma(y_1 - y_2)\end{aligned}",
    ),
    (
        r"k_1 = -\log u, \qquad k_2 = u - 1 - \log u",
        30,
        r"\begin{aligned}&k_1 = -\log u,\\&k_2 = u - 1 - \log u\end{aligned}",
    ),
    (
        r"J = \mathbb{E}\big[r(x, y) - r(x, z)\big] - \beta\,\mathrm{KL}(\pi \,\|\, \pi_0)",
        30,
        r"\begin{aligned}J&= \mathbb{E}\big[r(x, y) - r(x, z)\big]\\"
        r"&\qquad {}- \beta\,\mathrm{KL}(\pi \,\|\, \pi_0)\end{aligned}",
    ),
]


def test_equations_break_at_statements_then_relations_then_signs_outside_brackets(
    browser, built_book
):
    with visit(browser, url(built_book, "book/05_optimal_policy")) as (page, complaints):
        settle(page)
        for tex, room, wanted in BREAKS:
            made = page.evaluate("([tex, room]) => dpoBreaks.broken(tex, room)", [tex, room])
            assert made.replace(" \\\\", "\\\\") == wanted
        pieces = page.evaluate(r"dpoBreaks.pieces('a + b \\approx c')")
        assert [piece.replace(" ", "") for piece in pieces] == ["a+{}", r"b\approx{}", "c"]
        assert complaints == []


def test_an_equation_is_whole_again_when_the_window_grows_and_keeps_its_number(browser, built_book):
    address = url(built_book, "book/05_optimal_policy")
    with visit(browser, address, viewport={"width": 390, "height": 844}) as (page, _):
        settle(page)
        equation = page.locator("#eq-12")
        page.wait_for_selector("#eq-12.dpo-broken")
        assert equation.locator(".dpo-tag").inner_text() == "(12)"
        page.set_viewport_size({"width": 1280, "height": 844})
        page.wait_for_selector("#eq-12:not(.dpo-broken)")
        assert equation.locator(".dpo-tag").count() == 0
        assert equation.locator("[data-mml-node=mlabeledtr]").count() == 1


@pytest.mark.parametrize("name", SOURCES)
def test_paper_shows_what_is_folded_and_nothing_to_press(browser, built_book, name):
    with visit(browser, url(built_book, name)) as (page, _):
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.evaluate("document.getAnimations().forEach((animation) => animation.finish())")
        hidden = page.evaluate(
            "[...document.querySelectorAll('article details > :not(summary, script, .dpo-live)')]"
            ".filter((e) => !e.checkVisibility({opacityProperty: true}) || !e.clientHeight).length"
        )
        assert hidden == 0
        shown = page.locator(
            ":is(article :is(input, button), .bd-sidebar-primary, .bd-header-article, "
            ".prev-next-footer):visible"
        )
        assert shown.count() == 0
        split = page.evaluate(
            "[...document.querySelectorAll('.dpo-figure, .dpo-slider > .dpo-frame')]"
            ".filter((e) => getComputedStyle(e).breakInside !== 'avoid').length"
        )
        assert split == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("article details.hide[open]").count() == 0


@pytest.mark.parametrize("name", SOURCES)
def test_without_javascript_a_page_shows_its_text_figures_and_formulas(browser, built_book, name):
    with visit(browser, url(built_book, name), java_script_enabled=False) as (page, _):
        for fold in page.locator(".dpo-depth > details > summary").all():
            fold.press("Enter")  # a click may meet the link in the heading
        unseen = [
            element
            for selector in ("article h1", ".dpo-figure svg", ".dpo-slider .dpo-frame svg")
            for element in page.locator(selector).all()
            if not element.is_visible()
        ]
        assert unseen == []
        for formula in page.locator("article > section > div.math").all():
            assert formula.is_visible() and "\\[" in formula.inner_text()
        fold = page.locator("article :not(.dpo-depth) > details:has(> summary)").first
        if fold.count():
            fold.locator("summary").first.click()
            assert fold.locator(":scope > :not(summary)").first.is_visible()


@pytest.mark.parametrize("name", PAGES)
def test_every_icon_of_a_page_has_its_drawing(browser, built_book, name):
    with visit(browser, url(built_book, name)) as (page, complaints):
        page.wait_for_function("!document.querySelector('i[class*=fa-]')")
        icons = page.locator("svg.svg-inline--fa")
        assert icons.count() > 5
        drawn = icons.evaluate_all(  # a missing icon is a group, not a path
            "icons => icons.map((e) => e.querySelector(':scope > path')?.getAttribute('d') ?? '')"
        )
        assert min(map(len, drawn)) > 20
        assert complaints == []


def test_icons_that_nobody_uses_are_left_out(built_book):
    script = (built_book / "_static/scripts/fontawesome.js").read_text()
    assert "magnifying-glass" in icons_of(built_book)
    assert len(re.findall(r'"[0-9a-f]{3,4}","M', script)) < 60
    assert "address-book" not in script


def test_shared_files_are_under_three_megabytes_and_a_page_under_one_and_a_half(built_book):
    static = built_book / "_static"
    shared = {
        str(file.relative_to(static)): file.stat().st_size
        for file in static.rglob("*")
        if file.is_file()
    }
    loaded = {name: n for name, n in shared.items() if not name.startswith(ON_A_CLICK)}
    assert sum(loaded.values()) < SHARED, sorted(loaded.items(), key=lambda x: -x[1])[:5]
    assert not [name for name in shared if name.endswith((".map", ".gif", ".ttf"))]
    sizes = {name: (built_book / f"{name}.html").stat().st_size for name in PAGES}
    assert {name: size for name, size in sizes.items() if size > PAGE} == {}


def test_the_archive_is_the_whole_book_and_works_where_it_is_unpacked(
    browser, built_book, tmp_path
):
    with zipfile.ZipFile(built_book / NAME) as archive:
        archive.extractall(tmp_path)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())
    files = {
        str(file.relative_to(built_book)): file.read_bytes()
        for file in built_book.rglob("*")
        if file.is_file() and file.name[0] != "." and file.name != NAME
        if file.parent.name != "live"  # of no use to a page that is opened from disk
    }
    book = tmp_path / "dpo-book"
    assert {
        str(f.relative_to(book)): f.read_bytes() for f in book.rglob("*") if f.is_file()
    } == files
    with visit(browser, (book / "index.html").as_uri()) as (page, complaints):
        page.wait_for_url(f"**/{SOURCES[0]}.html")
        settle(page)
        assert page.locator("mjx-container").count() > 0
        assert complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_links_to_the_archive_and_says_its_size(built_book, name):
    text = (built_book / f"{name}.html").read_text()
    assert SIZE not in text
    link = re.search(rf'<a href="((?:\.\./)*{re.escape(NAME)})" download>.*?\((\d+) MB\)', text)
    archive = (built_book / f"{name}.html").parent / link[1]
    assert round(archive.stat().st_size / 1e6) == int(link[2])


def test_a_shared_link_has_a_picture_where_the_address_is_known_and_none_elsewhere(
    monkeypatch, tmp_path
):
    from heads import shared

    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert pages_url(tmp_path) is None
    assert pages_url(tmp_path, "https://example.org/book") == "https://example.org/book/"
    monkeypatch.setenv("GITHUB_REPOSITORY", "Reader/fork")
    assert pages_url(tmp_path) == "https://reader.github.io/fork/"
    tags = shared(pages_url(tmp_path), "book/05_optimal_policy.html")
    assert '"https://reader.github.io/fork/_static/social.png"' in tags
    assert '"https://reader.github.io/fork/book/05_optimal_policy.html"' in tags


def test_the_picture_of_a_shared_link_has_the_size_that_services_show():
    path = ROOT / "assets/social.png"
    assert Image.open(path).size == (1200, 630) and path.stat().st_size < 100_000


REACHED = """() => {
  const e = document.activeElement;
  if (e === document.body || e.dataset.reached) return null;
  e.dataset.reached = "yes";
  const style = getComputedStyle(e);
  const seen = style.outlineStyle !== "none" || style.boxShadow !== "none";
  return [seen, `${e.tagName} ${e.textContent.trim().slice(0, 40)}`];
}"""
UNREACHED = """() => [...document.querySelectorAll(
    'a[href], button, summary, input:not([type=radio]), [tabindex="0"]')]
  .filter((e) => !e.dataset.reached && !e.disabled && e.tabIndex >= 0
    && e.checkVisibility({ visibilityProperty: true }))
  .map((e) => e.outerHTML.slice(0, 80))"""


def test_tab_passes_the_skip_link_first_then_all_there_is_and_always_shows_where(
    browser, built_book
):
    with visit(browser, url(built_book, "book/05_optimal_policy")) as (page, _):
        settle(page)
        page.keyboard.press("Tab")
        assert "Skip to main content" in page.evaluate("document.activeElement.textContent")
        reached = [page.evaluate(REACHED)]
        while reached[-1] is not None:
            page.keyboard.press("Tab")
            reached.append(page.evaluate(REACHED))
        assert [name for seen, name in reached[:-1] if not seen] == []
        assert page.evaluate(UNREACHED) == []
