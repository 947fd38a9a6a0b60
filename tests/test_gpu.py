"""The command for a GPU, at its small size on a CPU: its file, its limits, its refusals."""

import json
import math
import sys
import zipfile
from argparse import Namespace

import gpu
import nbformat
import pytest
from conftest import ROOT

from dpo_lib import results
from dpo_lib.page import plotting
from dpo_lib.results import stored


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The file of a dry run whose sections are computed here, but for the one that runs tests."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import on_gpu

    sys.path.remove(str(ROOT / "benchmarks"))
    out, begun = tmp_path_factory.mktemp("gpu") / "gpu.json", []

    def section(name, limit, dry_run, environment):
        begun.append(name)
        if name == "tests":
            return gpu.in_new_process(name, 300, dry_run, environment)
        return json.loads(json.dumps(on_gpu.compute(name, on_gpu.DRY)))

    assert gpu.main(["--dry-run", "--minutes", "60", "--out", str(out)], section) == 0
    return Namespace(result=results.read(out), begun=begun, module=on_gpu)


def test_a_dry_run_fills_every_section_and_signs_the_file(dry):
    assert list(dry.result) == [
        "command", "dry_run", *gpu.SECTIONS, "goals", "sha256"
    ]  # fmt: skip
    assert dry.result["dry_run"] is True
    assert not [name for name in dry.begun if dry.result[name].get("failed")]
    about = dry.result["about"]
    assert about["machine"]["torch"] and min(about["matmul_peak"].values()) > 1e9
    assert dry.result["tests"]["failed"] == [] and sum(
        dry.result["tests"][kind] for kind in ("passed", "skipped")
    ) >= 8  # fmt: skip


def test_the_agreement_is_that_of_float32_and_of_bf16(dry):
    found = dry.result["agreement"]
    assert found["holds"]
    assert 0 < found["float32"]["logps"] <= 1e-5 < found["bf16"]["logps"] < 0.02
    assert found["float32"]["gradients"] <= 1e-3 and found["bf16"]["cosine"] > 0.99


def test_a_side_has_seconds_for_real_tokens_and_memory(dry):
    for name in ("ours, bf16", "plain, bf16", "ours, LoRA, bf16"):
        side = dry.result[name]
        assert side["steps"] == dry.module.DRY.steps and side["peak_mib"] > 0
        tokens = side["tokens_per_second"] * side["seconds"]
        fewest, most = (2 * 2 * (p + c) for p, c in ((64, 16), (256, 256)))
        assert fewest / 2 < tokens < 2 * most  # of medians
        assert side["flops"] > 0


def test_the_trained_policies_have_curves_true_reward_and_kl(dry):
    found = dry.result["train"]
    policies = ["DPO 0.1", "DPO 1", "DPO 0.1, LoRA"]
    assert list(found["runs"]) == ["SFT", *policies]
    for name in policies:
        run = found["runs"][name]
        assert [step for step, _ in run["held_out"]["loss"]] == [0, 2]
        assert math.isclose(run["held_out"]["loss"][0][1], math.log(2), abs_tol=1e-5)
        assert "OUT/SFT/model" in run["command"] and run["tokens_per_second"] > 0
    assert "--lora 4" in found["runs"]["DPO 0.1, LoRA"]["command"]
    assert [row["name"] for row in found["policies"]] == policies
    assert all({"mean", "interval"} <= row["kl"].keys() for row in found["policies"])


def run(tmp_path, section, *more):
    out = tmp_path / "gpu.json"
    code = gpu.main(["--dry-run", "--out", str(out), *more], section)
    return code, results.read(out) if out.exists() else None


def test_a_section_that_fails_or_has_no_time_left_says_so_and_the_others_are_kept(tmp_path):
    def section(name, limit, dry_run, environment):
        assert limit <= 43  # three quarters of a minute, less what it takes to end
        return {"failed": "RuntimeError: CUDA error"} if name == "agreement" else {"fine": 1}

    code, result = run(tmp_path, section, "--minutes", "0.8")
    assert code == 1 and result["agreement"] == {"failed": "RuntimeError: CUDA error"}
    assert result["tests"] == result["ours, bf16"] == {"fine": 1}
    assert "43 s are left" in result["train"]["skipped"]
    assert result["goals"]["tokens_per_second"] == {"value": None, "goal": ">= 400000", "met": None}


def test_goals_are_met_on_their_own_side():
    ours = {"tokens_per_second": 500_000.0, "peak_mib": 500.0}
    trl = {"tokens_per_second": 300_000.0, "peak_mib": 1000.0}
    met = gpu.goals({"ours, bf16": ours, "TRL default, bf16": trl})
    assert [goal["met"] for goal in met.values()] == [True, False, True]


def test_a_process_that_hangs_is_ended_and_one_that_dies_tells_its_last_line(monkeypatch):
    environment = {"PYTHONPATH": str(ROOT)}
    assert gpu.in_new_process("about", 0.2, True, environment) == {"failed": "not done after 0 s"}
    monkeypatch.setattr(gpu, "ROOT", ROOT / "nowhere")
    assert "No such file" in gpu.in_new_process("about", 60, True, environment)["failed"]


def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    found = {"machine": {"gpu": None}}
    assert gpu.main(["--out", str(tmp_path / "gpu.json")], lambda *_: found) == 2
    assert capsys.readouterr().err == (
        "gpu.py: no CUDA device: run it where there is one, or with --dry-run\n"
    )
    assert not list(tmp_path.iterdir())


def test_wheels_are_laid_out_for_what_is_missing_only(tmp_path, monkeypatch):
    for name in ("unheard_of", "torch"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")

    def section(name, limit, dry_run, environment):
        folder = gpu.Path(environment["PYTHONPATH"].split(":")[1])
        return {"laid": sorted(path.name for path in folder.iterdir())}

    monkeypatch.setattr(sys, "path", list(sys.path))
    _, result = run(tmp_path / "out", section, "--wheels", str(tmp_path))
    assert result["about"] == {"laid": ["unheard_of.py"]}


@pytest.mark.parametrize(
    ("flag", "where", "told"),
    [("--wheels", "", "there are no wheels in it"), ("--out", "file/gpu.json", "File exists")],
)
def test_a_path_that_cannot_be_used_is_one_line(flag, where, told, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert gpu.main([flag, str(tmp_path / where)], lambda *_: 1 / 0) == 2
    assert capsys.readouterr().err == f"gpu.py: {flag} {tmp_path / where}: {told}\n"


@pytest.mark.parametrize("there", [False, True])
def test_chapter_18_draws_the_file_if_there_is_one_and_says_so_if_not(
    there, dry, tmp_path, monkeypatch, capsys
):
    (cell,) = (
        cell.source
        for cell in nbformat.read(ROOT / "book/18_gpt2.ipynb", 4).cells
        if "gpu.json" in cell.source
    )
    monkeypatch.setattr(stored, "STORED", tmp_path)
    if there:
        (tmp_path / "gpu.json").write_text(json.dumps(dry.result))
    shown = []
    show = lambda fig, alt: shown.append(alt)  # noqa: E731
    exec(cell, dict(results=results, figure=plotting.figure, BLUE=plotting.BLUE, show=show))
    said = capsys.readouterr().out
    assert (said == "No run on a GPU is stored yet.\n") is not there
    assert len(shown) == there
    for name in ("ours, bf16: ", "plain, bf16: ", "DPO 0.1: true reward ", "DPO 0.1, LoRA: true"):
        assert (name in said) is there and (not there or name in shown[0])
