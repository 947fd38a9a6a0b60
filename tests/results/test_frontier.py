"""The stored experiment: one command that can be resumed; its result says how it was made."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch

from dpo_lib import results
from dpo_lib.results import about, frontier, judging
from dpo_lib.results.plan import stages

SMALL = "--seeds 1 --betas 0.1 --beta 0.1 --temperatures 1 --pairs 8 --batch-size 4 --sft-steps 2 "
SMALL += "--reward-steps 2 --steps 2 --ppo-steps 4 --prompts 3 --test-pairs 8 --best-of 2 "
SMALL += "--max-new-tokens 4"
METHODS = ["DPO 0.1", "Preferred-FT", "Unlikelihood", "PPO", "PPO-GT"]


def run(out, *more):
    return frontier.main(["--out", str(out), *SMALL.split(), *more])


def outcome(part):
    """What must not depend on how often a run was interrupted."""
    curves = {name: stage["curves"] for name, stage in part["stages"].items()}
    return curves, part["policies"], part["best_of"], part["reward_accuracy"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier") / "runs"
    assert run(folder) == 0
    return folder


def test_one_command_trains_and_judges_every_method(out):
    result = results.read(out / "frontier.json")
    (part,) = result["seeds"]
    assert list(part["stages"]) == ["SFT", "reward", *METHODS]
    assert [row["name"] for row in part["policies"]] == ["SFT", *METHODS]
    assert [row["n"] for row in part["best_of"]] == [1, 2]
    for name in ("DPO 0.1", "reward"):
        assert abs(part["stages"][name]["first_loss"] - math.log(2)) < 1e-6
    assert abs(part["stages"]["SFT"]["first_loss"] - math.log(1024)) < 0.1
    start = part["policies"][0]
    assert start["kl"]["mean"] == 0 and start["accuracy"] is None
    assert result["about"]["shape"]["n_layer"] == 4
    assert "--pairs 8" in result["about"]["command"] and str(out) not in json.dumps(result)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(out, tmp_path, monkeypatch):
    whole, done = frontier.dpo, []

    def unplugged(name, *arguments):
        if name == "ppo":
            raise KeyboardInterrupt
        whole(name, *arguments)
        done.append(name)

    monkeypatch.setattr(frontier, "dpo", unplugged)
    assert run(tmp_path) == 130
    assert not (tmp_path / "frontier.json").exists()
    before = len(done)
    monkeypatch.setattr(
        frontier, "dpo", lambda *command: done.append(command[0]) or whole(*command)
    )
    assert run(tmp_path) == 0
    assert done[before:] == ["ppo", "ppo"]  # nothing that was finished is trained again
    parts = [results.read(path / "frontier.json")["seeds"][0] for path in (out, tmp_path)]
    assert outcome(parts[0]) == outcome(parts[1])


def test_a_folder_belongs_to_one_plan(out, capsys):
    assert run(out, "--lr", "0.5") == 2
    assert "lr 0.0001 -> 0.5" in capsys.readouterr().err


def test_a_finished_run_is_not_trained_again(out, monkeypatch):
    monkeypatch.setattr(frontier, "dpo", lambda *command: pytest.fail(f"trained {command}"))
    assert run(out) == 0


def test_a_wrong_flag_is_one_line(capsys):
    assert frontier.main(["--outt", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


IMPORTED = """
import sys
from dpo_lib.results.frontier import main
code = main(sys.argv[1:])
print(code, {"torch", "transformers", "datasets", "matplotlib", "numpy"} & set(sys.modules))
"""


@pytest.mark.parametrize(("line", "code"), [("--help", 0), ("", 2), ("--out x --lr fast", 2)])
def test_help_and_refusals_import_neither_torch_nor_transformers(line, code):
    command = [sys.executable, "-c", IMPORTED, *line.split()]
    assert subprocess.check_output(command, text=True).endswith(f"{code} set()\n")


@pytest.mark.parametrize("damage", ["digit", "half", "empty", "no hash"])
def test_a_damaged_result_is_refused_in_one_line(out, tmp_path, damage):
    text, path = (out / "frontier.json").read_text(), tmp_path / "result.json"
    changed = {
        "digit": re.sub(r'("first_loss": )\d', r"\g<1>9", text, count=1),
        "half": text[: len(text) // 2],
        "empty": "",
        "no hash": text.replace('"sha256"', '"sha"'),
    }[damage]
    assert changed != text
    path.write_text(changed)
    with pytest.raises(results.ResultError, match=r"^.*result\.json: [^\n]*$"):
        results.read(path)
    path.write_text(text)
    assert results.read(path)["seeds"]


def test_the_stored_result_is_whole_and_says_how_it_was_made():
    result = results.read()
    told, plan = result["about"], result["about"]["plan"]
    assert told["command"] == "python -m dpo_lib.results.frontier --out OUT"
    assert re.fullmatch(r"[0-9a-f]{40}", told["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", told["date"])
    assert {"cpu", "gpu", "torch", "python", "threads"} <= set(told["machine"])
    assert {key: plan[key] for key in ("model", "betas", "steps")} == {
        key: getattr(results.Plan(out=""), key) for key in ("model", "betas", "steps")
    }
    for part in result["seeds"]:
        rows = {(row["name"], row["temperature"]) for row in part["policies"]}
        assert {("PPO-GT", 1.0), ("DPO 0.05", 1.0), ("DPO 0.3", 0.25)} <= rows
        assert {row["n"] for row in part["best_of"]} == {1, 2, 4, 8, 16}
        for row in part["policies"]:
            for name in ("reward", "learned", "kl", "length", "ended", "beats_chosen"):
                low, high = row[name]["interval"]
                assert low <= row[name]["mean"] <= high and row[name]["prompts"] == 100


def test_the_stored_grid_is_whole_and_comes_with_held_out_curves_and_texts():
    path = results.stored.STORED / "frontier_grid.json"
    assert path.stat().st_size < 150_000
    result = results.read(path)
    told = result["about"]
    plan = results.Plan(**told["plan"], out="OUT")
    assert told["command"].split(" ", 3)[3] == " ".join(about.flags(plan))
    assert re.fullmatch(r"[0-9a-f]{40}", told["commit"]) and told["peak_flops"] > 1e9
    for part in result["seeds"]:
        rows = {row["name"]: row for row in part["policies"]}
        assert set(plan.dpo_runs()) < set(rows) and {"SFT", "PPO"} < set(rows)
        for name in plan.dpo_runs():
            held = part["stages"][name]["held_out"]
            assert held["step"][0] == 0 and abs(held["eval_loss"][0] - math.log(2)) < 1e-6
            assert held["step"][-1] <= plan.steps
            assert len(rows[name]["texts"]) == 10


def test_learning_rates_make_a_grid_that_is_watched_on_held_out_pairs(tmp_path):
    plan = results.Plan(out="", betas="0.1 1", lrs="1e-4 1e-3", lora=4, methods="PPO")
    found = stages(plan, 0, tmp_path)
    grid = [f"DPO {beta} at {lr}" for beta in ("0.1", "1") for lr in ("0.0001", "0.001")]
    assert list(found) == ["SFT", "reward", *grid, "LoRA 0.3", "PPO"]
    command = found["DPO 1 at 0.001"]
    told = [command[command.index(flag) + 1] for flag in ("--beta", "--lr", "--eval-data")]
    assert told == [1.0, 0.001, tmp_path / "world/watched.jsonl"]
    lora = found["LoRA 0.3"]
    assert lora[lora.index("--lora") + 1] == 4 and lora[lora.index("--lr") + 1] == 1e-3
    alone = stages(results.Plan(out=""), 0, tmp_path)  # control: no grid, nothing is watched
    assert "DPO 0.05" in alone and "--eval-data" not in alone["DPO 0.05"]


def test_the_roof_lies_above_every_tilted_policy():
    rewards = torch.tensor([0.0, 0.0, 1.0, 3.0]).double()
    roof = judging.roof_of(rewards)
    beta, log_z = (torch.tensor(roof[key]).double() for key in ("beta", "log_z"))
    for b in (0.5, 2.0):  # (4) on four equally likely answers
        policy = (rewards / b).softmax(-1)
        kl = (policy * (policy * 4).log()).sum()
        highest = (beta * (kl + log_z)).min()
        assert -1e-9 < highest - policy @ rewards < 0.02
        assert (beta * (kl / 2 + log_z)).min() < policy @ rewards  # control: at half the KL


def test_the_speed_of_a_matrix_product_is_that_of_a_computer():
    assert 1e8 < about.peak(256, 3) < 1e16


def test_a_curve_is_thinned_but_keeps_its_ends_and_a_pause_is_not_work(tmp_path):
    (tmp_path / "seed/stage").mkdir(parents=True)
    rows = [{"step": k, "loss": 1 / k, "num_tokens": 10 * k} for k in range(1, 201)]
    timing = [{"step": k, "seconds": 0.5} for k in (*range(1, 201), 200)]  # 200 was repeated
    timing[6]["seconds"] = 900.0  # the machine slept
    for name, lines in (("metrics", rows), ("timing", timing)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"seed/stage/{name}.jsonl").write_text(text)
    found = frontier.stage_record(tmp_path / "seed/stage", ["sft", "--out", tmp_path / "seed"])
    steps = found["curves"]["step"]
    assert len(steps) == frontier.POINTS and (steps[0], steps[-1]) == (1, 200)
    assert found["curves"]["loss"][-1] == 0.005
    assert (found["seconds"], found["tokens_per_second"]) == (99.5, 20.1)
    assert found["command"] == "dpo sft --out OUT/seed"


def test_best_of_n_is_chosen_by_the_learned_reward_and_paid_in_the_true_one():
    rewards = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 4.0]]).double()
    learned = torch.tensor([[9.0, 1.0, 2.0], [0.0, 7.0, 1.0]]).double()  # takes 1.0 and 0.0
    chosen = torch.tensor([[1.0], [1.0]]).double()
    row = judging.best_row(3, 1.0, rewards, learned, chosen)
    assert row["reward"]["mean"] == 0.5 and row["learned"]["mean"] == 8.0
    assert row["reward_by_true"]["mean"] == 4.5
    assert row["beats_chosen"]["mean"] == 0.25  # a tie and a loss
    assert judging.best_row(1, 1.0, rewards, learned, chosen)["reward"]["mean"] == 2.5


def test_a_share_of_pairs_has_the_z_of_a_coin():
    found = judging.proportion(torch.tensor([1.0] * 300 + [0.0] * 200))
    assert found["mean"] == 0.6
    assert abs(found["z"] - 0.1 / math.sqrt(0.25 / 500)) < 1e-12  # by hand: 4.47
