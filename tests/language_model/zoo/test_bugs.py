"""The bug zoo: its healthy run is the library's, and each bug is the one its name says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpo_lib.language_model import zoo
from dpo_lib.language_model.judging import doctor
from dpo_lib.language_model.judging.doctor import diagnose
from dpo_lib.language_model.models.policies import frozen_copy
from dpo_lib.language_model.scoring.logprobs import pair_logps
from dpo_lib.language_model.stages.dpo import DPO
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.zoo import HEALTHY, INVISIBLE, VISIBLE, Healthy, make_start, record
from dpo_lib.variants import LOSSES

torch.set_num_threads(1)
SHORT = dict(steps=6, batch_size=16)  # of 40 pairs: two epochs, the last batch of each shorter


@pytest.fixture(scope="module")
def start():
    return make_start(7, pairs=40, sft_steps=10, n_layer=1, n_embd=16)


def test_the_healthy_run_is_the_one_that_the_trainer_logs(start, tmp_path):
    stage = Healthy.of(start, **SHORT, eval_data="held out", eval_every=4)
    settings = replace(stage.settings, out=str(tmp_path / "run"))
    policy = stage.policy
    real = DPO(settings, frozen_copy(policy).requires_grad_(True).train(), frozen_copy(policy),
               start.tokenizer, start.pairs, start.held_out)  # fmt: skip
    log = record(stage)
    train(real)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    rows = sorted([*log.rows, *log.measured], key=lambda row: row["step"])
    assert rows == list(lines)  # to the last bit: it is the same code
    assert [row["step"] for row in log.measured] == [0, 4, 6]


def test_the_same_seed_gives_the_same_log(start):
    once, again = (record(Healthy.of(start, **SHORT)).rows for _ in range(2))
    assert once == again
    assert record(Healthy.of(start, **SHORT, seed=1)).rows != once


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_run_of_kto_draws_no_suspect(start, seed):
    log = record(zoo.HealthyKTO.of(start, steps=25, batch_size=16, seed=seed))
    assert log.loss_name == "kto" and log.rows[0]["loss"] == 0.5
    assert [finding for finding in diagnose(log) if not finding.note] == []


def test_a_run_of_kto_with_another_reference_is_named(start):
    stage = zoo.HealthyKTO.of(start, steps=6, batch_size=16)
    stage.reference = frozen_copy(start.untrained)
    first = diagnose(record(stage))[0]
    assert first.rule == "reference is another model"


def test_every_bug_is_counted_once_and_says_what_someone_did():
    assert set(Healthy.__subclasses__()) == {*VISIBLE, *INVISIBLE, zoo.RoundedReference}
    assert not set(VISIBLE) & set(INVISIBLE) and len(VISIBLE) >= 12
    for bug in (*VISIBLE, *INVISIBLE):
        assert bug.__doc__.endswith(".") and "\n" not in bug.__doc__


@pytest.mark.parametrize("bug", [*VISIBLE, *INVISIBLE])
def test_every_bug_can_be_trained(start, bug):
    """A chapter trains them all; a name that is gone from a stage shows here first."""
    assert record(bug.of(start, steps=2)).rows


def test_every_rule_that_a_bug_is_mapped_to_exists():
    assert {rule.replace(" ", "_") for rule in VISIBLE.values()} <= {
        rule.__name__ for rule in doctor.RULES
    }


def stored_verdicts():
    stored = json.loads((Path(zoo.__file__).parents[2] / "results/bug_zoo.json").read_text())
    return stored["seeds"].values()


def test_the_stored_verdicts_are_of_these_bugs_and_healthy_runs():
    for seed in stored_verdicts():
        assert list(seed["bugs"]) == [bug.__name__ for bug in (*VISIBLE, *INVISIBLE)]
        for group in ("healthy", "three epochs"):
            assert [run["settings"] for run in seed[group]] == HEALTHY


def test_on_the_stored_seeds_all_bugs_that_a_log_can_show_but_one_are_named_and_nothing_else():
    missed = []
    for seed in stored_verdicts():
        for bug, rule in VISIBLE.items():
            found = seed["bugs"][bug.__name__]
            suspects = [found["first"], *found["others"]]
            missed += [bug.__name__] * (suspects != [rule])
            assert suspects in ([rule], ["nothing found"])
    assert missed == ["RandomLabels"]  # of labels by chance, some look by chance like others


RUNS = {name: dict(loss=name) for name in LOSSES} | {
    "an SFT term": dict(rpo_alpha=1.0),
    "a small SFT term": dict(loss="ipo", beta=1.0, rpo_alpha=0.1),
    "forward KL": dict(f_divergence_type="forward_kl"),
    "Jensen-Shannon": dict(f_divergence_type="js_divergence"),
    "alpha 1/2": dict(f_divergence_type="alpha_divergence"),
    "alpha 2, hinge": dict(
        loss="hinge", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=2.0
    ),
}
RUNS["unlikelihood"] |= dict(alpha=0.5)
RUNS["rdpo"] |= dict(rdpo_alpha=0.02)
for name in ("ipo", "sppo_hard"):
    RUNS[name] |= dict(beta=1.0)
for name in ("sigmoid_norm", "simpo"):
    RUNS[name] |= dict(beta=2.5)
for name in ("cdpo", "robust", "exo_pair"):
    RUNS[name] |= dict(label_smoothing=0.1)


@pytest.fixture(scope="module")
def enough():
    """As many pairs as a run of one epoch needs: of few, met again and again, much is learned by
    heart, and the doctor says so."""
    return make_start(7, pairs=25 * 16, sft_steps=60, n_layer=1, n_embd=16)


@pytest.mark.parametrize("told", RUNS.values(), ids=RUNS)
def test_a_healthy_run_of_every_loss_draws_no_suspect(enough, told):
    log = record(Healthy.of(enough, **told, steps=25, batch_size=16))
    assert [str(finding) for finding in diagnose(log) if not finding.note] == []
    assert len(log.complete) == 25


# What is certain of a bug's log whatever the seed: the doctor's word after a few steps.
@pytest.mark.parametrize(
    "bug",
    [
        zoo.UntrainedReference,
        zoo.AdapterSwitchedOff,
        zoo.SharedWeights,
        zoo.AdapterLeftOn,
        zoo.SummedMicroBatches,
        zoo.ZeroLearningRate,
        zoo.OtherParameters,
        zoo.EmptyAnswer,
    ],
    ids=lambda bug: bug.__name__,
)
def test_a_bug_that_breaks_an_identity_is_named_at_once(start, bug):
    findings = diagnose(record(bug.of(start, **SHORT)))
    assert [finding.rule for finding in findings if not finding.note] == [VISIBLE[bug]]


@pytest.mark.parametrize(
    "bug, cause",
    [
        (zoo.AdapterLeftOn, "with LoRA the adapter is left on in it"),
        (zoo.AdapterSwitchedOff, "an adapter that was part of the start may be switched off"),
    ],
)
def test_the_doctor_names_what_lora_does_to_a_reference(start, bug, cause):
    stage = bug.of(start, **SHORT)
    trained = [name for name, p in stage.policy.named_parameters() if p.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    log = record(stage)
    assert (log.start("rewards/chosen") == 0) is (bug is zoo.AdapterLeftOn)
    assert cause in diagnose(log)[0].sentence


@pytest.mark.parametrize("size", [2, 16])
def test_a_reference_in_16_bits_draws_no_suspect_but_the_note_on_rounding(start, size):
    log = record(zoo.RoundedReference.of(start, steps=30, batch_size=size))
    assert log.start("rewards/chosen") != 0 != log.start("rewards/rejected")
    findings = diagnose(log)
    assert [finding.rule for finding in findings if not finding.note] == []
    assert findings[0].rule == "rounding at the start"


def test_swapped_loss_and_swapped_metrics_differ_in_what_is_learned_only(start):
    """Both log a margin of the other sign than the loss sees."""
    logs = [record(bug.of(start, **SHORT)).rows for bug in (zoo.SwappedLoss, zoo.SwappedMetrics)]
    for rows in logs:
        assert rows[-1]["rewards/margins"] < 0 and rows[-1]["loss"] < rows[0]["loss"]
    stages = [bug.of(start, **SHORT) for bug in (zoo.SwappedLoss, zoo.SwappedMetrics)]
    for stage in stages:
        record(stage)
    chosen_gain = [
        (pair_logps(stage.policy, stage.pairs) - stage.ref_logps).diff(dim=-1).mean()
        for stage in stages
    ]
    assert chosen_gain[0] > 0 > chosen_gain[1]  # rejected minus chosen


def test_prompt_tokens_cancel_from_loss_and_margin(start):
    """A1: both answers follow one prompt, so its log-probability cancels in equation (7)."""
    with_prompt = record(zoo.PromptCounted.of(start, **SHORT)).rows
    without = record(Healthy.of(start, **SHORT)).rows
    for a, b in zip(with_prompt, without, strict=True):
        for name in ("loss", "rewards/margins", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-2, abs=1e-3)
    assert with_prompt[0]["logps/chosen"] < without[0]["logps/chosen"] - 1


def test_the_reference_that_is_trained_too_moves_against_the_policy(start):
    stage = zoo.TrainedReference.of(start, **SHORT)
    reference = stage.modules["reference"]
    before = frozen_copy(reference)
    record(stage)
    change = (pair_logps(reference, stage.pairs) - pair_logps(before, stage.pairs)).mean(0)
    assert change[0] < change[1]  # chosen is made less likely under the reference


def test_averaged_log_probabilities_are_the_sums_over_the_lengths(start):
    stage, plain = zoo.MeanOverTokens.of(start), Healthy.of(start)
    lengths = torch.tensor([[len(p.chosen), len(p.rejected)] for p in start.pairs[:3]])
    (_, mean), (_, total) = (next(s.logps(s.policy, [0, 1, 2])) for s in (stage, plain))
    torch.testing.assert_close(mean * lengths, total)


def test_two_prompts_are_one_prompt_cut_by_the_length_of_what_follows(start):
    stage = zoo.TwoPrompts.of(start)
    longer = max(range(len(start.pairs)), key=lambda k: start.pairs[k].tokens)
    pair = start.pairs[longer]
    stage.longest = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) - 1
    ((_, found),) = stage.logps(stage.policy, [longer])
    cut = replace(pair, prompt=pair.prompt[1:])
    (whole,), (shorter,) = (pair_logps(stage.policy, [p]) for p in (pair, cut))
    side = int(len(pair.chosen) < len(pair.rejected))  # the longer one
    torch.testing.assert_close(found[0, side], shorter[side])
    if len(pair.chosen) != len(pair.rejected):
        torch.testing.assert_close(found[0, 1 - side], whole[1 - side])
    assert not torch.allclose(whole[side], shorter[side])


def test_held_out_pairs_are_none_that_were_trained_on(start):
    assert len(start.held_out) > 100 and not set(start.held_out) & set(start.pairs)


def test_data_bugs_change_the_columns_they_name(start):
    pairs = {bug: bug.of(start).pairs for bug in (Healthy, *INVISIBLE, zoo.Leak, zoo.CutChosen)}
    end = start.tokenizer.eos_token_id
    for k, p in enumerate(pairs[Healthy]):
        assert pairs[zoo.SwappedLabels][k].chosen == p.rejected
        longer = pairs[zoo.LongerIsChosen][k]
        assert len(longer.chosen) >= len(longer.rejected)
        assert pairs[zoo.NoEnd][k].chosen == p.chosen[:-1] and end not in p.chosen[:-1]
        assert pairs[zoo.TwoEnds][k].rejected == (*p.rejected, end)
        assert pairs[zoo.TwoStarts][k].prompt == (end, end, *p.prompt)  # GPT-2 has one for both
        assert len(pairs[zoo.Leak][k].chosen) > len(p.chosen)
        assert pairs[zoo.Leak][k].rejected == p.rejected
        cut = pairs[zoo.CutChosen][k]
        assert (cut.chosen, cut.rejected) == (p.chosen[:16], p.rejected)
    inside = [replace(p, prompt=p.prompt[2:-2]) for p in pairs[zoo.OtherTemplate]]
    assert inside and set(inside) <= set(pairs[Healthy])
