"""`dpo plot`: what stands in the picture, for those who see it and for those who do not."""

import json
from xml.etree import ElementTree

import pytest

from dpo_lib.language_model.judging import read_log
from dpo_lib.language_model.judging.curves import POINTS, _thinned, plot


def write_run(folder, steps=4, **last):
    folder.mkdir()
    rows = [{"step": 0, "eval_loss": 0.7, "eval_rewards/margins": 0.0}]
    for step in range(1, steps + 1):
        rows.append({"step": step, "loss": 0.7 - 0.1 * step, "rewards/margins": 0.25 * step} | last)
    rows.append({"step": steps, "eval_loss": 0.5, "eval_rewards/margins": 0.125})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def texts(path):
    root = ElementTree.parse(path).getroot()  # strict XML
    return root.get("aria-label"), [element.text for element in root.iter() if element.text]


def test_the_description_says_where_each_curve_begins_and_ends(tmp_path):
    label, shown = texts(plot([write_run(tmp_path / "one")], tmp_path / "out.svg"))
    assert label == (
        "one: loss 0.6 to 0.3; held-out loss 0.7 to 0.5; "
        "margin 0.25 to 1; held-out margin 0 to 0.125."
    )
    titles = [text for text in shown if text in ("loss", "margin", "accuracy")]
    assert titles == ["loss", "margin"]  # a panel for what the log has, and for nothing else
    assert any("held out" in text for text in shown)


def test_runs_stand_side_by_side_and_a_name_is_text_whatever_is_in_it(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a<script>b&", "$x_1$")]
    label, shown = texts(plot(runs, tmp_path / "out.svg"))
    assert label.count("held-out loss") == 2 and label.startswith("a<script>b&: ")
    assert any("a<script>b&" in text for text in shown) and any("$x_1$" in text for text in shown)
    assert "<script" not in (tmp_path / "out.svg").read_text()


def test_the_same_logs_give_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "one")
    first, again = (plot([run], tmp_path / f"{n}.svg").read_bytes() for n in range(2))
    assert first == again


def test_a_long_curve_is_thinned_to_means_of_neighbours():
    line = [(step, 3.0 * step + 1) for step in range(1, 10 * POINTS + 4)]
    thin = _thinned(line)
    assert len(thin) <= POINTS
    assert all(y == pytest.approx(3 * x + 1) for x, y in thin)  # a mean of a line lies on it
    assert _thinned(line[:7]) == line[:7]


def test_held_out_rows_of_trl_s_log_are_read_too(tmp_path):
    history = [
        {"step": 10, "loss": 0.6, "epoch": 0.1},
        {"step": 10, "eval_loss": 0.65, "eval_rewards/margins": 0.2, "eval_runtime": 1.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    log = read_log(tmp_path)
    assert log.held_out("loss") == [(10, 0.65)] and log.held_out("rewards/margins") == [(10, 0.2)]
    assert [row["step"] for row in log.rows] == [10]


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path):
    run = write_run(tmp_path / "one")
    (tmp_path / "other").mkdir()
    twin = write_run(tmp_path / "other/one")
    with pytest.raises(ValueError, match=r"out must end in \.svg, got .*out\.png$"):
        plot([run], tmp_path / "out.png")
    with pytest.raises(ValueError, match="two runs are called one: rename a folder"):
        plot([run, twin], tmp_path / "out.svg")
    assert not (tmp_path / "out.svg").exists()
