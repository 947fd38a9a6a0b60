"""`scripts/online_dpo.py`: its quick run from world to gates, and gates that can fail."""

import importlib.util
import sys

import pytest
import torch
from conftest import ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("online_dpo", ROOT / "scripts/online_dpo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["online_dpo"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["online_dpo"]


def test_the_quick_run_trains_and_judges_every_method(script, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["online_dpo.py", "--quick", str(tmp_path / "runs")])
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    methods = ["sft", "offline", "frozen", "online", "moving"]
    assert [line.split()[:2] for line in lines[1:6]] == [["1", name] for name in methods]
    assert lines[2].split()[2] != "nan" and lines[1].split()[5] == "0.000"  # SFT has no KL
    assert "completions keep their tokens as text" in lines[6]
    assert [line.split(",")[0] for line in lines[7:10]] == [
        "seed 1: online has more true reward than offline",
        "seed 1: online has less KL than offline",
        "seed 1: frozen has less true reward than online",
    ]
    told = [(tmp_path / f"runs/seed-1/{name}/settings.json").read_text() for name in methods[1:]]
    assert all('"lr": 0.001' in text and '"beta": 0.3' in text for text in told)


@pytest.mark.parametrize("worse", [None, "reward", "kl", "frozen"])
def test_a_gate_fails_where_its_figure_does(script, capsys, worse):
    """Hand numbers, of which one at a time is not as claimed."""
    noise = torch.linspace(-0.1, 0.1, 50).unsqueeze(1)

    def judged(reward, kl):
        return script.Judged(reward + noise, kl - noise, noise)

    rows = {
        "offline": judged(0.5 if worse != "reward" else 1.5, 10.0 if worse != "kl" else 5.0),
        "frozen": judged(0.6 if worse != "frozen" else 1.0, 10.0),
        "online": judged(1.0 + noise.flip(0), 5.0),
    }
    lines = script.gates({7: rows})
    failed = [number for number, line in enumerate(lines) if line.endswith("FAILED")]
    assert failed == {None: [], "reward": [0], "kl": [1], "frozen": [2]}[worse]
    assert capsys.readouterr().out.splitlines() == lines
