"""Online DPO's log as the doctor, the plot and the report read it: fresh pairs, no epochs."""

import copy
import json

import pytest
import torch
from small_world import small_run, small_world

from dpo_lib.language_model.judging import plot, read_log, write_page
from dpo_lib.language_model.judging.doctor import diagnose
from dpo_lib.language_model.judging.training_log import Log
from dpo_lib.language_model.models.judges import Judge
from dpo_lib.language_model.models.policies import frozen_copy
from dpo_lib.language_model.settings import OnlineDPOSettings
from dpo_lib.language_model.stages import OnlineDPO
from dpo_lib.language_model.zoo import make_start, record

torch.set_num_threads(1)
STEPS = 42  # the rule that waits longest waits for 40


def likes(start, seed):
    """A judge that is learnt in a few steps and hardly ever ties: each token is worth a draw."""
    worth = torch.randn(len(start.tokenizer), generator=torch.Generator().manual_seed(seed))
    return lambda sequences: torch.stack([worth[list(y)].mean() for _, y in sequences])


@pytest.fixture(scope="module", params=[0, 1, 2])
def start(request):
    return request.param, make_start(request.param, pairs=48, sft_steps=30, n_embd=16)


def healthy(start, **changes):
    seed, begun = start
    told = dict(model="", data="", out="", reward="-", beta=0.3, steps=STEPS, batch_size=12)
    told |= dict(optimizer="adamw", warmup_steps=5, max_new_tokens=6, max_length=56, seed=seed)
    policy, prompts = copy.deepcopy(begun.sft), [pair.prompt for pair in begun.pairs]
    judge = Judge(likes(begun, seed), "a draw for each token")
    models = (policy, frozen_copy(policy), begun.tokenizer)
    settings = OnlineDPOSettings(**told | dict(lr=3e-3) | changes)
    return record(OnlineDPO(settings, *models, prompts, judge))


@pytest.mark.parametrize("reference, steps", [("fixed", 1), ("moving", 1), ("moving", 3)])
def test_the_doctor_finds_nothing_in_a_healthy_run(start, reference, steps):
    log = healthy(start, reference=reference, refresh_every=steps)
    scores = log.values("objective/scores")
    assert sum(scores[-10:]) > sum(scores[:10])  # it has learned something
    for read in (log, Log(log.rows)):  # with its settings and without
        assert [str(finding) for finding in diagnose(read) if not finding.note] == []


def test_without_the_judges_column_the_rules_for_fixed_data_would_speak(start):
    """The control: what the column `objective/scores` keeps silent."""
    log = healthy(start, reference="moving")
    rows = [{k: v for k, v in row.items() if k != "objective/scores"} for row in log.rows]
    found = {finding.rule for finding in diagnose(Log(rows))}
    assert "reference is the policy" in found
    # and a fixed reference that shares the policy's weights is found by the same rows
    fixed = Log(log.rows, {"reference": "fixed", "stage": "OnlineDPO"})
    assert {finding.rule for finding in diagnose(fixed)} >= {"reference is the policy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    named = small_world(folder, pairs=8, reviews=8, prompts=12, test=8)
    told = dict(steps=4, reward="true", num_generations=4, max_new_tokens=16, refresh_every=2)
    told |= dict(eval_data=named["data"], samples=4, eval_every=2, out=str(folder / "run"))
    return small_run(OnlineDPO, OnlineDPOSettings, **told | named)[0]


def test_held_out_figures_are_read_where_there_is_no_held_out_loss(run):
    log = read_log(run)
    assert log.draws and [step for step, _ in log.held_out("objective/scores")] == [0, 2, 4]
    assert log.epochs == [] and log.fresh == []


def test_the_report_and_the_plot_have_the_run(run, tmp_path):
    page = write_page([str(run)], tmp_path / "report.html").read_text()
    words = ("OnlineDPO from", "num_generations", "share of prompts whose completions tie")
    assert all(word in page for word in words)
    assert "reward" in plot([str(run)], tmp_path / "run.svg").read_text()


def test_a_row_of_a_batch_without_pairs_is_a_step_and_no_gap(tmp_path):
    pair = {"loss": 0.69, "rewards/margins": 0.0, "logps/chosen": -9.0, "objective/scores": 1.0}
    tied = {"pairs": 0, "objective/scores": 1.0}
    rows = [{"step": n} | (tied if n == 5 else pair) for n in range(1, 12)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_log(file).rows) == 11
    assert "steps are broken" not in {finding.rule for finding in diagnose(read_log(file))}
