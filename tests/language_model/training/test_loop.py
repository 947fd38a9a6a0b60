"""The loop: order, accumulation, processes, and the promise that a kill changes no bit."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import Faults, count_events, ends, full_disk, in_child, warm_up
from safetensors.torch import load_file
from toy_stage import Toy, ToySettings, run_toy

from dpo_lib.language_model.data import order
from dpo_lib.language_model.data.order import batch_indices, derive_seed
from dpo_lib.language_model.settings import Settings, TrainingError
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.learner import learning_rate
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.training.run_folder import RunError, RunFolder

HERE = Path(__file__).parent
warm_up()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    """How a run of ten steps ends that nobody disturbs."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert in_child(lambda: run_toy(run)) == 0
    return ends(run)


# Measured, sampled, best kept, ended early: after step 6, because step 3 was the best.
WATCHED = dict(eval_data="rows", eval_every=1, samples=2, max_new_tokens=4,
               metric_for_best_model="loss", early_stopping_patience=3)  # fmt: skip


@pytest.fixture(scope="module", params=[{}, WATCHED], ids=["unwatched", "watched"])
def course(request, tmp_path_factory) -> tuple[dict, dict[str, str]]:
    """Changes of a run, and how it ends if nobody disturbs it."""
    run = tmp_path_factory.mktemp("course") / "run"
    assert in_child(lambda: run_toy(run, **request.param)) == 0
    return request.param, ends(run)


def go_on(run, **changes):
    """The same command again, with --resume."""
    return lambda: run_toy(run, resume=True, **changes)


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# order


def test_the_order_is_a_function_of_seed_and_step_and_each_epoch_has_each_item_once_K1():
    for items, size in ((10, 4), (8, 4), (5, 5), (3, 1)):
        steps = -(-items // size)
        epochs = [
            [batch_indices(7, epoch * steps + step, size, items) for step in range(1, steps + 1)]
            for epoch in range(4)
        ]
        for batches in epochs:
            assert sorted(item for batch in batches for item in batch) == list(range(items))
            assert all(len(batch) == size for batch in batches[:-1])
    torch.manual_seed(0)
    before = batch_indices(7, 123, 4, 1000)
    torch.manual_seed(1)
    order._permutation.cache_clear()  # a new process has no cache
    assert batch_indices(7, 123, 4, 1000) == before
    assert batch_indices(8, 123, 4, 1000) != before
    assert batch_indices(7, 123 + 250, 4, 1000) != before  # the same place, an epoch later


def test_seeds_differ_where_torch_looks():
    # torch's CPU generator ignores the high 32 bits of a seed, so (seed << 32) + epoch would not
    low = {derive_seed(seed, epoch) & 0xFFFFFFFF for seed in range(30) for epoch in range(30)}
    assert len(low) == 900


def test_the_warm_up_is_linear_and_ends():
    settings = ToySettings(out="x", steps=1, lr=4.0, warmup_steps=3)
    assert [learning_rate(settings, step) for step in (1, 2, 3, 4, 5, 99)] == [1, 2, 3, 4, 4, 4]


# accumulation


def by_hand(dtype, steps, optimizer) -> tuple[list[float], list[float], torch.Tensor]:
    """Losses, gradient norms and weights of whole-batch steps, with nothing of the trainer."""
    stage = Toy(ToySettings(out="x", steps=1), dtype=dtype)
    weights = stage.model.embedding
    step_with = optimizer([weights])
    losses, norms = [], []
    for step in range(1, steps + 1):
        stage.start(step)
        loss = stage.token_losses(batch_indices(0, step, 8, 19)).mean()
        weights.grad = None
        loss.backward()
        losses.append(loss.item())
        norms.append(weights.grad.norm().item())
        if norms[-1] > 2.0:
            weights.grad *= 2.0 / (norms[-1] + 1e-6)  # torch's own guard against 0 / 0
        step_with.param_groups[0]["lr"] = 0.01 * min(1, step / 4)
        step_with.step()
    return losses, norms, weights.detach()


@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_8x1_4x2_2x4_and_1x8_are_the_same_step_G1_G2_G3_G4(
    tmp_path, accumulate, dtype, tolerance, name
):
    """Ragged rows, a last batch of 3 of 19, a loss over tokens: loss, norm and weights agree."""
    make = {
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0),
    }
    losses, norms, weights = by_hand(dtype, 7, make[name])
    changes = dict(steps=7, accumulate=accumulate, max_grad_norm=2.0, optimizer=name)
    stage = run_toy(tmp_path / "run", dtype=dtype, **changes)
    rows = log(tmp_path / "run")
    assert max(norms) > 2.0 > min(norms)  # clipping is part of the test
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=tolerance)
    assert [row["grad_norm"] for row in rows] == pytest.approx(norms, rel=tolerance)
    torch.testing.assert_close(stage.model.embedding.data, weights, rtol=tolerance, atol=tolerance)


PROCESSES = f"""
import sys; sys.path[:0] = {[str(HERE.parent), str(HERE.parents[2])]!r}
from toy_stage import run_toy
run_toy(sys.argv[1], steps=5, batch_size=6, accumulate=2)  # batches of 6, 6, 6, 1: one is idle
run_toy(sys.argv[1], steps=5, batch_size=6, accumulate=2, resume=True)
"""


def test_two_processes_give_the_weights_of_one_G1(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launch, "--nproc_per_node", "2", script, tmp_path / "two"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    one = run_toy(tmp_path / "one", steps=5, batch_size=6)
    two = load_file(tmp_path / "two/model/model.safetensors")["embedding"]
    torch.testing.assert_close(two, one.model.embedding.data, rtol=1e-6, atol=1e-6)
    for a, b in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    assert json.loads((tmp_path / "two/settings.json").read_text())["machine"]["processes"] == 2


# kills


def test_a_run_that_is_left_alone_is_the_same_twice(tmp_path, undisturbed):
    assert in_child(lambda: run_toy(tmp_path / "again")) == 0
    assert ends(tmp_path / "again") == undisturbed


@pytest.mark.parametrize("kills", [1, 2, 5])
def test_chains_of_sigkill_end_with_the_same_bytes_K1_K2_K3_K4(tmp_path, course, kills):
    (changes, undisturbed), times, run = course, random.Random(kills), tmp_path / "run"
    for _ in range(kills):
        in_child(go_on(run, **changes), kill_after=times.uniform(0.05, 0.3))
    assert in_child(go_on(run, **changes)) == 0
    assert ends(run) == undisturbed


def test_a_kill_at_a_sample_of_disk_events_of_a_run_ends_with_the_same_bytes_K5(tmp_path, course):
    """All of them: scripts/kill_tests.py."""
    changes, undisturbed = course
    events = count_events(lambda: run_toy(tmp_path / "count", **changes))
    assert events > 80
    for at in range(1, events, 11):
        run = tmp_path / str(at)

        def killed(run=run, at=at):
            Faults(at).install()
            run_toy(run, **changes)

        assert in_child(killed) == -signal.SIGKILL
        assert in_child(go_on(run, **changes)) == 0
        assert ends(run) == undisturbed, at
        assert not list(run.rglob(".tmp-*"))


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room_K6(tmp_path, course):
    changes, undisturbed = course
    events = count_events(lambda: run_toy(tmp_path / "count", **changes))
    for at in range(5, events, 19):
        run, said = tmp_path / str(at), tmp_path / f"{at}.txt"

        def fill(run=run, at=at):
            full_disk(at).install()
            run_toy(run, **changes)

        code = in_child(fill, stderr=said)
        told = said.read_text().splitlines()
        usual = ("step", "Toy on", "held out", "ended at", "the saved model")
        lines = [line for line in told if not line.startswith(usual)]
        assert (code, len(lines)) == (2, 1) and "No space left on device" in lines[0], at
        assert in_child(go_on(run, **changes)) == 0
        assert ends(run) == undisturbed, at


def test_a_log_that_cannot_be_forced_to_the_disk_is_one_line_K6(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with RunFolder(tmp_path / "run", ToySettings(out="run"), {}, resume=False) as run:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"run: cannot write the log: No space left on device$"):
            run.save(1, {}, {})


def test_too_small_a_disk_is_refused_before_the_first_step_K6(tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(ValueError, match=r"checkpoints need .* MiB, the disk has 0 MiB"):
        run_toy(tmp_path / "run")


class Signalled(Toy):
    """Gets a signal in the middle of step 5."""

    number = signal.SIGTERM

    def backward(self, indices, share):
        if self.at == 5:
            os.kill(os.getpid(), self.number)
        return super().backward(indices, share)

    def start(self, step):
        self.at = step
        super().start(step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_and_the_rest_is_the_same_K7(tmp_path, undisturbed, number):
    def interrupted():
        Signalled.__name__ = "Toy"
        stage = Signalled(ToySettings(out=str(tmp_path / "run"), steps=10))
        stage.number = number
        train(stage)

    said = tmp_path / "said"
    assert in_child(interrupted, stderr=said) == 128 + number
    assert said.read_text().splitlines()[-1] == "stopped at step 5, saved; go on with --resume"
    assert checkpoint.load(tmp_path / "run").step == 5
    assert in_child(go_on(tmp_path / "run"), stderr=said) == 0
    assert said.read_text().splitlines()[1] == "going on from step 5 of 10"
    assert ends(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_time_costs_nothing_K7(tmp_path, course, number):
    (changes, undisturbed), times, run = course, random.Random(number), tmp_path / "run"
    for _ in range(4):
        code = in_child(go_on(run, **changes), kill_after=times.uniform(0.05, 0.3), number=number)
        assert code in (0, 128 + number, -number, 99)  # 99: before or after the loop
    assert in_child(go_on(run, **changes)) == 0
    assert ends(run) == undisturbed


def test_a_finished_run_stays_as_it_is(tmp_path, course):
    (changes, undisturbed), run = course, tmp_path / "run"
    assert in_child(lambda: run_toy(run, **changes)) == 0
    assert in_child(go_on(run, **changes)) == 0
    assert ends(run) == undisturbed


def test_after_damage_to_the_newest_checkpoint_the_older_one_is_taken_and_said_K5(
    tmp_path, undisturbed
):
    run, said = tmp_path / "run", tmp_path / "said"
    assert in_child(lambda: run_toy(run)) == 0
    (run / "checkpoints/step-000010/tensors.safetensors").write_bytes(b"")
    assert in_child(go_on(run), stderr=said) == 0
    first, second = said.read_text().splitlines()[1:3]
    assert first.startswith("passed over ") and "step-000010" in first and "size" in first
    assert second == "going on from step 9 of 10"
    assert ends(run) == undisturbed


# what is refused


@pytest.fixture
def started(tmp_path) -> Path:
    run_toy(tmp_path / "run", steps=2)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed 0 -> 1"),
        ({"batch_size": 4}, "batch_size 8 -> 4"),
        ({"lr": 0.02, "steps": 3}, "lr 0.01 -> 0.02, steps 2 -> 3"),
        ({"model": "other"}, "model toy -> other"),
        ({"optimizer": "adamw"}, "optimizer rmsprop -> adamw"),
        ({"reference": "there"}, "reference None -> there"),
        ({"data_seed": 1}, r"data \(hash\) 0 -> 1"),
    ],
)
def test_resuming_with_other_settings_or_data_is_refused_by_name_K8(started, changes, message):
    before = (started / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=f"--resume with other settings: {message}$"):
        run_toy(started, resume=True, **{"steps": 2} | changes)
    assert (started / "metrics.jsonl").read_bytes() == before


def test_where_and_how_often_it_is_saved_may_change_K8(started):
    moved = started.rename(started.with_name("moved"))
    run_toy(moved, resume=True, steps=2, save_every=1, log_every=1)


def test_a_run_is_never_mixed_into_another_K8(started):
    with pytest.raises(ValueError, match=r"run exists already: add --resume"):
        run_toy(started, steps=2)


def test_a_folder_with_other_things_is_refused_and_left_alone_K8(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"exists already|not the folder of a run"):
            run_toy(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["thesis.txt"]


def test_two_processes_do_not_train_in_one_folder_K8(tmp_path):
    settings = ToySettings(out=str(tmp_path / "run"), steps=1)
    refused = pytest.raises(ValueError, match="another process is training in it")
    with RunFolder(tmp_path / "run", settings, {}, resume=False), refused:
        run_toy(tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", ["checkpoints", "model", "metrics.jsonl", "settings.json"])
def test_a_link_out_of_the_runs_folder_is_refused_M2(started, tmp_path, name):
    os.rename(started / name, tmp_path / "elsewhere")
    (started / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name}: a symbolic link is not followed"):
        run_toy(started, resume=True, steps=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive and finite, got 0.0"),
        ({"optimizer": "sgd"}, "optimizer must be one of rmsprop, adamw, got sgd"),
        ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16, got float16"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Settings(**{"model": "m", "data": "d", "out": "o", "steps": 1} | changes)


def test_fewer_items_than_a_batch_are_refused_L2(tmp_path):
    with pytest.raises(TrainingError, match="batch_size 8 is more than the 5 items"):
        run_toy(tmp_path / "run", items=5)
    assert not (tmp_path / "run").exists()


class Poisoned(Toy):
    """One row of the data has no finite loss."""

    def token_losses(self, indices):
        return super().token_losses(indices) * (float("nan") if 3 in indices else 1)


def test_a_loss_that_is_not_finite_stops_with_step_and_items_and_a_whole_checkpoint_H2(tmp_path):
    settings = ToySettings(out=str(tmp_path / "run"), steps=9, accumulate=4, save_every=1)
    step = next(s for s in range(1, 4) if 3 in batch_indices(0, s, 8, 19))
    with pytest.raises(TrainingError, match=rf"^step {step}: the loss .* items \[.*\b3\b.*\]") as e:
        train(Poisoned(settings))
    items = str(e.value).split("items ")[1].split(";")[0]
    assert len(json.loads(items)) <= 2  # of the micro-batch only
    saved = checkpoint.load(tmp_path / "run")
    assert saved.step == step - 1
    assert all(t.isfinite().all() for t in saved.tensors.values())
    assert [row["step"] for row in log(tmp_path / "run")] == list(range(1, step))


def test_the_log_has_one_line_a_step_and_time_is_kept_out_of_it(started):
    assert [row["step"] for row in log(started)] == [1, 2]
    assert not {"seconds", "tokens_per_second"} & set(log(started)[0])
    timing = (started / "timing.jsonl").read_text().splitlines()
    assert json.loads(timing[1])["seconds"] > 0


def test_settings_can_be_extended_and_changed(tmp_path):
    settings = ToySettings(out="x", steps=1)
    assert replace(settings, lr=0.5).lr == 0.5


def test_a_run_says_what_it_does_in_a_line_and_in_its_folder(tmp_path, capsys):
    run_toy(tmp_path / "run")
    assert capsys.readouterr().err.splitlines()[0] == (
        "Toy on cpu: float32 weights, computed in float32, 66 of 66 parameters trained, "
        "19 items, 10 steps of 8"
    )
    written = json.loads((tmp_path / "run/settings.json").read_text())["about"]
    assert written == {
        "device": "cpu",
        "weights": "float32",
        "computes in": "float32",
        "parameters": 66,
        "trained": 66,
        "items": 19,
        "tokens": None,
    }
