"""Each rule of the doctor fires on a log with its bug and is silent on a healthy one."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from dpo_lib.__main__ import main
from dpo_lib.language_model.judging import doctor
from dpo_lib.language_model.judging.doctor import diagnose, lines, remedies
from dpo_lib.language_model.judging.training_log import Log, read_log

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


def changed(change, steps=40, rows=healthy, **settings):
    rows = rows(steps)
    for row in rows:
        row |= change(row)
    return Log(rows, settings)


def healthy_kto(steps=40):
    """A KTO run: the loss from 1/2 down, a reference point, and no pair to be right about."""
    rows = healthy(steps)
    for row in rows:
        del row["rewards/accuracies"]
        row |= {"loss": 1 / (1 + math.exp(row["rewards/margins"] / 2)), "kl": row["step"] % 3 / 2}
        row |= {"kl": 0.0} if row["step"] == 1 else {}
    return rows


def rules(log):
    return [finding.rule for finding in diagnose(log) if not finding.note]


def notes(log):
    return [finding.rule for finding in diagnose(log) if finding.note]


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


def test_a_healthy_run_of_kto_has_no_findings_whatever_its_weights():
    for weights in ({}, {"desirable_weight": 1.0, "undesirable_weight": 1.0}):
        log = Log(healthy_kto(), weights)
        assert log.loss_name == "kto" and log.loss_at(0.0, 0.0) == 0.5 and diagnose(log) == []
    twice = changed(lambda row: {"loss": 2 * row["loss"]}, 40, healthy_kto,
                    desirable_weight=2.0, undesirable_weight=2.0)  # fmt: skip
    assert diagnose(twice) == []
    other = changed(lambda row: {"loss": 0.7 * row["loss"]}, 40, healthy_kto, desirable_weight=1.5)
    assert diagnose(other) == []  # what its first loss must be depends on a share not logged
    for hostile in ("x", None, [1]):
        assert diagnose(Log(healthy_kto(), {"desirable_weight": hostile})) == []


def test_a_batch_without_a_desirable_answer_is_no_finding():
    rows = healthy_kto()
    for row in rows[::3]:
        for name in ("rewards/chosen", "logps/chosen", "rewards/margins"):
            del row[name]
    assert Log(rows).loss_name == "kto" and diagnose(Log(rows)) == []


def test_what_a_log_of_kto_can_show_is_named():
    summed = changed(lambda row: {"loss": 4 * row["loss"]}, 40, healthy_kto)
    assert rules(summed) == ["loss is summed"]
    scaled = changed(lambda row: {"loss": row["loss"] + 0.1}, 40, healthy_kto)
    assert "first loss is 0.6000, not 0.5000" in diagnose(scaled)[0].sentence
    other = changed(lambda row: {"rewards/chosen": 2.0, "rewards/rejected": 1.0}, 40, healthy_kto)
    assert rules(other) == ["reference is another model"]
    still = {"loss": 0.5, "rewards/margins": 0.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0}
    assert rules(changed(lambda row: still, 30, healthy_kto)) == ["reference is the policy"]
    uphill = changed(
        lambda row: {"loss": 1 - row["loss"], "rewards/margins": -row["rewards/margins"]},
        40, healthy_kto,
    )  # fmt: skip
    assert rules(uphill) == ["training goes uphill"]


def test_H1_a_loss_that_is_not_finite_is_named_with_its_step():
    log = changed(lambda row: {"loss": math.nan} if row["step"] >= 7 else {})
    assert rules(log)[0] == "not finite"
    assert "at step 7 (34 such values)" in diagnose(log)[0].sentence
    log = changed(lambda row: {"grad_norm": math.inf} if row["step"] == 9 else {})
    assert "grad_norm is not finite at step 9" in diagnose(log)[0].sentence


def test_H1_a_run_whose_margins_are_all_nan_is_named_although_its_losses_are_finite():
    # transformers logs the loss 0.0 where it was NaN (logging_nan_inf_filter), the rest as it is.
    nan = {name: math.nan for name in healthy(1)[0] if "/" in name or name == "grad_norm"}
    log = changed(lambda row: nan | {"loss": 0.0})
    assert rules(log)[0] == "not finite"
    assert "grad_norm is not finite at step 1 (40 such values)" in diagnose(log)[0].sentence


def test_C1_E3_a_loss_stuck_at_ln_2_with_margin_0_is_named():
    still = {"loss": LN2, "rewards/margins": 0.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0}
    frozen = still | {"grad_norm": 0.0}
    assert rules(changed(lambda row: frozen, 30)) == ["nothing moves"]
    # With a gradient the weights do move, and the reference with them.
    assert rules(changed(lambda row: still, 30)) == ["reference is the policy"]
    # Two scores of one pair in two batches may differ in their last bit.
    bit = changed(lambda row: frozen | {"rewards/margins": -7e-8 * (row["step"] % 8 == 4)}, 30)
    assert rules(bit) == ["nothing moves"]
    # A margin that moves at all is a slow run, not a broken one.
    assert rules(changed(lambda row: still | {"rewards/margins": 1e-9}, 30)) == []


def test_a_run_that_ends_where_it_began_is_named():
    rows = [{"step": n, "loss": LN2 - 1e-5 * n, "accuracy": 0.5} for n in range(1, 61)]
    assert rules(Log(rows)) == ["nothing is learned"]
    lucky = [row | {"loss": LN2 + 0.1 * (-1) ** row["step"] * (row["step"] > 1)} for row in rows]
    assert rules(Log(lucky)) == []  # batches of two: their mean is ln 2 by luck
    assert rules(Log(rows[:30])) == []  # too early to say


def test_a_learning_rate_of_zero_is_named_unless_it_is_the_warmup():
    assert rules(changed(lambda row: {"learning_rate": 0.0})) == ["learning rate is zero"]
    assert rules(changed(lambda row: {"learning_rate": 1e-6 * (row["step"] - 1)})) == []


def test_D7_swapped_metrics_are_named():
    swap = changed(lambda row: {"rewards/accuracies": 1 - row["rewards/accuracies"]})
    assert rules(swap) == ["loss falls while accuracy falls"]


def test_D7_a_loss_below_that_of_the_mean_margin_is_impossible_for_a_convex_loss():
    def swap(row):
        other = {"rewards/chosen": "rewards/rejected", "rewards/rejected": "rewards/chosen"}
        swapped = {name: row[other[name]] for name in other}
        return swapped | {"rewards/margins": -row["rewards/margins"]}

    log = changed(swap)
    assert rules(log)[0] == "chosen and rejected are swapped"
    # At step 40 the margin is -1.95 and the loss ln(1 + exp(-1.95)) = 0.133; ln(1 + exp(1.95))
    # = 2.083 is the least that the margin allows.
    assert "at step 40 0.133 at a margin of -1.950" in diagnose(log)[0].sentence
    # A loss that is not convex has no such bound.
    assert "chosen and rejected are swapped" not in rules(Log(log.rows, {"loss": "apo_zero"}))


def test_E4_rewards_before_the_first_update_must_be_0():
    log = changed(lambda row: {"rewards/chosen": 0.3, "rewards/rejected": 0.3})
    assert rules(log) == ["reference is another model"]
    assert "chosen 0.3000, rejected 0.3000" in diagnose(log)[0].sentence


def test_E1_two_negative_rewards_before_the_first_update_are_dropouts():
    log = changed(lambda row: {"rewards/chosen": -0.3, "rewards/rejected": -0.2})
    assert rules(log)[0] == "policy is scored with noise"


def test_D9_rewards_that_change_sign_at_the_start_belong_to_other_pairs():
    signs = changed(lambda row: {"rewards/chosen": (-1.0) ** row["step"],
                                 "rewards/rejected": -((-1.0) ** row["step"])})  # fmt: skip
    assert rules(signs) == ["reference scores belong to other pairs"]
    # By chance one of the first two may be as small as rounding.
    small = [signs.rows[0] | {"rewards/chosen": 0.01}, *signs.rows[1:]]
    assert rules(Log(small)) == ["reference scores belong to other pairs"]


def test_G1_a_first_loss_of_four_times_ln_2_is_a_sum_of_four():
    log = changed(lambda row: {"loss": 4 * row["loss"]})
    assert rules(log)[0] == "loss is summed"
    assert "2.7726 = 4 × 0.6931" in diagnose(log)[0].sentence
    # An untrained model of 1,024 words has the SFT loss ln 1,024 = 10 ln 2, and that is no sum.
    assert rules(Log([{"step": 1, "loss": math.log(1024)}])) == []


def noisy(kappa=1.0, steps=60, pairs=32, seed=0):
    """Rows whose losses are -log sigmoid(kappa z), z normal with a mean that grows."""
    rng, rows = random.Random(seed), healthy(steps)
    for row in rows:
        z = [rng.gauss(0.03 * (row["step"] - 1), 0.8 * (row["step"] > 1)) for _ in range(pairs)]
        row["loss"] = sum(math.log1p(math.exp(-kappa * x)) for x in z) / pairs
        row["rewards/margins"] = sum(z) / pairs
        row["rewards/chosen"] = 0.4 * row["rewards/margins"]
        row["rewards/rejected"] = -0.6 * row["rewards/margins"]
    return rows


@pytest.mark.parametrize("settings", [{}, {"beta": 0.1}])
def test_D1_D2_a_loss_that_follows_another_multiple_of_the_margin_is_named(settings):
    assert rules(Log(noisy(1.0), settings)) == []
    for kappa in (0.1, 0.3):
        assert rules(Log(noisy(kappa), settings)) == ["loss follows a smaller margin"]
    assert rules(Log(noisy(10.0), settings)) == ["loss follows a larger margin"]


@pytest.mark.parametrize("loss", [0.0, -800.0])
def test_D1_a_loss_that_is_never_positive_follows_no_margin(loss):
    found = rules(changed(lambda row: {"loss": loss}))
    assert "first loss is wrong" in found and "loss follows a smaller margin" not in found


def test_D4_a_margin_that_falls_while_the_loss_rises_is_named():
    def ascent(row):
        margin = -row["rewards/margins"]
        return {"loss": math.log1p(math.exp(-margin)), "rewards/margins": margin,
                "rewards/chosen": 0.4 * margin, "rewards/rejected": -0.6 * margin}  # fmt: skip

    assert rules(changed(ascent)) == ["training goes uphill"]


def test_log_probabilities_that_double_are_a_lost_language():
    log = changed(lambda row: {"logps/chosen": -40 - 5 * row["step"],
                               "logps/rejected": -42 - 5 * row["step"]})  # fmt: skip
    assert rules(log) == ["language is lost"]


def epochs(drift=0.0, last=1.0, beta=0.1):
    """Three epochs of ten rows over the same pairs; the reference's scores drift."""
    rng, rows = random.Random(1), healthy(30)
    ref = [[rng.gauss(-40, 20) for _ in range(10)] for _ in range(2)]
    for row in rows:
        epoch, place = divmod(row["step"] - 1, 10)
        if place == 0:  # another order: what one row loses another one gains
            for side in ref:
                shift = [rng.gauss(0, 5) for _ in range(10)]
                total = sum(shift[:9]) + last * shift[9]
                side[:] = [s + d - total / (9 + last) for s, d in zip(side, shift, strict=True)]
        row["epoch"] = row["step"] / 10
        for name, side in zip(("chosen", "rejected"), ref, strict=True):
            score = side[place] + drift * epoch * (1 if name == "chosen" else -1)
            row[f"logps/{name}"] = score + row[f"rewards/{name}"] / beta
    return Log(rows, {"beta": beta})


@pytest.mark.parametrize("last", [1.0, 0.3])
def test_E3_a_reference_whose_scores_change_between_epochs_is_named(last):
    assert rules(epochs(0.0, last)) == []
    assert rules(epochs(-0.5, last)) == ["reference moves"]


def test_E3_a_reference_is_watched_over_epochs_of_one_batch():
    def overfit(drift):
        rows = healthy()
        for row in rows:
            row["epoch"] = row["step"]
            row["logps/chosen"] += drift * row["step"]
        return Log(rows, {"beta": 0.1})

    assert rules(overfit(0.0)) == []
    assert rules(overfit(-0.5)) == ["reference moves"]


def test_E3_rewards_and_logps_of_another_beta_are_named():
    log = epochs()
    assert rules(Log(log.rows, {"beta": 0.2})) == ["reference moves"]


def lengths(mean):
    """Rows of 8 pairs whose answers have different lengths, at two nats a token."""
    rng, rows, total = random.Random(2), healthy(40), 0
    for row in rows:
        tokens = [rng.randint(10, 60) for _ in range(16)]
        total += sum(tokens) + 16 * 5
        row["num_tokens"] = total
        nats = [2 + rng.gauss(0, 0.1) if mean else 2 * n + rng.gauss(0, 3) for n in tokens]
        row["logps/chosen"], row["logps/rejected"] = -sum(nats[:8]) / 8, -sum(nats[8:]) / 8
    return Log(rows, {"batch_size": 8})


def test_A11_log_probabilities_that_do_not_grow_with_the_tokens_are_averages():
    assert rules(lengths(mean=False)) == []
    assert rules(lengths(mean=True)) == ["logps are averages"]


def test_random_labels_are_named_on_pairs_that_were_not_seen_before():
    def coin(row):
        luck = 0.06 * (-1) ** row["step"]
        return {"epoch": row["step"] / 20, "rewards/accuracies": 0.5 + luck,
                "loss": LN2 + 0.002 * row["step"] * (row["step"] > 1), "rewards/margins": luck / 60,
                "rewards/chosen": luck / 60, "rewards/rejected": 0.0}  # fmt: skip

    log = changed(coin)
    assert rules(log) == ["labels follow nothing"]
    luck = {"rewards/accuracies": 0.3}  # batches of two, in every other row
    few = [row | (luck if row["step"] % 2 else {"rewards/accuracies": 0.7}) for row in log.rows]
    assert rules(Log(few)) == []


def test_E4_a_reference_of_ones_own_is_no_bug():
    rows = changed(lambda row: {"rewards/chosen": 0.3, "rewards/rejected": 0.3}).rows
    assert rules(Log(rows, {"model": "a", "reference": "b"})) == []
    assert rules(Log(rows, {"model": "a", "reference": "a"})) != []


@pytest.mark.parametrize("shift", [0.4, -math.log(3)])  # the loss of the second is 2 ln 2
def test_E4_a_first_loss_under_a_reference_of_ones_own_is_no_bug(shift):
    def further_apart(row):
        margin = row["rewards/margins"] + shift
        return {"loss": math.log1p(math.exp(-margin)), "rewards/margins": margin,
                "rewards/rejected": row["rewards/rejected"] - shift}  # fmt: skip

    rows = changed(further_apart).rows
    assert rules(Log(rows, {"model": "a", "reference": "b"})) == []
    for settings in ({}, {"model": "a", "reference": None}, {"model": "a", "reference": "a"}):
        assert rules(Log(rows, settings)) == ["reference is another model"]


def test_E1_D1_a_first_loss_that_is_not_ln_2_is_named_for_losses_that_start_there():
    log = changed(lambda row: {"loss": row["loss"] + 0.2})
    assert rules(log) == ["first loss is wrong"]
    assert "0.8931, not ln 2 = 0.6931" in diagnose(log)[0].sentence
    assert rules(Log(log.rows, {"loss": "unlikelihood"})) == []
    assert "not 1.0000" in diagnose(Log(log.rows, {"loss": "hinge"}))[0].sentence


def test_the_first_loss_of_a_divergence_is_known_and_one_that_sees_more_than_rewards_is_not():
    """f'(1) = 0, so a loss starts where it does under the KL; lengths and an SFT term add to it."""
    rows = changed(lambda row: {"loss": row["loss"] + 0.2}).rows
    for told in (
        dict(f_divergence_type="js_divergence"),
        dict(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=2.0, beta=0.1),
        dict(f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5),  # TRL's two defaults
        dict(loss="dpop", beta=0.1, dpop_lambda=5.0),
    ):
        assert rules(Log(rows, told)) == ["first loss is wrong"]
    for told in (
        dict(loss="simpo", beta=2.0), dict(loss="orpo", beta=0.1), dict(rpo_alpha=1.0, beta=0.1),
        dict(loss="sigmoid_norm", beta=5.0), dict(loss_type="simpo"),
    ):  # fmt: skip
        assert rules(Log(rows, told)) == []


OTHERS = {
    "a divergence": dict(f_divergence_type="forward_kl", beta=0.1),
    "an SFT term": dict(rpo_alpha=1.0, beta=0.1),
    "lengths": dict(loss="sigmoid_norm", beta=5.0),
}


@pytest.mark.parametrize("told", OTHERS.values(), ids=OTHERS)
def test_a_loss_that_is_none_of_the_logged_margin_is_not_held_to_it(told):
    """No bound by Jensen, no multiple of the margin, no chance level: these are of plain losses."""
    for kappa in (0.1, 10.0):
        named = rules(Log(noisy(kappa), told))
        assert not [rule for rule in named if "margin" in rule]
    swapped = [
        row | {"rewards/margins": -row["rewards/margins"],
               "rewards/chosen": row["rewards/rejected"], "rewards/rejected": row["rewards/chosen"]}
        for row in healthy()
    ]  # fmt: skip
    assert "chosen and rejected are swapped" not in rules(Log(swapped, told))
    backwards = changed(lambda row: {"rewards/accuracies": 1 - row["rewards/accuracies"]})
    named = rules(Log(backwards.rows, told))
    # Of lengths or an SFT term a loss may fall while the order of the rewards does not follow.
    assert named == (["loss falls while accuracy falls"] if "f_divergence_type" in told else [])


def nearly_zero(chosen, rejected, loss, **settings):
    """A healthy log whose first row is that of a reference in fewer bits."""
    first = {"rewards/chosen": chosen, "rewards/rejected": rejected, "loss": loss,
             "rewards/margins": chosen - rejected}  # fmt: skip
    return Log([healthy()[0] | first, *healthy()[1:]], settings)


def test_rewards_that_16_bits_bring_about_are_a_note_and_the_loss_follows_them():
    # A trainer_state.json: no beta, no batch size. The loss is ln 2 less half the margin of 0.012.
    log = nearly_zero(0.0058, -0.0062, 0.6872)
    assert (rules(log), notes(log)) == ([], ["rounding at the start"])
    assert "chosen 0.0058, rejected -0.0062" in diagnose(log)[0].sentence
    assert diagnose(nearly_zero(1e-5, -1e-5, LN2)) == []  # four decimals would show 0
    # Rewards that are nearly 0 excuse no other loss.
    assert rules(nearly_zero(0.0058, -0.0062, 0.72)) == ["first loss is wrong"]
    assert rules(nearly_zero(0.0058, -0.0062, 2 * 0.6872)) == ["loss is summed"]


@pytest.mark.parametrize(
    ("beta", "size", "least"),
    [(0.1, 2, 0.0707), (0.1, 64, 0.0125), (0.4, 64, 0.05), (0.4, 4, 0.2), (0.01, 64, 0.005)],
)
def test_what_16_bits_may_bring_about_is_a_nat_an_answer_times_beta(beta, size, least):
    for far, said in ((0.99 * least, []), (1.01 * least, ["reference is another model"])):
        log = nearly_zero(far, far, LN2, beta=beta, batch_size=size)
        assert (rules(log), notes(log)) == (said, [] if said else ["rounding at the start"])


def test_a_loss_in_nats_follows_rewards_that_are_nearly_0():
    # IPO wants a margin of 1 / (2 beta) = 5 nats: at 0.1 nats its loss is 4.9 ** 2, not 5 ** 2.
    settings = dict(loss="ipo", beta=0.1, batch_size=16)
    right, wrong = (
        rules(Log(nearly_zero(0.005, -0.005, loss).rows, settings)) for loss in (4.9**2, 5.1**2)
    )
    assert "first loss is wrong" in wrong and "first loss is wrong" not in right


def sides(chosen, rejected, spread=2.0):
    rng = random.Random(5)
    return changed(lambda row: {"logps/chosen": -chosen + rng.gauss(0, spread),
                                "logps/rejected": -rejected + rng.gauss(0, spread)})  # fmt: skip


def test_answers_that_are_cut_at_different_places_are_named():
    assert rules(sides(30, 65)) == ["one side is shorter"]
    assert "chosen answers have 30 nats" in diagnose(sides(30, 65))[0].sentence
    assert "rejected answers have 32 nats" in diagnose(sides(65, 30))[0].sentence
    assert rules(sides(50, 65)) == []
    assert rules(sides(30, 65, spread=60)) == []  # batches of two
    assert rules(Log(sides(30, 65).rows[9:])) == []  # training may have brought it about


def watched(*losses, steps=40):
    """A healthy run with so many measurements of held-out pairs, evenly spaced."""
    every = steps // (len(losses) - 1)
    measured = [{"step": every * n, "eval_loss": loss} for n, loss in enumerate(losses)]
    return Log(healthy(steps), measured=measured)


def test_a_held_out_loss_that_rises_while_the_training_loss_falls_is_named():
    log = watched(0.69, 0.62, 0.60, 0.66, 0.75)
    assert rules(log) == ["held out loss rises"]
    assert "least at step 20 and has risen from 0.600 to 0.750" in diagnose(log)[0].sentence
    assert "stop at step 20" in diagnose(log)[0].sentence
    assert rules(watched(0.69, 0.62, 0.60, 0.61, 0.63)) == []  # within a tenth
    assert rules(watched(0.69, 0.62, 0.58, 0.55, 0.54)) == []
    assert rules(watched(0.60, 0.75, 0.80)) == []  # too few to say
    # What is met for the first time is not remembered.
    once = [row | {"epoch": row["step"] / 40} for row in log.rows]
    assert rules(Log(once, {}, log.measured)) == []
    # Where the training loss rises too, nothing is remembered.
    rising = changed(lambda row: {"loss": 2 * LN2 - row["loss"]})
    assert "held out loss rises" not in rules(Log(rising.rows, {}, log.measured))


def test_a_held_out_loss_that_never_fell_has_no_step_to_stop_at():
    sentence = diagnose(watched(0.60, 0.7, 0.75, 0.8))[0].sentence
    assert "it was never less than when first measured" in sentence


def repeated(loss=0.02, epochs=10):
    """Chance in the first epoch, every pair right and surely so from the third on."""

    def change(row):
        epoch = row["step"] / 40 * epochs
        known = {"loss": loss, "rewards/margins": 4.6, "rewards/accuracies": 1.0}
        new = {"loss": LN2, "rewards/margins": 0.0, "rewards/accuracies": 0.5}
        return {"epoch": epoch} | (known if epoch > 2 else new)

    return changed(change)


def test_pairs_that_are_known_by_heart_are_named_without_held_out_ones():
    assert rules(repeated()) == ["pairs are known by heart"]
    assert "met up to 10 times; met first, they had 0.50" in diagnose(repeated())[0].sentence
    assert "pairs are known by heart" not in rules(repeated(loss=0.2))
    # In one epoch no pair is met again: the pairs give the label away.
    once = [row | {"epoch": row["step"] / 40} for row in repeated().rows]
    assert rules(Log(once)) == ["too good too soon"]


def test_an_accuracy_on_pairs_that_were_trained_on_is_a_note():
    log = changed(lambda row: {"epoch": row["step"] / 16})
    assert notes(log) == ["accuracy may be memory"]
    assert "only held-out ones" in diagnose(log)[0].sentence
    fewer = Log(log.rows, {}, [{"step": 40, "eval_loss": 0.6, "eval_rewards/accuracies": 0.61}])
    assert "0.61 on held-out ones: the difference is memory" in diagnose(fewer)[0].sentence
    same = Log(log.rows, {}, [{"step": 40, "eval_loss": 0.3, "eval_rewards/accuracies": 0.8}])
    assert notes(same) == []
    assert notes(changed(lambda row: {"epoch": row["step"] / 40})) == []  # one epoch


def test_no_rule_speaks_of_what_follows_from_another_and_comes_before_it():
    place = {rule: number for number, rule in enumerate(doctor.RULES)}
    for rule, causes in doctor.FOLLOWS.items():
        assert max(place[cause] for cause in causes) < place[rule]


def test_a_log_that_starts_late_says_nothing_about_the_start():
    rows = changed(lambda row: {"loss": 0.5, "rewards/chosen": 0.5}).rows[9:]
    assert rules(Log(rows)) == []


def test_L3_perfect_accuracy_within_few_steps_is_named():
    def leak(row):
        sure = {"loss": 0.01, "rewards/accuracies": 1.0, "rewards/margins": 4.6}
        return sure if row["step"] > 12 else {}

    log = changed(leak)
    assert rules(log) == ["too good too soon"]
    assert "from step 13 on" in diagnose(log)[0].sentence


def test_L3_two_pairs_of_two_that_are_right_now_and_then_give_nothing_away():
    def lucky(row):
        sure = {"loss": 0.01, "rewards/accuracies": 1.0, "rewards/margins": 4.6}
        return {"epoch": row["step"] / 40} | (sure if row["step"] % 7 == 5 else {})

    assert rules(changed(lucky)) == []

    def often(row):  # 0.75 a pair
        return {"epoch": row["step"] / 40, "rewards/accuracies": 1.0 if row["step"] % 2 else 0.5}

    assert rules(changed(often)) == []


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


def test_both_answers_becoming_less_likely_is_a_note(tmp_path, capsys):
    log = changed(lambda row: {f"rewards/{n}": row[f"rewards/{n}"] - row["rewards/margins"]
                               for n in ("chosen", "rejected")})  # fmt: skip
    assert [(finding.rule, finding.note) for finding in diagnose(log)] == [("both fall", True)]
    assert str(diagnose(log)[0]).startswith("note: both fall: rewards end at -1.0")
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in log.rows))
    assert main(["doctor", str(path)]) in (None, 0)  # a note is no suspect
    assert capsys.readouterr().out.startswith("nothing found\nnote: both fall")


def test_the_most_suspicious_comes_first():
    log = changed(lambda row: {"loss": math.nan, "learning_rate": 0.0, "grad_norm": 1.0})
    assert rules(log)[:2] == ["not finite", "learning rate is zero"]


def test_every_rule_has_a_test_that_it_fires(request):
    text = request.path.read_text()
    assert [
        r.__name__ for r in doctor.RULES if f'"{r.__name__.replace("_", " ")}"' not in text
    ] == []


def test_every_rule_that_is_written_has_its_place_in_the_order():
    room = Path(doctor.__file__).parent
    files = {path.stem for path in room.glob("*.py")} - {"__init__", "evidence", "diagnosis"}
    texts = {name: (room / f"{name}.py").read_text() for name in files}
    written = [
        (name, rule) for name in files for rule in re.findall(r"^def ([a-z]\w+)", texts[name], re.M)
    ]
    listed = [(rule.__module__.rpartition(".")[2], rule.__name__) for rule in doctor.RULES]
    assert sorted(listed) == sorted(written)


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


@pytest.mark.parametrize(("steps", "said"), [(19, "too short to judge"), (20, "nothing found")])
def test_a_log_without_a_suspect_is_healthy_only_if_it_is_long_enough(steps, said):
    first, last = lines(Log(healthy(steps)))
    assert first.startswith(said) and last == f"{steps} rows, steps 1 to {steps}"


def test_a_bug_is_named_however_short_the_log_is():
    rows = healthy(3)
    rows[1]["loss"] = math.nan
    assert lines(Log(rows))[0].startswith("suspect: not finite")


def test_every_rule_says_what_to_do_next(tmp_path, capsys):
    names = {rule.__name__.replace("_", " ") for rule in doctor.RULES}
    assert remedies.NEXT.keys() == names and all(remedies.NEXT.values())
    log = changed(lambda row: {"loss": math.nan} if row["step"] > 6 else {})
    said = lines(log)
    assert said[1] == f"  next: {remedies.NEXT['not finite']}"
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in log.rows))
    assert main(["doctor", str(path)]) == 1
    assert said[1] in capsys.readouterr().out.splitlines()
    assert not any("next:" in line for line in lines(Log(healthy(), {})))
