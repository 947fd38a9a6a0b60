"""Questions in the browser: every one of every page is answered by keyboard, as its data say."""

import re
from collections import Counter
from itertools import combinations

import pytest
from bs4 import BeautifulSoup
from conftest import SOURCES
from playwright.sync_api import expect
from test_pages import TEXT, UNFOLD, settle, violations, visit

IMPORT = re.compile(r"from dpo_lib\.page(\.| import )questions")
ASKING = [name for name in SOURCES if IMPORT.search(TEXT[name])]
PROGRESS = "book/progress"
EMPTY = re.compile(r"^$|^There is no whole answer yet\.$")

each_page = pytest.mark.parametrize("name", ASKING)


@pytest.fixture(scope="session")
def soups(built_book):
    return {
        n: BeautifulSoup((built_book / f"{n}.html").read_text(), "html.parser") for n in SOURCES
    }


@pytest.fixture
def opened(browser, built_book):
    """Open a page from disk; the same browser profile each time."""
    with browser.new_context() as context:
        complaints = []

        def open_page(name):
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto((built_book / f"{name}.html").as_uri())
            page.evaluate("window.MathJax?.startup.promise")
            page.evaluate(UNFOLD)
            return page

        open_page.context = context
        yield open_page
        assert complaints == []


def data_of(question):
    return question.evaluate("e => JSON.parse(e.querySelector('script').textContent)")


def attempts(data):
    """A right, a nearly right and a wrong answer to a question, as far as it has them."""
    kind, right, slips = data["kind"], data.get("answer"), data.get("slips")
    if kind == "number":
        return repr(right), repr(slips[0][0]), "98765.4321"
    if kind == "choice":
        others = [place for place in range(len(data["choices"])) if place != right]
        nearly = [place for place in others if str(place) in slips]
        wrong = [place for place in others if str(place) not in slips]
        return right, (nearly or [None])[0], (wrong or [None])[0]
    if kind == "order":
        return right, [right[1], right[0], *right[2:]], [*right[1:], right[0]]
    other = [next(p for p in range(len(data["options"])) if p != place) for place in right]
    wrong = [other[0], other[1], *right[2:]] if len(right) > 1 else None
    return right, [other[0], *right[1:]], wrong


def give(page, question, answer, kind):
    """Give an answer with the keyboard alone."""
    if kind.endswith("number"):
        question.locator("input").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type(answer)
        page.keyboard.press("Enter")
        return
    if kind.endswith("choice"):
        question.locator("input").nth(answer).focus()
        page.keyboard.press("Space")
    elif kind == "order":
        undo = question.get_by_role("button", name="Take the last step back")
        while undo.is_enabled():
            undo.focus()
            page.keyboard.press("Enter")
        for step in answer:
            question.locator(".dpo-pool button").nth(step).focus()
            page.keyboard.press("Enter")
    else:
        for select, place in zip(question.locator("select").all(), answer, strict=True):
            select.focus()
            page.keyboard.press("Home")
            for _ in range(place + 1):
                page.keyboard.press("ArrowDown")
    question.locator("button[type=submit]").focus()
    page.keyboard.press("Enter")


def reload_until(page, element, text):
    """Reload, again on a busy machine: a browser stores what a page keeps in its own time."""
    for _ in range(40):
        page.reload()
        page.evaluate(UNFOLD)
        if element.inner_text().strip().startswith(text):
            return
        page.wait_for_timeout(250)
    pytest.fail(f"after 40 reloads: {element.inner_text()!r}, not {text!r}")


def reply(question):
    return question.locator("[role=status]").inner_text().strip()


def asked(page, predictions=False):
    """(question, data) of the page's questions, or of its predictions."""
    found = [(q, data_of(q)) for q in page.locator(".dpo-question").all()]
    return [(q, d) for q, d in found if d["kind"].startswith("predict") == predictions]


@each_page
def test_a_page_with_questions_asks_some(soups, name):
    assert soups[name].select(".dpo-question")


@each_page
def test_each_question_says_not_yet_nearly_and_right(opened, name):
    page = opened(name)
    for question, data in asked(page):
        right, nearly, wrong = attempts(data)
        answer = question.locator(".dpo-answer")
        assert answer.is_hidden()
        assert EMPTY.search(reply(question))
        for verdict, said in (("Not yet.", wrong), ("Nearly:", nearly)):
            if said is not None:
                give(page, question, said, data["kind"])
                assert reply(question).startswith(verdict), (data["name"], said)
                assert answer.is_hidden()
        if wrong is None:
            assert data["kind"] == "choice" and nearly is not None
        give(page, question, right, data["kind"])
        assert reply(question).startswith("Right."), data["name"]
        assert answer.locator("summary").is_visible()
        assert answer.evaluate("e => e.open")
    assert opened("book/progress").locator("td[data-name]").count() > 0
    page = opened(name)
    again = "Answered before: right, after another try."
    *others, last = [question.locator("[role=status]") for question, _ in asked(page)]
    reload_until(page, last, again)
    assert {said.inner_text().strip() for said in others} <= {again}


@each_page
def test_every_slip_that_a_question_knows_is_told_in_its_own_words(opened, name):
    page = opened(name)
    for question, data in asked(page):
        if data["kind"] == "number":
            for value, _, says in data["slips"]:
                give(page, question, repr(value), "number")
                assert reply(question).startswith(f"Nearly: {plain(says)}.")
        if data["kind"] == "choice":
            for place, says in data["slips"].items():
                give(page, question, int(place), "choice")
                assert reply(question).startswith(f"Nearly: {plain(says)}.")
        if data["kind"] == "order":
            for place, says in data["slips"].items():
                give(page, question, [*data["answer"], int(place)], "order")
                assert reply(question).startswith("Nearly: ")
                assert reply(question).endswith(f"belongs nowhere: {plain(says)}.")
            for a, b in combinations(range(len(data["answer"])), 2):
                order = list(data["answer"])
                order[a], order[b] = order[b], order[a]
                give(page, question, order, "order")
                assert reply(question) == f"Nearly: steps {a + 1} and {b + 1} are exchanged."
        if data["kind"] == "blanks":
            for place, says in data["slips"].items():
                gap, option = map(int, place.split("/"))
                filling = list(data["answer"])
                filling[gap] = option
                give(page, question, filling, "blanks")
                assert reply(question).startswith(f"Nearly: Gap {gap + 1}: {plain(says)}.")


def plain(text):
    return BeautifulSoup(text, "html.parser").get_text()


@each_page
def test_a_prediction_is_kept_and_met_again_with_the_result(opened, name):
    page = opened(name)
    for question, data in asked(page, predictions=True):
        seen = page.locator(f"#q-{data['name']}-seen p")
        assert seen.inner_text().startswith("You made no prediction; ")
        link = seen.get_by_role("link", name="You made no prediction")
        assert link.get_attribute("href") == f"#q-{data['name']}"
        low, high = data.get("low"), data.get("high")
        said = 0 if "choices" in data else str(low if low is not None else (high or 1))
        give(page, question, said, data["kind"])
        assert reply(question).startswith("Kept.")
        shown = f"“{plain(data['choices'][0])}”" if "choices" in data else said
        reload_until(page, seen, f"You said {shown}")
        reload_until(page, question.locator("[role=status]"), "Your prediction is kept.")
    kept = [data["name"] for _, data in asked(page, predictions=True)]
    progress = opened(PROGRESS)
    for known in kept:
        reload_until(progress, progress.locator(f"[data-name={known}]"), "predicted")


def test_names_are_unique_and_every_prediction_is_followed_by_its_result(soups):
    names = Counter(e["id"] for soup in soups.values() for e in soup.select(".dpo-question"))
    assert names and max(names.values()) == 1
    for soup in soups.values():
        order = [e["id"] for e in soup.select(".dpo-question, .dpo-revisit")]
        predicted = [e["id"] for e in soup.select(".dpo-question[data-kind^=predict]")]
        seen = {e["id"] for e in soup.select(".dpo-revisit")}
        assert seen == {f"{ident}-seen" for ident in predicted}
        assert all(order.index(f"{ident}-seen") > order.index(ident) for ident in predicted)


@pytest.mark.parametrize("name", SOURCES)
def test_no_page_reproaches_its_reader(soups, name):
    assert "Not yet" not in soups[name].get_text()


@pytest.mark.parametrize("name", SOURCES)
def test_the_code_of_a_question_stays_in_the_notebook(soups, name):
    for question in soups[name].select(".dpo-question, .dpo-revisit"):
        assert question.find_parent(class_="cell").select(".cell_input") == []


def test_what_a_reader_types_is_read_as_a_number_and_never_run(opened):
    page = opened(ASKING[0])
    known = {
        "0.53": 0.53, ".53": 0.53, "0,53": 0.53, "53%": 0.53, "53 %": 0.53, "1/3": 1 / 3,
        "2/3": 2 / 3, "1e-3": 0.001, "2E3": 2000, "−0.5": -0.5, "- 2": -2, "2^-1": 0.5,
        "-2^2": -4, "2*3+4": 10, "2+3*4": 14, "(2+3)*4": 20, "8/2/2": 2, "1-2-3": -4,
        "ln(4)/2": 0.6931471805599453, "log 4": 1.3862943611198906, "exp(0)": 1, "√16": 4,
        "sqrt(2)^2": 2.0000000000000004, "π": 3.141592653589793, "e": 2.718281828459045,
        "2·3": 6, "2×3": 6, "6:3": 2, "2^3^2": 512, "50% * 2": 1,
    }  # fmt: skip
    read = page.evaluate("texts => texts.map(dpoNumber)", list(known))
    assert dict(zip(known, read, strict=True)) == pytest.approx(known)
    refused = ["", "  ", "abc", "1 2", "2pi", "1/0", "ln(-1)", "(1", "1)", "1+", "%", "alert(1)",
               "[1]", "constructor", "__proto__", "1;2", "1.2.3", "()" * 9, "(" * 5000]  # fmt: skip
    assert page.evaluate("texts => texts.map(t => Number.isNaN(dpoNumber(t)))", refused) == (
        [True] * len(refused)
    )


def test_what_is_no_number_counts_as_no_try(opened):
    page = opened(ASKING[0])
    for question, data in asked(page):
        if data["kind"] == "number":
            give(page, question, "about a half", "number")
            assert reply(question).startswith("This is not understood as a number.")
            give(page, question, repr(data["answer"]), "number")
            said = question.locator("[role=status]")
            reload_until(page, said, "Answered before: right at the first try.")


def test_the_page_of_progress_tells_each_state_and_erases_everything_after_asking(opened):
    page = opened(PROGRESS)
    rows = page.locator("td[data-name]")
    linked = [link.get_attribute("href") for link in page.locator(".dpo-progress a").all()]
    assert (
        len(linked)
        == rows.count()
        == sum(opened(name).locator(".dpo-question").count() for name in ASKING)
    )
    assert set(rows.all_inner_texts()) == {"open"}
    chapter = opened(ASKING[0])
    question, data = asked(chapter)[0]
    state = page.locator(f"[data-name={data['name']}]")
    right, nearly, wrong = attempts(data)
    for said, word in ((wrong or nearly, "open, tried"), (right, "right later")):
        give(chapter, question, said, data["kind"])
        reload_until(page, state, word)
    assert page.get_by_role("status").inner_text() == f"Done: 1 of {rows.count()}."
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Erase everything").press("Enter")
    assert state.inner_text() == "right later"
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Erase everything").press("Enter")
    assert page.get_by_role("status").inner_text() == "Everything is erased."
    reload_until(page, state, "open")
    assert set(rows.all_inner_texts()) == {"open"}


def test_an_answer_that_was_looked_up_is_not_counted_as_found(opened):
    page = opened(ASKING[0])
    question, data = asked(page)[0]
    question.get_by_role("button", name="Show the answer").press("Enter")
    assert question.locator(".dpo-answer p").first.is_visible()
    give(page, question, attempts(data)[0], data["kind"])
    assert reply(question).startswith("Right.")
    progress = opened(PROGRESS)
    reload_until(progress, progress.locator(f"[data-name={data['name']}]"), "answer looked up")


def test_where_storage_is_refused_questions_work_until_the_page_is_left(opened):
    opened.context.add_init_script(
        """for (const method of ["getItem", "setItem"]) {
          const real = Storage.prototype[method];
          Storage.prototype[method] = function (key, ...rest) {
            if (key === "dpo-answers") throw new DOMException("refused", "SecurityError");
            return real.call(this, key, ...rest);
          };
        }"""
    )
    for name in ASKING:
        page = opened(name)
        for question, data in asked(page):
            give(page, question, attempts(data)[0], data["kind"])
            assert reply(question).startswith("Right.")
        for question, data in asked(page, predictions=True):
            give(page, question, 0 if "choices" in data else str(data["low"] or 0), data["kind"])
            assert page.locator(f"#q-{data['name']}-seen p").inner_text().startswith("You said")
        page.reload()
        assert all(EMPTY.search(reply(question)) for question, _ in asked(page))


@each_page
def test_without_javascript_a_page_has_its_questions_choices_and_answers(browser, built_book, name):
    address = (built_book / f"{name}.html").as_uri()
    with visit(browser, address, java_script_enabled=False) as (page, _):
        for fold in page.locator(".dpo-depth > details > summary").all():
            fold.press("Enter")  # a click may meet the link in the heading
        for question in page.locator(".dpo-question").all():
            assert question.locator(".dpo-asked").is_visible()
            predicted = (question.get_attribute("data-kind") or "").startswith("predict")
            for choice in question.locator(".dpo-choices li").all():
                assert choice.is_visible()
            if not predicted:
                answer = question.locator(".dpo-answer")
                assert not answer.locator("p").first.is_visible()
                answer.locator("summary").press("Enter")
                expect(answer.locator("p").first).to_be_visible()
        for seen in page.locator(".dpo-revisit").all():
            assert re.match(r"(It|The answer) is .+, because", seen.inner_text())


def test_without_javascript_the_page_of_progress_lists_all_questions(browser, built_book, soups):
    address = (built_book / f"{PROGRESS}.html").as_uri()
    with visit(browser, address, java_script_enabled=False) as (page, _):
        links = [link.get_attribute("href") for link in page.locator(".dpo-progress a").all()]
        assert page.get_by_role("button", name="Erase everything").is_hidden()
    found = [f"{n.rpartition('/')[2]}.html#{e['id']}" for n in sorted(SOURCES)
             for e in soups[n].select(".dpo-question")]  # fmt: skip
    assert links == found


@pytest.mark.parametrize("theme", ["light", "dark"])
@each_page
def test_a_page_whose_questions_are_answered_is_accessible(browser, built_book, name, theme):
    address = (built_book / f"{name}.html").as_uri()
    with visit(browser, address, color_scheme=theme) as (page, complaints):
        page.evaluate(UNFOLD)
        for place, (question, data) in enumerate(asked(page)):
            give(page, question, attempts(data)[place % 2], data["kind"])
        settle(page)
        assert violations(page, runOnly={"type": "tag", "values": ["wcag2a", "wcag2aa"]}) == []
        assert complaints == []


@each_page
def test_a_finger_can_press_what_a_question_offers_on_a_phone(browser, built_book, name):
    phone = {"width": 390, "height": 844}
    with visit(browser, (built_book / f"{name}.html").as_uri(), viewport=phone) as (page, _):
        for control in page.locator(".dpo-question :is(button, label, select, summary)").all():
            if control.is_visible():
                assert control.bounding_box()["height"] >= 24
        assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]


@each_page
def test_a_printed_page_has_its_answers(browser, built_book, name):
    with visit(browser, (built_book / f"{name}.html").as_uri()) as (page, _):
        page.emulate_media(media="print")
        for answer in page.locator(".dpo-answer").all():
            assert answer.locator("p").first.is_visible()
            assert answer.bounding_box()["height"] > 24
        assert page.locator(".dpo-buttons >> visible=true").count() == 0
