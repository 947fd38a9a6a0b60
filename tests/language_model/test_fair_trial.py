"""`scripts/fair_trial.py`: its quick run from world to gates, and gates that can fail."""

import importlib.util
import json
import sys

import pytest
import torch
from conftest import ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fair_trial", ROOT / "scripts/fair_trial.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fair_trial"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fair_trial"]


def test_the_quick_run_tunes_and_judges_every_method_and_goes_on_where_it_was(
    script, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "argv", ["fair_trial.py", "--quick", str(tmp_path / "runs")])
    assert script.main() == 0
    said = capsys.readouterr().out
    names = [f"{rule}-{name}" for rule in script.RULES for name in script.METHODS]
    names += [f"shared-{name}" for name in script.AT_ONE_SETTING]
    assert [line.split()[2] for line in said.splitlines() if line.startswith("seed 1 ")] == names
    kept = [json.loads((tmp_path / f"runs/seed-1/{name}.json").read_text()) for name in names]
    assert all(len(found["reward"]) == len(found["kl"]) == 6 for found in kept)
    trained = sorted((tmp_path / "runs/seed-1/runs").glob("*/settings.json"))
    told = [json.loads(path.read_text()) for path in trained]
    assert len(told) == len(names) and {row["lr"] for row in told} == {1e-3}
    assert {row.get("beta", 0.3) for row in told} == {0.3}
    assert script.main() == 0  # at once: nothing is trained again
    assert sorted((tmp_path / "runs/seed-1/runs").glob("*/settings.json")) == trained


def test_a_setting_is_chosen_by_the_learned_reward_not_the_true_one(script):
    rows = [dict(method="online", lr=lr, beta=0.3, steps=60, learned=x, reward=-x, kl=1.0)
            for lr, x in ((3e-4, 0.1), (1e-3, 0.7), (3e-3, 0.4))]  # fmt: skip
    rows.append(dict(rows[0], method="PPO", learned=9.0))
    assert script.best(rows, "online") == {"lr": 1e-3, "beta": 0.3, "steps": 60}
    rows[1]["kl"] = 11.0
    assert script.best(rows, "online", 10.0)["lr"] == 3e-3  # by the second rule: KL at most 10


@pytest.mark.parametrize("worse", [None, "reward", "kl", "frozen"])
def test_a_gate_fails_where_its_figure_does(script, capsys, worse):
    """Hand numbers, of which one at a time is not as claimed."""
    noise = torch.linspace(-0.1, 0.1, 50)

    def judged(method, reward, kl):
        figures = {"reward": (reward + noise).tolist(), "kl": (kl - noise).tolist()}
        return dict(method=method, rule="shared") | figures

    rows = [
        judged("relabelled", 0.5 if worse != "reward" else 1.5, 10.0 if worse != "kl" else 5.0),
        judged("frozen", 0.6 if worse != "frozen" else 1.0, 10.0),
        judged("online", 1.0 + noise.flip(0), 5.0),
        dict(judged("online", 0.0, 99.0), rule="near"),  # no gate asks it
    ]
    lines = script.gates([{"seed": 7, "rows": rows}])
    failed = [number for number, line in enumerate(lines) if line.endswith("FAILED")]
    assert failed == {None: [], "reward": [0], "kl": [1], "frozen": [2]}[worse]
    assert capsys.readouterr().out.splitlines() == lines
