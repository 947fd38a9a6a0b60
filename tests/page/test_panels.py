"""Where a figure's panels lie in its SVG, for screens that show them one below the other."""

import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from dpo_lib.page.panels import boxes, panels
from dpo_lib.page.plotting import figure, svg


def pair(**options):
    fig, axes = figure(7.2, 3.2, columns=2, **options)
    for ax, top in zip(axes, (1.0, 1000.0), strict=True):
        ax.plot([0, 1], [0, top], label=f"up to {top:g}")
        ax.set_xlabel("steps")
        ax.set_ylabel("reward units")
    return fig, axes


def data(text: str) -> list[list[float]]:
    return json.loads(re.search(r'data-panels="([^"]*)"', text)[1])


def test_panels_side_by_side_lie_in_the_drawing_and_apart():
    fig, _ = pair()
    (one, x, y, width, height), (two, x2, *_) = data(svg(fig, "alt"))
    assert (one, two) == (0, 1)
    assert x >= -2 and x + width <= x2 + 4  # 2 points of air on either side
    assert y >= -2 and y + height <= 3.2 * 72 + 4
    assert width > 200 and height > 200


def test_each_panel_s_box_has_a_group_in_the_drawing_and_no_id_is_left():
    fig, _ = pair()
    text = svg(fig, "alt")
    groups = [e.get("data-panel") for e in ET.fromstring(text).iter() if e.get("data-panel")]
    assert groups == ["0", "1"]
    assert "dpo-panel" not in text and "dpo-axis" not in text


def test_a_figure_with_one_panel_or_with_twins_in_one_place_is_shown_whole():
    fig, ax = figure()
    assert panels(fig) == []
    ax.twinx()
    assert panels(fig) == []
    assert "data-panels" not in svg(fig, "alt")


def test_axes_that_lie_on_no_grid_leave_a_figure_whole():
    fig, _ = pair()
    fig.add_axes((0.3, 0.3, 0.1, 0.1))
    assert panels(fig) == []


def test_a_panel_that_shares_its_numbers_borrows_the_axis_that_has_them():
    fig, axes = pair(sharey=True)
    axes[1].set_ylabel("")
    first, (index, x, _, _, _, lender, shift) = data(svg(fig, "alt"))
    assert len(first) == 5 and (index, lender) == (1, 0)
    apart = (axes[1].bbox.x0 - axes[0].bbox.x0) * 72 / fig.dpi
    assert shift == pytest.approx(apart, abs=0.1)
    assert x == pytest.approx(first[1] + shift, abs=0.5)  # the same room for the same numbers
    assert len(data(svg(pair()[0], "alt"))[1]) == 5


def test_what_belongs_to_the_whole_figure_comes_first():
    fig, axes = pair()
    fig.legend(loc="outside lower center")
    fig.suptitle("Two runs")
    title, legend, *rest = panels(fig)
    assert title == [fig.texts[0]] and legend == fig.legends
    assert rest == [[ax] for ax in axes]


def test_a_legend_wider_than_a_panel_comes_in_pieces_that_hold_all_its_columns():
    fig, axes = pair()
    for k in range(6):
        axes[0].plot([0, 1], [0, k], label=f"a curve with a long name {k}")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
               title="colours of")  # fmt: skip
    found = data(svg(fig, "alt"))
    title, *pieces = [box for box in found if box[0] == 0]
    assert title[4] < 20 and title[2] < min(piece[2] for piece in pieces)
    widest = max(box[3] for box in found if box[0] > 0)
    assert len(pieces) > 1
    assert all(box[3] <= widest + 4 for box in pieces)
    for before, after in pairwise(pieces):
        assert before[1] + before[3] <= after[1] + 4
    assert boxes(fig, panels(fig))  # a second drawing finds them again
