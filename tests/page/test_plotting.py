import io
import itertools
import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import torch
from helpers import table

from dpo_lib.objective import log_partition
from dpo_lib.page import plotting
from dpo_lib.world import three_answers

WORLD = three_answers()
REWARD, LOG_REF = WORLD.true_reward[0], WORLD.log_ref[0]
SVG = "{http://www.w3.org/2000/svg}"


def curve():
    fig, ax = plotting.figure()
    ax.plot([0.0, 0.123456, 1.0], [0.25, 0.125, 0.5], marker="o", label="a < b & c")
    ax.fill_between([0.0, 1.0], [0.1, 0.2], hatch="//")
    ax.set_yticks([0.125, 0.25, 0.375])
    ax.set_xlabel("β, reward units per nat")
    ax.legend()
    return fig


def triangle(beta=1.0):
    fig, ax = plotting.figure()
    plotting.objective_hill(ax, REWARD, LOG_REF, beta)
    plotting.simplex(ax, ["best", "middle", "worst"])
    plotting.optimum_curve(ax, REWARD, LOG_REF)
    plotting.mark(ax, LOG_REF, "reference", plotting.GREY)
    return fig


def bars():
    fig, ax = plotting.figure()
    plotting.policy_bars(
        ax, {"reference": LOG_REF, "sure": table(0.0, -math.inf, -math.inf)}, "abc"
    )
    return fig


FIGURES = pytest.mark.parametrize("draw", [curve, triangle, bars])


@FIGURES
def test_a_figure_is_the_same_bytes_at_each_drawing_and_carries_no_date(draw):
    fig = draw()
    text = plotting.svg(fig, "alt")
    assert text == plotting.svg(fig, "alt") == plotting.svg(draw(), "alt")
    assert "<metadata" not in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


@FIGURES
def test_a_figure_is_one_svg_element_that_takes_the_page_s_text_colour(draw):
    text = plotting.svg(draw(), "alt")
    assert ET.fromstring(text).tag == f"{SVG}svg"
    assert text.startswith("<svg ")
    assert text.endswith("</svg>")
    assert "currentColor" in text
    assert plotting._INK not in text
    assert "#000000" not in text


@FIGURES
def test_every_id_of_a_figure_is_used_and_none_occurs_twice(draw):
    text = plotting.svg(draw(), "alt")
    ids = [element.get("id") for element in ET.fromstring(text).iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))


def test_the_text_alternative_survives_quotes_and_markup():
    alt = 'β = 0.25: "a" < b & c > 0.125'
    root = ET.fromstring(plotting.svg(curve(), alt))
    assert root.get("aria-label") == alt
    assert root.get("role") == "img"


def test_numbers_in_words_are_not_rounded():
    text = plotting.svg(curve(), "alt")
    words = [
        "".join(element.itertext()).strip() for element in ET.fromstring(text).iter(f"{SVG}text")
    ]
    assert {"0.125", "0.250", "0.375", "a < b & c", "β, reward units per nat"} <= set(words)


@FIGURES
def test_no_point_moves_by_more_than_a_twentieth_of_a_point(draw):
    buffer = io.StringIO()
    draw().savefig(buffer, format="svg")
    paths = [re.findall(r' d="([^"]*)"', t) for t in (buffer.getvalue(), plotting.svg(draw(), ""))]
    before, after = (np.array([float(n) for n in re.findall(r"-?\d+\.?\d*", " ".join(path))])
                     for path in paths)  # fmt: skip
    assert len(before) > 100
    assert np.abs(before - after).max() <= 0.05 + 1e-9


def test_a_notebook_shows_the_svg_with_its_sentence_once_and_a_terminal_the_sentence():
    shown = plotting.show(curve(), "a < b")
    drawing = plotting.svg(curve(), "a < b").replace('role="img" aria-label="a &lt; b"', "SEEN")
    html = shown._repr_html_().replace('aria-hidden="true"', "SEEN")
    assert html == (
        f'<figure class="dpo-figure"><div class="dpo-frame">{drawing}</div>'
        "<figcaption>a &lt; b</figcaption></figure>"
    )
    assert repr(shown) == "Figure: a < b"


def test_figures_have_the_size_and_the_columns_asked_for():
    fig, axes = plotting.figure(7.2, 2.5, columns=3, sharey=True)
    assert tuple(fig.get_size_inches()) == (7.2, 2.5)
    assert len(axes) == len(fig.axes) == 3


@pytest.mark.parametrize("page", ["#ffffff", "#121212"], ids=["light", "dark"])
def test_the_colours_keep_a_contrast_of_three_to_one_and_differ_in_lightness(page):
    def luminance(colour):  # WCAG 2
        channels = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    for colour in matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]:
        dark, light = sorted([luminance(colour), luminance(page)])
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_sure_policies_are_the_corners_and_a_mixture_lies_between_them():
    corners = plotting.to_plane(torch.eye(3, dtype=torch.float64))
    np.testing.assert_allclose(corners, [[0.5, math.sqrt(3) / 2], [0, 0], [1, 0]])
    sides = [np.linalg.norm(corners[i] - corners[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    np.testing.assert_allclose(sides, 1)
    mixed = plotting.to_plane(table([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(mixed, [0.2 * corners[0] + 0.3 * corners[1] + 0.5 * corners[2]])


@pytest.mark.parametrize("beta", [0.05, 1.0, 20.0])
def test_the_contours_rise_to_beta_log_z(beta):
    ax = plotting.figure()[1]
    plotting.objective_hill(ax, REWARD, LOG_REF, beta)
    levels = ax.collections[0].levels
    assert (np.diff(levels) > 0).all()
    top = beta * log_partition(WORLD.true_reward, WORLD.log_ref, beta).item()
    assert levels[-1] == pytest.approx(top)
    assert levels[-2] == pytest.approx(top - 0.01 * (top - levels[0]))


def test_the_curve_of_optima_runs_from_the_best_response_to_the_reference():
    ax = plotting.figure()[1]
    plotting.optimum_curve(ax, REWARD, LOG_REF)
    plotting.mark(ax, LOG_REF, "reference", plotting.GREY)
    path, point = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose(path[0], [0.5, math.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(path[-1], point[0], atol=1e-3)
    np.testing.assert_allclose(point, plotting.to_plane(table([0.2, 0.3, 0.5])))


def test_each_corner_carries_the_name_of_its_sure_response():
    ax = plotting.figure()[1]
    plotting.simplex(ax, ["best", "middle", "worst"])
    x = {text.get_text(): text.get_position()[0] for text in ax.texts}
    y = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert x["middle"] < x["best"] < x["worst"]
    assert y["best"] > y["middle"] == y["worst"]


def test_bars_are_as_high_as_the_probabilities_and_do_not_overlap():
    ax = bars().axes[0]
    heights = [[bar.get_height() for bar in group] for group in ax.containers]
    np.testing.assert_allclose(heights, [[0.2, 0.3, 0.5], [1, 0, 0]])
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["reference", "sure"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]


def test_a_figure_carries_no_style_sheet_that_would_reach_the_rest_of_the_page():
    fig, ax = plotting.figure()
    ax.plot([0, 1])
    assert "<style" not in plotting.svg(fig, "a line")
