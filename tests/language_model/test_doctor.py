"""Each rule of the doctor fires on a log with its bug and is silent on a healthy one."""

import json
import math

import pytest

from dpo_lib.language_model import doctor
from dpo_lib.language_model.doctor import Log, diagnose, read_log

LN2 = math.log(2)


def healthy(steps=40):
    """A DPO run as it should look: loss from ln 2 down, accuracy from the tie value 1/2 up."""
    rows = []
    for step in range(1, steps + 1):
        margin = 0.05 * (step - 1)
        rows.append(
            {
                "step": step,
                "loss": math.log1p(math.exp(-margin)),
                "learning_rate": 1e-6 * min(1, step / 10),
                "grad_norm": 2.0 + 0.1 * (step % 3),
                "rewards/chosen": 0.4 * margin,
                "rewards/rejected": -0.6 * margin,
                "rewards/margins": margin,
                "rewards/accuracies": 0.5 + min(0.3, margin / 4),
                "logps/chosen": -40 + 4 * margin,
                "logps/rejected": -42 - 6 * margin,
            }
        )
    return rows


def changed(change, steps=40):
    rows = healthy(steps)
    for row in rows:
        row |= change(row)
    return Log(rows)


def rules(log):
    return [finding.rule for finding in diagnose(log)]


def ppo(kl, ratio=1.0, steps=40):
    """Rows of PPO; kl(step) is in nats."""
    return Log(
        [
            {"step": step, "loss": 0.1, "objective/kl": kl(step), "ratio/first": ratio}
            for step in range(1, steps + 1)
        ]
    )


def test_a_healthy_run_has_no_findings():
    assert diagnose(Log(healthy())) == []
    assert diagnose(ppo(lambda step: 0.1 * step)) == []


def test_H1_a_loss_that_is_not_finite_is_named_with_its_step():
    log = changed(lambda row: {"loss": math.nan} if row["step"] >= 7 else {})
    assert rules(log)[0] == "not finite"
    assert "at step 7 (34 such values)" in diagnose(log)[0].sentence
    log = changed(lambda row: {"grad_norm": math.inf} if row["step"] == 9 else {})
    assert "grad_norm is not finite at step 9" in diagnose(log)[0].sentence


def test_C1_E3_a_loss_stuck_at_ln_2_with_margin_0_is_named():
    still = {"loss": LN2, "rewards/margins": 0.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0}
    assert rules(changed(lambda row: still, 30)) == ["nothing moves"]
    # A margin that moves at all is a slow run, not a broken one.
    assert rules(changed(lambda row: still | {"rewards/margins": 1e-9}, 30)) == []


def test_a_run_that_ends_where_it_began_is_named():
    rows = [{"step": n, "loss": LN2 - 1e-5 * n, "accuracy": 0.5} for n in range(1, 61)]
    assert rules(Log(rows)) == ["nothing is learned"]
    assert rules(Log(rows[:30])) == []  # too early to say


def test_a_learning_rate_of_zero_is_named_unless_it_is_the_warmup():
    assert rules(changed(lambda row: {"learning_rate": 0.0})) == ["learning rate is zero"]
    assert rules(changed(lambda row: {"learning_rate": 1e-6 * (row["step"] - 1)})) == []


def test_D7_swapped_metrics_are_named():
    swap = changed(lambda row: {"rewards/accuracies": 1 - row["rewards/accuracies"]})
    assert rules(swap) == ["loss falls while accuracy falls"]


def test_E4_rewards_before_the_first_update_must_be_0():
    log = changed(lambda row: {"rewards/chosen": 0.3, "rewards/rejected": 0.3})
    assert rules(log) == ["rewards are not zero at the start"]
    assert "chosen 0.3000, rejected 0.3000" in diagnose(log)[0].sentence


def test_E4_a_reference_of_ones_own_is_no_bug():
    rows = changed(lambda row: {"rewards/chosen": 0.3, "rewards/rejected": 0.3}).rows
    assert rules(Log(rows, {"model": "a", "reference": "b"})) == []
    assert rules(Log(rows, {"model": "a", "reference": "a"})) != []


def test_E1_D1_a_first_loss_that_is_not_ln_2_is_named_for_losses_that_start_there():
    log = changed(lambda row: {"loss": row["loss"] + 0.2})
    assert rules(log) == ["first loss is not ln2"]
    assert "0.8931, not ln 2 = 0.6931" in diagnose(log)[0].sentence
    assert rules(Log(log.rows, {"loss": "ipo"})) == []


def test_a_log_that_starts_late_says_nothing_about_the_start():
    rows = changed(lambda row: {"loss": 0.5, "rewards/chosen": 0.5}).rows[9:]
    assert rules(Log(rows)) == []


def test_L3_perfect_accuracy_within_few_steps_is_named():
    def leak(row):
        return {"loss": 0.01, "rewards/accuracies": 1.0} if row["step"] > 12 else {}

    log = changed(leak)
    assert rules(log) == ["too good too soon"]
    assert "from step 13 on" in diagnose(log)[0].sentence


def test_an_exploding_gradient_is_named():
    log = changed(lambda row: {"grad_norm": 500.0} if row["step"] == 30 else {})
    assert rules(log) == ["gradients explode"]
    assert "500 at step 30" in diagnose(log)[0].sentence


def test_J2_a_kl_below_zero_is_named_only_beyond_its_noise():
    assert rules(ppo(lambda step: -0.2 + 0.01 * (step % 3))) == ["kl is negative"]
    assert rules(ppo(lambda step: 0.5 * (-1) ** step - 0.01)) == []  # single rows may be negative


def test_J3_a_ratio_of_the_first_epoch_that_is_not_1_is_named():
    assert rules(ppo(lambda step: 0.1, ratio=1.02)) == ["ratio is not one"]
    assert rules(ppo(lambda step: 0.1, ratio=1 + 1e-6)) == []


def test_K1_repeated_and_skipped_steps_are_named():
    rows = healthy()
    repeated = diagnose(Log(rows[:20] + rows[15:]))
    assert [finding.rule for finding in repeated] == ["steps are broken"]
    assert "step 16 comes after step 20" in repeated[0].sentence
    assert "between step 20 and step 26" in diagnose(Log(rows[:20] + rows[25:]))[0].sentence
    # Logging every tenth step, and a shorter stretch at the end, are no gaps.
    every = [row for row in healthy(45) if row["step"] % 10 == 0 or row["step"] == 45]
    assert "steps are broken" not in rules(Log(every))


def test_both_answers_becoming_less_likely_is_a_note():
    log = changed(lambda row: {f"rewards/{n}": row[f"rewards/{n}"] - row["rewards/margins"]
                               for n in ("chosen", "rejected")})  # fmt: skip
    assert [(finding.rule, finding.note) for finding in diagnose(log)] == [("both fall", True)]
    assert str(diagnose(log)[0]).startswith("note: both fall: rewards end at -1.0")


def test_the_most_suspicious_comes_first():
    log = changed(lambda row: {"loss": math.nan, "learning_rate": 0.0, "grad_norm": 1.0})
    assert rules(log)[:2] == ["not finite", "learning rate is zero"]


def test_every_rule_has_a_test_that_it_fires(request):
    text = request.path.read_text()
    assert [
        r.__name__ for r in doctor.RULES if f'"{r.__name__.replace("_", " ")}"' not in text
    ] == []


def test_our_log_and_trl_logs_read_the_same(tmp_path):
    rows = healthy()
    ours, state, bare = (
        tmp_path / name for name in ("metrics.jsonl", "trainer_state.json", "l.json")
    )
    ours.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"step": 40, "train_runtime": 1.0, "train_loss": 0.5}  # TRL's last row: no loss
    evaluation = {"step": 40, "eval_loss": 0.6}
    state.write_text(json.dumps({"global_step": 40, "log_history": [*rows, evaluation, summary]}))
    bare.write_text(json.dumps(rows))
    assert read_log(ours).rows == read_log(state).rows == read_log(bare).rows == rows


def test_a_run_folder_is_read_with_its_settings(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(healthy()[0]) + "\n")
    (tmp_path / "settings.json").write_text('{"loss": "ipo"}')
    assert read_log(tmp_path) == Log(healthy(1), {"loss": "ipo"})


def test_half_a_line_at_the_end_of_a_killed_run_is_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in healthy(5)) + '{"step": 6, "lo')
    assert read_log(file).rows == healthy(5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"[1, 2]",
        b"{}",
        b"null",
        b'{"a": 1}\n{"b"\n',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
    ids=["empty", "text", "numbers", "object", "null", "broken", "binary", "deep"],
)
def test_a_file_that_is_no_log_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a training log") as refused:
        read_log(file)
    assert str(refused.value).startswith(str(file)) and "\n" not in str(refused.value)
