"""Held-out figures in a run: the best is kept, a run may end for them, trackers get a copy."""

import json

import pytest
import torch
from accelerate import tracking
from safetensors.torch import load_file
from toy_stage import Toy, ToySettings, run_toy

from dpo_lib.language_model.settings import TrainingError
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.training.measuring import Measuring
from dpo_lib.language_model.training.run_folder import RunError
from dpo_lib.language_model.training.stage import Measurement

WATCHED = dict(eval_data="rows", eval_every=1, metric_for_best_model="loss")  # step 3 is the best


def measuring(**changes):
    return Measuring(
        ToySettings(out="o", steps=9, **dict(eval_data="rows", eval_every=2) | changes)
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved(run):
    return load_file(run / "model/model.safetensors")["embedding"]


def test_it_is_measured_first_every_so_often_and_last_and_never_without_rows():
    assert [step for step in range(10) if measuring().due(step)] == [0, 2, 4, 6, 8, 9]
    assert not Measuring(ToySettings(out="o", steps=9)).due(0)


def test_ten_times_in_a_run_if_nothing_is_said():
    found = Measuring(ToySettings(out="o", steps=40, eval_data="rows"))
    assert [step for step in range(41) if found.due(step)] == list(range(0, 41, 4))


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("loss", [3.0, 1.0, 2.0], 1),
        ("objective/kl", [0.5, 0.0, 1.0], 1),
        ("completions/repetition", [0.2, 0.3, 0.1], 2),
        ("rewards/margins", [0.0, 2.0, 1.0], 1),
        ("objective/scores", [-3.0, -1.0, -2.0], 1),
        ("loss", [1.0, 1.0, 1.0], 0),  # of equals the first
        ("loss", [float("nan"), 5.0, float("-inf")], 1),  # what is no number is no best
    ],
)
def test_the_best_is_the_least_or_the_most_as_the_figure_has_it(metric, values, best):
    found = measuring(metric_for_best_model=metric)
    for step, value in enumerate(values):
        found.take(step, {f"eval_{metric}": value})
    assert found.best_step == best


def test_patience_counts_measurements_since_the_best():
    found = measuring(metric_for_best_model="loss", early_stopping_patience=2)
    seen = []
    for step, value in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 1.0]):
        found.take(step, {"eval_loss": value})
        seen.append(found.exhausted)
    assert seen == [False, False, False, False, False, True]


def test_a_figure_that_is_not_measured_is_refused_with_those_that_are():
    found = measuring(metric_for_best_model="accuracy")
    with pytest.raises(TrainingError, match="accuracy is not measured here; measured are loss, x"):
        found.take(0, {"eval_loss": 1.0, "eval_x": 2.0})


def test_the_model_saved_is_that_of_the_best_step(tmp_path, capsys):
    run_toy(tmp_path / "watched", **WATCHED)
    run_toy(tmp_path / "three", steps=3)
    run_toy(tmp_path / "ten")
    assert torch.equal(saved(tmp_path / "watched"), saved(tmp_path / "three"))
    assert not torch.equal(saved(tmp_path / "watched"), saved(tmp_path / "ten"))
    said = capsys.readouterr().err.splitlines()
    line = "the saved model is the best of those measured: step 3, held-out loss 0.5"
    assert said.count(line) == 1


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    run_toy(tmp_path / "run", save_every=1, **WATCHED)
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-000003", "step-000009", "step-000010"]


def test_a_run_ends_when_patience_does_and_says_so(tmp_path, capsys):
    run_toy(tmp_path / "run", early_stopping_patience=3, **WATCHED)
    steps = [line["step"] for line in lines(tmp_path / "run/metrics.jsonl")]
    assert steps == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert checkpoint.load(tmp_path / "run").step == 6
    assert "ended at step 6: no better measurement in 3" in capsys.readouterr().err


def test_a_damaged_best_checkpoint_is_one_line_and_no_model(tmp_path):
    run_toy(tmp_path / "run", **WATCHED)
    (tmp_path / "run/checkpoints/step-000003/tensors.safetensors").write_bytes(b"")
    (tmp_path / "run/model/model.safetensors").unlink()
    (tmp_path / "run/model").rmdir()
    with pytest.raises(checkpoint.CheckpointError, match=r"step-000003.*size differs"):
        run_toy(tmp_path / "run", resume=True, **WATCHED)
    assert not (tmp_path / "run/model").exists()


def test_a_sample_file_that_lost_lines_is_refused(tmp_path):
    changes = WATCHED | dict(samples=2, max_new_tokens=4)
    run_toy(tmp_path / "run", **changes)
    (tmp_path / "run/samples.jsonl").write_text("")
    with pytest.raises(RunError, match=r"samples\.jsonl: 0 bytes, the checkpoint has seen"):
        run_toy(tmp_path / "run", resume=True, **changes)


def test_texts_stand_in_a_file_of_their_own_and_the_log_has_numbers_only(tmp_path):
    run_toy(tmp_path / "run", samples=2, max_new_tokens=4, **WATCHED | dict(eval_every=5))
    texts = lines(tmp_path / "run/samples.jsonl")
    assert [text["step"] for text in texts] == [0, 5, 10]
    assert "completion" not in (tmp_path / "run/metrics.jsonl").read_text()


class Broken(Toy):
    def evaluate(self):
        text = {"prompt": "a", "reward": float("inf")}
        return Measurement({"eval_loss": float("nan"), "eval_margin": 1.0}, [text])


def test_a_figure_that_is_not_finite_is_said_and_left_out_and_the_run_goes_on(tmp_path, capsys):
    told = dict(eval_data="rows", samples=1, max_new_tokens=4)
    train(Broken(ToySettings(out=str(tmp_path / "run"), steps=2, **told)))
    assert lines(tmp_path / "run/samples.jsonl")[0] == {"step": 0, "prompt": "a"}
    found = lines(tmp_path / "run/metrics.jsonl")
    held_out = [line for line in found if "eval_margin" in line]
    assert held_out == [{"step": step, "eval_margin": 1.0} for step in (0, 1, 2)]
    assert "held out after step 0: eval_loss is not finite" in capsys.readouterr().err


# trackers


class Kept(tracking.GeneralTracker):
    """A tracker that keeps what it is given; "broken" values make it raise."""

    name, requires_logging_directory, seen, fails = "tensorboard", False, [], None

    def __init__(self, run_name, **_):
        super().__init__()
        self.seen.clear()

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.seen.append(values)

    def log(self, values, step, **_):
        if step == self.fails:
            raise OSError("the server is gone\nand more")
        self.seen.append((step, values))

    def finish(self):
        self.seen.append("finished")


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    there = [tracking.LoggerType.TENSORBOARD]
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: there)
    monkeypatch.setattr(Kept, "fails", None)
    return Kept


def test_a_tracker_gets_every_line_of_the_log_and_the_log_is_the_same(tmp_path, kept):
    run_toy(tmp_path / "run", report_to="tensorboard", **WATCHED)
    run_toy(tmp_path / "alone", **WATCHED)
    log = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert log == (tmp_path / "alone/metrics.jsonl").read_bytes()
    config, *lines, end = kept.seen
    assert config["lr"] == 0.01 and end == "finished"
    assert [{"step": step} | values for step, values in lines] == list(
        map(json.loads, log.splitlines())
    )


def test_a_tracker_that_fails_is_left_in_one_line_and_the_run_ends_the_same(
    tmp_path, kept, monkeypatch, capsys
):
    monkeypatch.setattr(kept, "fails", 4)
    run_toy(tmp_path / "run", report_to="tensorboard")
    run_toy(tmp_path / "alone")
    assert torch.equal(saved(tmp_path / "run"), saved(tmp_path / "alone"))
    said = capsys.readouterr().err.splitlines()
    assert said.count("nothing is tracked from here on: OSError: the server is gone") == 1


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("wandb", "report_to wandb: not installed; pip install wandb"),
        ("tensorbord", "report_to must be of aim, .*wandb, got tensorbord"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_the_run(tmp_path, report_to, message):
    with pytest.raises(TrainingError, match=message):
        run_toy(tmp_path / "run", report_to=report_to)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(metric_for_best_model="loss"), "metric_for_best_model must be left out without eval"),
        (
            dict(early_stopping_patience=2, eval_data="e"),
            "patience must be left out without metric",
        ),
        (dict(early_stopping_patience=0, **WATCHED), "patience must be at least 1, got 0"),
        (dict(eval_data="e", metric_for_best_model="los"), "must be one of loss, .*, got los"),
        (dict(samples=3), "samples must be 0 without eval_data, got 3"),
        (dict(samples=-1, eval_data="e"), "samples must be at least 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(changes, message):
    with pytest.raises(TrainingError, match=message):
        ToySettings(out="o", **changes)
