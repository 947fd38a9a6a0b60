"""A checkpoint is whole or not there, and only what its manifest vouches for is believed."""

import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from faults import Faults, count_events, full_disk, in_child
from safetensors.torch import load_file
from torch import nn

from dpo_lib.language_model.files import remove_leftovers
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.checkpoint import CheckpointError

KINDS = list(checkpoint._DTYPES)


def tensors(seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(5, 7, generator=generator), "step": torch.tensor(float(seed))}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in ((one[name], other[name]) for name in one)
    )


def two_saved(run: Path) -> Path:
    """A run with the checkpoints 1 and 2; returns the newer one's folder."""
    checkpoint.save(run, 1, tensors(1), {"at": 1})
    return checkpoint.save(run, 2, tensors(2), {"at": 2})


def test_what_is_saved_comes_back_to_the_bit_in_every_dtype(tmp_path):
    numbers = torch.arange(24).reshape(2, 3, 4)
    kinds = {f"t{n}": numbers.to(kind) for n, kind in enumerate(KINDS)}
    odd = {
        "scalar": torch.tensor(-0.0),
        "empty": torch.zeros(0, 3),
        "turned": torch.randn(4, 6).T,
        "extremes": torch.tensor([float("inf"), float("-inf"), 1e-45]),
    }
    extras = {"kl": 0.1 + 0.2, "tiny": 5e-324, "text": "é\u2028"}
    checkpoint.save(tmp_path, 3, kinds | odd, extras)
    found = checkpoint.load(tmp_path)
    assert (found.step, found.extras, found.passed_over) == (3, extras, ())
    assert same(found.tensors, {name: t.contiguous() for name, t in (kinds | odd).items()})
    assert torch.signbit(found.tensors["scalar"])


def test_our_writer_and_the_safetensors_library_agree(tmp_path):
    folder = checkpoint.save(tmp_path, 1, tensors(), {})
    assert same(load_file(folder / "tensors.safetensors"), tensors())


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert checkpoint.load(tmp_path) is None


def test_the_newest_two_are_kept_and_damaged_newer_ones_go(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, tensors(step), {})
    (tmp_path / "checkpoints/step-000009").mkdir()  # damaged: a run fell back to 3 and saves 4
    checkpoint.save(tmp_path, 4, tensors(4), {})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000003", "step-000004"]


def test_tied_weights_are_saved_once_and_stay_tied_K9(tmp_path):
    model = nn.Module()
    model.embedding, model.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    model.head.weight = model.embedding.weight
    saved = {name: t.clone() for name, t in checkpoint.module_tensors(model).items()}
    assert list(saved) == ["embedding.weight"]
    nn.init.zeros_(model.head.weight)
    checkpoint.copy_into(checkpoint.module_tensors(model), saved)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, saved["embedding.weight"])


def test_tensors_are_told_apart_where_they_have_no_address_K9():
    """So it is in a process that has no part of a sharded parameter."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert len({tensor.data_ptr() for tensor in model.parameters()}) == 1
    assert list(checkpoint.module_tensors(model)) == list(model.state_dict())


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, "w is missing in the checkpoint"),
        ({"w": torch.zeros(2), "b": torch.zeros(1)}, "b is missing in the model"),
        ({"w": torch.zeros(3)}, r"w is \(3,\) torch.float32 in the checkpoint, \(2,\)"),
        ({"w": torch.zeros(2).double()}, "w is .* torch.float64 in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name_K8(saved, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.copy_into({"w": torch.zeros(2)}, saved)


def test_a_kill_at_every_write_fsync_and_rename_leaves_a_whole_checkpoint_K5(tmp_path):
    def save_third(run):
        checkpoint.save(run, 3, tensors(3), {"at": 3})

    (tmp_path / "count").mkdir()
    two_saved(tmp_path / "count")
    events = count_events(lambda: save_third(tmp_path / "count"))
    assert events > 15
    found = set()
    for at in range(1, events + 1):
        run = tmp_path / str(at)
        run.mkdir()
        two_saved(run)

        def killed(run=run, at=at):
            Faults(at).install()
            save_third(run)

        assert in_child(killed) == -9
        newest = checkpoint.load(run)
        assert newest.passed_over == ()  # nothing torn ever has a checkpoint's name
        assert same(newest.tensors, tensors(newest.step)) and newest.extras == {"at": newest.step}
        found.add(newest.step)
        remove_leftovers(run / "checkpoints")
        assert not list(run.rglob(".tmp-*"))
        save_third(run)  # and the next start can save
        assert checkpoint.load(run).step == 3
    assert found == {2, 3}


def test_a_full_disk_at_every_event_is_one_line_and_costs_nothing_K6(tmp_path):
    for at in range(1, 12):
        run = tmp_path / str(at)
        run.mkdir()
        two_saved(run)

        def fill(run=run, at=at):
            full_disk(at).install()
            checkpoint.save(run, 3, tensors(3), {})

        said = tmp_path / "said"
        assert in_child(fill, stderr=said) == 2
        assert said.read_text().endswith("step-000003: cannot save: No space left on device\n")
        assert said.read_text().count("\n") == 1
        assert same(checkpoint.load(run).tensors, tensors(2))
        assert not list(run.rglob(".tmp-*"))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 199, 250])
def test_a_file_that_may_not_grow_past_byte_k_is_one_line_K6(tmp_path, size):
    two_saved(tmp_path)

    def limited():  # the kernel's own limit, not ours
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        checkpoint.save(tmp_path, 3, tensors(3), {})

    assert in_child(limited) == 2
    assert checkpoint.load(tmp_path).step == 2


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "longer"])
def test_a_damaged_file_is_noticed_and_the_older_checkpoint_taken_K5(tmp_path, name, damage):
    path = two_saved(tmp_path) / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        data[len(data) // 2] ^= 64
        path.write_bytes(data)
    else:
        cut = {"cut": data[:-2], "empty": b"", "longer": data + b"}"}
        path.write_bytes(cut[damage])
    found = checkpoint.load(tmp_path)
    assert found.step == 1 and same(found.tensors, tensors(1))
    (reason,) = found.passed_over
    assert "step-000002" in reason and "\n" not in reason


def test_if_nothing_is_whole_the_run_does_not_start_over_in_silence_K5(tmp_path):
    for path in two_saved(tmp_path).parent.glob("*/state.json"):
        path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"no complete checkpoint; .*step-000002.*size"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "..", "", "sub/state.json"])
def test_a_manifest_that_points_elsewhere_is_refused_M2(tmp_path, name):
    path = two_saved(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"size": 1, "sha256": "0"}
    path.write_text(json.dumps(manifest))
    found = checkpoint.load(tmp_path)
    assert found.step == 1 and "which is refused" in found.passed_over[0]


@pytest.mark.parametrize("what", ["tensors.safetensors", "."])
def test_symbolic_links_are_not_followed_M2(tmp_path, what):
    newest = two_saved(tmp_path)
    target = newest / what
    elsewhere = tmp_path / "elsewhere"
    os.rename(target, elsewhere)
    (newest if what == "." else target).symlink_to(elsewhere)
    found = checkpoint.load(tmp_path)
    assert found.step == 1 and "link" in found.passed_over[0] + "link" * (what != ".")


def test_a_pickle_with_a_checkpoints_name_is_never_opened_M1(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    folder = two_saved(tmp_path)
    path = folder / "tensors.safetensors"
    path.write_bytes(pickle.dumps(Malicious()))
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"size": path.stat().st_size, "sha256": checkpoint.sha256(path)}
    manifest["files"]["tensors.safetensors"] = entry  # even if the manifest vouches for it
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.load(tmp_path).step == 1
    assert not (tmp_path / "it ran").exists()


def test_what_json_cannot_hold_is_refused_and_nothing_is_left(tmp_path):
    two_saved(tmp_path)
    with pytest.raises(ValueError):
        checkpoint.save(tmp_path, 3, tensors(), {"kl": float("nan")})
    assert checkpoint.load(tmp_path).step == 2
    assert not list(tmp_path.rglob(".tmp-*"))


def test_files_reach_the_disk_before_their_name_and_old_ones_go_last_K5(tmp_path, monkeypatch):
    """What no kill can show and a power cut would: the order of fsync, rename and removal."""
    two_saved(tmp_path)
    seen = []
    fsync = os.fsync

    def path_of(handle):
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name

    monkeypatch.setattr(os, "fsync", lambda h: (seen.append(f"fsync {path_of(h)}"), fsync(h)))
    for name, call in (("rename", os.rename), ("replace", os.replace)):

        def noted(a, b, call=call):
            seen.append(f"rename to {Path(b).name}")
            call(a, b)

        monkeypatch.setattr(os, name, noted)
    checkpoint.save(tmp_path, 3, tensors(3), {})
    assert seen[:7] == [
        "fsync manifest.json",
        "fsync state.json",
        "fsync tensors.safetensors",
        "fsync step-000003",
        "rename to step-000003",
        "fsync checkpoints",
        "rename to .tmp-old-step-000001",
    ]
