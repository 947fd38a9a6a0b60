"""`scripts/length.py`: its quick run, its labels, and gates that can fail."""

import importlib.util
import json
import sys

import pytest
import torch
from conftest import ROOT

from dpo_lib.language_model.data import read_preferences, tokenize_preferences


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))  # where it finds what it shares with fair_trial
    spec = importlib.util.spec_from_file_location("length", ROOT / "scripts/length.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["length"] = module  # where its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "scripts"))
    del sys.modules["length"], sys.modules["fair_trial"]


def test_the_quick_run_trains_every_loss_on_its_labels_with_its_settings(
    script, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "argv", ["length.py", "--quick", str(tmp_path)])
    assert script.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in said if line.startswith("seed 1 ")] == list(script.LOSSES)
    for name, own in script.LOSSES.items():
        (folder,) = (tmp_path / "seed-1/runs").glob(f"{name}-*")
        told = json.loads((folder / "settings.json").read_text())
        assert own.items() <= told.items()
        assert told["beta"] == pytest.approx(6.0 if name in ("mean", "SimPO") else 0.3)
        labels = "labelled-0.jsonl" if name == "clean" else "labelled-0.1.jsonl"
        assert told["data"].endswith(f"seed-1/{labels}")


def test_labels_that_like_length_prefer_longer_answers_and_the_others_do_not(script, tmp_path):
    size = script.Size(pairs=2000, sft_steps=1, prompts=2)
    runs = script.Lengths(tmp_path / "seed-0", 0, size)
    longer = {}
    for gamma in (0.0, 0.1):
        rows, report = read_preferences(runs.labelled(gamma), runs.tokenizer)
        pairs = tokenize_preferences(rows, runs.tokenizer, 128, report)
        gaps = torch.tensor([float(len(p.chosen) - len(p.rejected)) for p in pairs])
        longer[gamma] = (gaps.mean() / (gaps.std() / len(gaps) ** 0.5)).item()
    assert longer[0.1] > 10 and abs(longer[0.0]) < 4


def test_the_setting_is_the_best_by_true_reward_near_the_reference_or_the_nearest(script):
    rows = [dict(method="sum", lr=lr, beta=0.3, steps=40, reward=x, kl=kl)
            for lr, x, kl in ((1e-4, 0.1, 2.0), (3e-4, 0.5, 9.0), (1e-3, 0.9, 30.0))]  # fmt: skip
    assert script.best(rows, "sum")["lr"] == 3e-4
    assert script.best([row | {"kl": row["kl"] + 10} for row in rows], "sum")["lr"] == 1e-4


@pytest.mark.parametrize("worse", [None, "clean", "R-DPO"])
def test_a_gate_fails_where_its_figure_does(script, capsys, worse):
    noise = torch.linspace(-1, 1, 50)
    long, short = 30 + noise, 20 - noise
    rows = [{"method": name, "length": (short if name != worse else long + noise).tolist()}
            for name in ("clean", "R-DPO")]  # fmt: skip
    rows.append({"method": "sum", "length": long.tolist()})
    lines = script.gates([{"seed": 7, "rows": rows}])
    failed = [line.endswith("FAILED") for line in lines]
    assert failed == [worse == "clean", worse == "R-DPO"]
    assert capsys.readouterr().out.splitlines() == lines
