"""The workbench in a browser: its numbers are dpo_lib's, and everything in it can be reached."""

import contextlib
import io
import math
import re

import pytest
import torch
from conftest import ROOT
from helpers import generator, table
from test_pages import settle, violations, visit

from dpo_lib.fitting import fit_reward
from dpo_lib.losses import table_loss
from dpo_lib.objective import (
    expected_reward,
    implicit_reward,
    kl_divergence,
    log_partition,
    objective,
    optimal_log_policy,
    policy_preference,
)
from dpo_lib.page._markup import shown
from dpo_lib.page.workbench import VIEWS, workbench
from dpo_lib.preferences import is_connected, preference_table

SCRIPTS = ["address", "closed_forms", "workbench_words", "workbench_pictures", "workbench_inputs",
           "workbench"]  # fmt: skip
NAMES = ["best", "middle", "worst"]
THREE = {"reward": [2, 1, 0], "ref": [0.2, 0.3, 0.5], "names": NAMES}
PHONE = {"width": 390, "height": 844}


# The twin: closed_forms.js against dpo_lib.


def random_worlds(count):
    """Worlds of 2 to 6 answers: zeros in every third reference, rewards up to 1,000."""
    g = generator(5)
    for n in range(count):
        size = 2 + n % 5
        scale = (1.0, 30.0, 1000.0)[n % 3]
        reward = scale * (2 * torch.rand(size, generator=g, dtype=torch.float64) - 1)
        ref = torch.rand(size, generator=g, dtype=torch.float64)
        if n % 3 == 1:
            ref[torch.randperm(size, generator=g)[: 1 + n % (size - 1)]] = 0
        beta = 10 ** (-2 + 3.69 * torch.rand(1, generator=g, dtype=torch.float64).item())
        wins = torch.randint(0, 20, (size, size), generator=g).double()
        wins = wins * (torch.rand(size, size, generator=g) < 0.7) * (1 - torch.eye(size))
        wins[0, 1] += 1
        yield reward, ref / ref.sum(), beta, wins


def truth(reward, ref, beta, wins):
    """The library's numbers, by the names that closed_forms.js gives them."""
    reward, log_ref, wins = reward[None], ref.log()[None], wins[None]
    policy = optimal_log_policy(reward, log_ref, beta)
    implicit = implicit_reward(policy, log_ref, beta)
    pairs = torch.full(wins.shape, math.nan, dtype=torch.float64)
    given = implicit[0].isfinite().nonzero()[:, 0]
    chosen, rejected = torch.cartesian_prod(given, given).reshape(-1, 2).T
    logps = [logp[0, k] for logp in (policy, log_ref) for k in (chosen, rejected)]
    pairs[0, chosen, rejected] = policy_preference(*logps, beta)
    found = {
        "logPolicy": policy, "logZ": log_partition(reward, log_ref, beta), "implicit": implicit,
        "shift": torch.where(implicit.isfinite(), reward - implicit, math.nan),
        "expected": expected_reward(policy, reward), "kl": kl_divergence(policy, log_ref),
        "objective": objective(policy, reward, log_ref, beta),
        "preferences": preference_table(reward), "policyPreferences": pairs,
        "policy": policy.exp(),
    }  # fmt: skip
    impossible = log_ref[0].isneginf()
    if not (wins[0] * impossible * impossible[:, None]).any():  # two of -inf: no preference
        found["loss"] = table_loss(implicit, wins)
    if is_connected(wins).all():
        fitted = fit_reward(wins)
        found |= {"fitted": fitted, "least": table_loss(fitted, wins)}
        found["leastPolicy"] = optimal_log_policy(fitted, log_ref, beta)
    return {name: numbers.flatten().tolist() for name, numbers in found.items()}


def apart(ours, theirs):
    """Difference of two numbers, absolute below 1 and relative above."""
    if ours == theirs or (math.isnan(ours) and math.isnan(theirs)):
        return 0.0
    return abs(ours - theirs) / max(1.0, abs(ours), abs(theirs))


SOLVE = """worlds => worlds.map(([reward, ref, beta, wins]) => {
  const found = dpoForms.world({ reward, ref, beta, wins }), { fit } = found;
  return { ...found, policy: found.logPolicy.map(Math.exp), fitted: fit.reward, least: fit.loss,
    leastPolicy: fit.logPolicy, finite: fit.attained && fit.determined };
})"""


@pytest.fixture(scope="module")
def forms(browser):
    page = browser.new_page()
    page.add_script_tag(path=ROOT / "assets/closed_forms.js")
    yield lambda worlds: page.evaluate(
        SOLVE, [[x.tolist() if torch.is_tensor(x) else x for x in world] for world in worlds]
    )
    page.close()


def test_on_a_thousand_random_worlds_the_page_computes_what_the_library_does(forms):
    worlds = list(random_worlds(1000))
    seen = {"leastPolicy": 0, "loss": 0}
    for world, theirs in zip(worlds, forms(worlds), strict=True):
        ours = truth(*world)
        assert theirs["finite"] == ("fitted" in ours)
        for name, values in ours.items():
            got = theirs[name] if isinstance(theirs[name], list) else [theirs[name]]
            got = [x for row in got for x in row] if isinstance(got[0], list) else got
            far = max(map(apart, values, got))
            # The minimiser comes out of a linear system; a policy divides it by beta.
            limit = {"fitted": 1e-9, "leastPolicy": 1e-9 / min(1, world[2])}.get(name, 1e-12)
            assert len(values) == len(got) and far <= limit, (name, far, world)
        seen = {name: count + (name in ours) for name, count in seen.items()}
    assert min(seen.values()) > 300


def test_where_an_answer_never_loses_the_loss_falls_towards_what_the_others_leave(forms):
    wins = torch.tensor([[0, 9, 8], [0, 0, 6], [0, 3, 0]], dtype=torch.float64)
    reward = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    [found] = forms([(reward, torch.ones(3) / 3, 1.0, wins)])
    far = torch.tensor([[60.0, math.log(2), 0.0]], dtype=torch.float64)  # 6 : 3 are odds of 2
    assert not found["finite"]
    assert found["least"] == pytest.approx(table_loss(far, wins[None]).item(), abs=1e-12)


# The instrument, without the book around it.


@pytest.fixture
def opened(browser, tmp_path, monkeypatch):
    """Opens a page with nothing but one workbench."""
    monkeypatch.setenv("DPO_BOOK_BUILD", "1")
    pages = []

    def opening(hash="", **world):
        scripts = "".join(
            f"<script>{(ROOT / f'assets/{name}.js').read_text()}</script>" for name in SCRIPTS
        )
        path = tmp_path / "page.html"
        style = (ROOT / "assets/workbench.css").read_text()
        figure = workbench(**(THREE | world))._repr_html_()
        path.write_text(f"<meta charset=utf-8><style>{style}</style>{scripts}<main>{figure}</main>")
        page = browser.new_page()
        pages.append(page)
        page.goto(f"{path.as_uri()}{hash}")
        return page

    yield opening
    for page in pages:
        page.close()


def said(page):
    return page.locator(".dpo-sentence").inner_text()


def cells(page):
    rows = page.locator("table:not(.dpo-wins table)").nth(0).locator("tbody tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


def shares(page):
    return [row[3] for row in cells(page)]


def test_what_is_said_without_javascript_is_what_the_page_says_with_it(opened):
    worlds = [
        {"view": view, "beta": beta, "reward": reward, "ref": ref}
        for view in VIEWS
        for beta, reward, ref in [
            (1.0, [2, 1, 0], [0.2, 0.3, 0.5]), (0.02, [-1.25, 900, 3e6], [1, 1, 2]),
            (30, [1e-7, 0, -2], [0, 0.5, 0.5]),
        ]
    ]  # fmt: skip
    for world in worlds:
        still = workbench(**(THREE | world))
        page = opened(**world)
        if "they do not determine" not in still.sentence():  # the page says why
            assert said(page) == still.sentence()
        found = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", still._repr_html_().partition("<dl>")[0])
        columns = 6 - (world["view"] == "loss")  # there the last one says where the loss is least
        assert [row[:columns] for row in cells(page)] == [
            found[k : k + columns] for k in range(6, 24, 6)
        ]
        page.close()


def test_a_link_sets_every_part_of_it_and_what_it_writes_brings_the_same_world_back(opened):
    wins = "0,3,1,1;1,0,9,2;1,1,0,4;1,1,1,0"
    asked = f"#rewards=2,5,0,1&ref=1,2,3,2&beta=0.3&names=a,b,c,d&view=loss&wins={wins}"
    page = opened()
    page.evaluate("hash => { location.hash = hash }", asked)
    page.wait_for_function("document.querySelectorAll('.dpo-entry').length == 4")
    ref = table([1 / 8, 2 / 8, 3 / 8, 2 / 8])
    policy = optimal_log_policy(table([2, 5, 0, 1]), ref.log(), 0.3)
    assert shares(page) == [shown(p) for p in policy[0].exp().tolist()]
    assert page.locator("input[value=loss]").is_checked()
    assert page.get_by_label("wins of b over c").input_value() == "9"
    page.get_by_label("β", exact=True).fill("0.7")
    page.wait_for_function("location.hash.includes('beta=0.7')")
    again = opened(hash=page.evaluate("location.hash"))
    assert said(again) == said(page) and cells(again) == cells(page)


def test_a_link_with_beta_alone_keeps_the_rest_and_one_for_another_figure_changes_nothing(opened):
    page = opened(hash="#beta=0.3")
    before = said(page)
    assert before.startswith("At β = 0.3 ") and cells(page)[0][1] == "2.000"
    page.evaluate("location.hash = '#fig-5-2&beta=7'")
    page.evaluate("location.hash = '#colour=blue'")
    page.wait_for_timeout(50)
    assert said(page) == before


@pytest.mark.parametrize(
    "asked", ["rewards=1", "beta=0", "ref=0,0,0", "rewards=1,x,2", "wins=0,1,2"]
)
def test_a_link_to_no_world_is_answered_in_one_line_and_changes_nothing(opened, asked):
    page = opened()
    before = cells(page)
    page.evaluate("hash => { location.hash = hash }", asked)
    page.wait_for_function("!/objective/.test(document.querySelector('.dpo-sentence').textContent)")
    assert len(said(page)) < 90 and cells(page) == before


def test_a_number_that_is_none_is_answered_in_words_until_it_is_one(opened):
    page = opened()
    before, field = cells(page), page.get_by_label("reference of best", exact=True)
    field.fill("-1")
    assert said(page) == "Each reference probability must be at least 0, and one of them more."
    assert field.get_attribute("aria-invalid") == "true" and cells(page) == before
    field.fill("0")
    assert shares(page)[0] == "0.000" and cells(page)[0][4] == "−∞"
    assert field.get_attribute("aria-invalid") is None


def test_typed_weights_are_renormalised_and_a_dragged_one_scales_the_others_and_gives_them_back(
    opened,
):
    page = opened()
    for name, weight in zip(NAMES, "235", strict=True):
        page.get_by_label(f"reference of {name}", exact=True).fill(weight)
    assert [row[2] for row in cells(page)] == ["0.200", "0.300", "0.500"]
    slider = page.get_by_label("reference of worst, slider")
    slider.press("End")
    assert [row[2] for row in cells(page)] == ["0.000", "0.000", "1.000"]
    slider.fill("0.75")
    assert [row[2] for row in cells(page)] == ["0.100", "0.150", "0.750"]


def test_along_a_fibre_the_policy_stays_and_across_it_walks_and_the_sentence_says_which(opened):
    page = opened(view="fibre")
    policy, here = shares(page), page.locator("figure").first.locator("path.dpo-optimum").nth(1)
    member = [row[4] for row in cells(page)]
    place = here.get_attribute("transform")
    page.get_by_label(re.compile("^mean reward.*slider")).press("ArrowRight")
    assert "along its fibre: the policy stayed" in said(page)
    assert shares(page) == policy and [row[4] for row in cells(page)] == member
    assert cells(page)[0][1] == "2.050" and here.get_attribute("transform") != place
    page.get_by_label("reward of middle, slider").press("ArrowRight")
    assert "to another fibre: the policy walked" in said(page) and shares(page) != policy


def test_answers_can_be_added_up_to_six_removed_down_to_two_and_renamed(opened):
    page = opened(view="loss")
    add = page.get_by_role("button", name="Add an answer")
    for _ in range(3):
        add.click()
    assert add.is_disabled() and len(cells(page)) == 6
    page.locator(".dpo-entry input[type=text]").nth(5).fill("a,b & <i>c</i>")
    assert cells(page)[5][0] == "a b   <i>c</i>".replace("   ", " ")
    for name in ("best", "middle", "answer 4", "answer 5"):
        page.get_by_role("button", name=f"Remove {name}").click()
    assert cells(page)[0][0] == "worst"
    assert page.get_by_role("button", name="Remove worst").is_disabled()
    page.get_by_role("button", name="Start again").click()
    assert [row[0] for row in cells(page)] == NAMES


def test_everything_is_reached_and_changed_by_the_keyboard_alone(opened):
    page = opened(view="fibre")
    wanted = page.evaluate(
        "[...document.querySelectorAll('input, button')].filter(e => !e.disabled && e.offsetParent"
        " && (e.type != 'radio' || e.checked)).map(e => e.dataset.k = Math.random())"
    )
    seen = []
    for _ in wanted:
        page.keyboard.press("Tab")
        seen.append(float(page.evaluate("document.activeElement.dataset.k ?? 0")))
    assert seen == wanted
    page.locator("input[value=fibre]").focus()
    for view in reversed(VIEWS[:-1]):
        page.keyboard.press("ArrowUp")
        assert page.locator(f"input[value={view}]").is_checked()
    for slider in page.locator("input[type=range]:visible").all():
        before = cells(page)
        slider.press("ArrowRight")
        assert cells(page) != before, slider.get_attribute("aria-label")
    page.locator("input[value=optimum]").press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.get_by_label("wins of best over middle").press("ArrowUp")
    assert page.get_by_label("wins of best over middle").input_value() == "8"
    page.get_by_role("button", name="Add an answer").press("Enter")
    assert page.evaluate("document.activeElement.value") == "answer 4"


@pytest.mark.parametrize("world", [{"beta": 0.375}, {"view": "loss", "ref": [2, 0.1, 5]}])
def test_the_copied_lines_of_python_print_the_numbers_of_the_page(opened, world):
    page = opened(**world)
    page.get_by_label("reward of worst, slider").press("ArrowRight")
    page.get_by_role("button", name="Copy as Python").click()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(page.locator("pre").inner_text(), {})
    numbers = [float(x) for x in re.findall(r"-?\d[\d.e-]*", printed.getvalue())]
    terms = page.locator("dl").inner_text().replace("−", "-").split("\n")
    terms = dict(zip(terms[::2], terms[1::2], strict=True))
    listed = ["log Z", "β log Z", "expected reward", "KL to the reference"]
    wanted = [*shares(page), *(terms[name] for name in listed)]
    if "view" in world:
        wanted += [terms["DPO loss (7) here"], terms["smallest loss"], *(r[5] for r in cells(page))]
    assert [f"{x:.3f}" for x in numbers] == wanted


# In the built book.


@pytest.fixture
def address(built_book):
    return (built_book / "book/workbench.html").as_uri()


def test_in_the_book_the_links_of_the_text_set_it_with_the_network_blocked(browser, address):
    with visit(browser, address) as (page, complaints):
        settle(page)
        links = page.locator("article a[href*='rewards=']").all()
        assert len(links) >= 8
        for link in links:
            link.click()
            values = dict(p.split("=") for p in link.get_attribute("href")[1:].split("&"))
            assert page.locator(f"input[value={values['view']}]").is_checked()
            fields = page.locator(".dpo-entry :nth-child(2) input[type=number]").all()
            assert [f.input_value() for f in fields] == values["rewards"].split(",")
            assert page.locator(".dpo-sentence").is_visible()
        assert complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_of_it_is_accessible(browser, address, theme):
    with visit(browser, address, color_scheme=theme) as (page, _):
        settle(page)
        page.get_by_role("button", name="Copy as Python").click()
        for view in VIEWS:
            page.locator(f"input[value={view}]").check()
            assert violations(page) == [], view


@pytest.mark.parametrize("view", VIEWS)
def test_on_a_phone_nothing_of_it_is_cut_off(browser, address, view):
    six = "&rewards=1,2,3,4,5,6&names=a long name for one,b,c,d,e,f" if view != "fibre" else ""
    with visit(browser, f"{address}#view={view}{six}", viewport=PHONE) as (page, _):
        settle(page)
        assert page.locator(f"input[value={view}]").is_checked()
        page.get_by_role("button", name="Copy as Python").click()
        cut = page.evaluate(
            """[...document.querySelectorAll('.dpo-workbench :not(.dpo-unseen)')].filter(e => {
              const box = e.getBoundingClientRect();
              return e.offsetParent && box.width && (box.left < 0 || box.right > innerWidth);
            }).map(e => e.outerHTML.slice(0, 80))"""
        )
        assert cut == []
        targets = ".dpo-workbench :is(input:not([type=radio]), button, label:has(input)):visible"
        assert [t for t in page.locator(targets).all() if t.bounding_box()["height"] < 24] == []


def test_without_javascript_it_is_a_sentence_and_a_table(browser, address):
    with visit(browser, address, java_script_enabled=False) as (page, _):
        figure = page.locator(".dpo-workbench")
        assert figure.locator("tbody tr").count() == 3
        assert "At β = 1 the best policy gives best 0.529" in figure.inner_text()
        assert figure.locator("input").count() == 0
