import inspect
import math
import re

import pytest
import torch
from conftest import ROOT, TOC
from torch.nn.functional import logsigmoid

from dpo_lib.page import exercises

CHECKS = {name: check for name, check in inspect.getmembers(exercises) if name.startswith("check_")}


def token_rewards(scores, policy, ref, beta, place=-1):
    rewards = -beta * (policy - ref)
    rewards[:, place] += scores
    return rewards


def clip_slope(logps, old, advantages, clip_range, mistakes_too=False):
    ratio = (logps - old).exp()
    outside = (ratio - 1).abs() > clip_range
    silent = outside & (mistakes_too | ((ratio > 1) == (advantages > 0)))
    return torch.where(silent, 0.0, ratio * advantages)


def proposal_variance(reward, log_ref, log_proposal, beta):
    log_z = (log_ref + reward / beta).logsumexp(-1, keepdim=True)
    return (2 * (log_ref + reward / beta - log_z) - log_proposal).exp().sum(-1) - 1


def calibrated(log_policy, log_ref, beta, known):
    implicit = beta * (log_policy - log_ref)
    return implicit + (known - implicit[..., 0])[..., None]


def reward_gradient(reward, wins):
    predicted = torch.sigmoid(reward[..., None] - reward[..., None, :])
    return ((wins + wins.mT) * predicted - wins).sum(-1)


def objective_gradient(logits, reward, log_ref, beta):
    log_policy = logits.log_softmax(-1)
    shaped = reward - beta * (log_policy - log_ref)
    mean = (log_policy.exp() * shaped).sum(-1, keepdim=True)
    return log_policy.exp() * (shaped - mean)


def mean_by_length(log_policy, scores, power):
    """The mean score where a response also counts by |grad log pi|^(2 power)."""
    policy = log_policy.exp()
    gradients = torch.eye(policy.shape[-1], dtype=policy.dtype) - policy[..., None, :]
    weights = policy * gradients.square().sum(-1) ** power
    return (weights * scores).sum(-1) / weights.sum(-1)


def ranking_logp(rewards, ranking):
    places = range(len(ranking))
    return sum(rewards[ranking[k]] - rewards[ranking[k:]].logsumexp(-1) for k in places)


def ranking_gradient(rewards, ranking, leave=True):
    slope = torch.zeros_like(rewards)
    for k in range(len(ranking)):
        remaining = ranking[k if leave else 0 :]
        slope[remaining] += rewards[remaining].softmax(-1)
        slope[ranking[k]] -= 1
    return slope


def tilted_samples(rewards, beta, share=True):
    weights = (rewards / beta).softmax(-1)
    minus_log_ref = math.log(len(rewards)) if share else 0.0
    kl = (weights * ((rewards / beta).log_softmax(-1) + minus_log_ref)).sum()
    return torch.stack([(weights * rewards).sum(), kl])


def paired_z(rewards, other, by_prompt=True):
    gaps = rewards.mean(-1) - other.mean(-1)
    if by_prompt:
        return gaps.mean() / (gaps.std() / len(gaps) ** 0.5)
    variances = rewards.var() / rewards.numel() + other.var() / other.numel()
    return gaps.mean() / variances.sqrt()


def ipo_optimum(preferences, log_ref, tau, share=0):
    surplus = (preferences - preferences.mT).sum(-1)
    return (log_ref + surplus / (2 * tau * (preferences.shape[-1] - share))).log_softmax(-1)


def completion_logps(logits, ids, prompts, lengths, ahead=1, first=0, last=0, mean=False):
    width = ids.shape[-1]
    logps = logits[:, : width - ahead].log_softmax(-1).gather(-1, ids[:, ahead:, None])[..., 0]
    place = torch.arange(ahead, width)
    mask = (place >= prompts[:, None] + first) & (place < lengths[:, None] + last)
    return (logps * mask).sum(-1) / (mask.sum(-1) if mean else 1)


def answer_slopes(features, log_policy, weighted=True):
    along = torch.einsum("...kd,...d->...k", features, features[..., 0, :] - features[..., 1, :])
    weights = log_policy.exp() if weighted else torch.full_like(along, 1 / along.shape[-1])
    return along - (weights * along).sum(-1, keepdim=True)


def win_rate(reward, log_ref):
    beats = torch.sigmoid(reward[..., None] - reward[..., None, :])
    return (beats * log_ref.exp()[..., None, :]).sum(-1)


RIGHT = {
    "check_reward_from_preferences": lambda p: torch.logit(p).mean(-1),
    "check_reward_gradient": reward_gradient,
    "check_objective_gradient": objective_gradient,
    "check_clip_slope": clip_slope,
    "check_token_rewards": token_rewards,
    "check_bonus_optimum": lambda r, ref, beta, c: ((r + beta * ref) / (beta + c)).log_softmax(-1),
    "check_stable_log_partition": lambda r, ref, beta: (ref + r / beta).logsumexp(-1),
    "check_tempered_policy": lambda r, ref, beta, a: (ref + a * r / beta).log_softmax(-1),
    "check_calibrated_reward": calibrated,
    "check_proposal_variance": proposal_variance,
    "check_dpo_loss": lambda w, l, ref_w, ref_l, beta: -logsigmoid(beta * (w - ref_w - l + ref_l)),  # noqa: E741
    "check_changed_reference": lambda pi, ref, other: (pi - ref + other).log_softmax(-1),
    "check_class_distance": lambda r, other: (r - other).amax(-1) / 2 - (r - other).amin(-1) / 2,
    "check_optimal_baseline": lambda log_pi, R: mean_by_length(log_pi, R, 1.0),
    "check_leave_one_out": lambda R: (R.sum(-1, keepdim=True) - R) / (R.shape[-1] - 1),
    "check_regression_round": lambda log_pi, r, eta: (log_pi + eta * r).log_softmax(-1),
    "check_member_with_partition": lambda r, ref, beta, z: (
        r - beta * ((ref + r / beta).logsumexp(-1) - z.log())[..., None]
    ),
    "check_blended_policy": lambda pi, other: ((pi + other) / 2).log_softmax(-1),
    "check_ranking_gradient": ranking_gradient,
    "check_worst_first": lambda r, ranking: ranking_logp(-r, ranking.flip(-1)),
    "check_tilted_samples": tilted_samples,
    "check_paired_z": paired_z,
    "check_standard_error_over_prompts": lambda r: r.mean(-1).std() / len(r) ** 0.5,
    "check_ipo_optimum": ipo_optimum,
    "check_completion_logps": completion_logps,
    "check_unbiased_loss": lambda loss, opposite, e: ((1 - e) * loss - e * opposite) / (1 - 2 * e),
    "check_ipo_policy": lambda p, ref, beta: (ref + p.mean(-1) / beta).log_softmax(-1),
    "check_answer_slopes": answer_slopes,
    "check_preferred_ft": lambda r, ref: ref + (2 * win_rate(r, ref)).log(),
    "check_loss_floor": lambda margin: -logsigmoid(margin),
    "check_reference_score": lambda logps, rewards, beta: logps - rewards / beta,
}
WRONG = {
    "not centred": ("check_reward_from_preferences", lambda p: torch.logit(p)[..., 0]),
    "sign": ("check_reward_gradient", lambda r, wins: -reward_gradient(r, wins)),
    "KL forgotten": (
        "check_objective_gradient",
        lambda logits, r, ref, beta: objective_gradient(logits, r, ref, 0.0),
    ),
    "mean forgotten": (
        "check_objective_gradient",
        lambda logits, r, ref, beta: (
            logits.softmax(-1) * (r - beta * (logits.log_softmax(-1) - ref))
        ),
    ),
    "clip without the minimum": (
        "check_clip_slope",
        lambda *a: clip_slope(*a, mistakes_too=True),
    ),
    "slope in the ratio": (
        "check_clip_slope",
        lambda new, old, *a: clip_slope(new, old, *a) / (new - old).exp(),
    ),
    "score at the first token": ("check_token_rewards", lambda *a: token_rewards(*a, place=0)),
    "penalty added": (
        "check_token_rewards",
        lambda score, policy, ref, beta: token_rewards(score, policy, ref, -beta),
    ),
    "bonus forgotten": (
        "check_bonus_optimum",
        lambda r, ref, beta, c: (ref + r / beta).log_softmax(-1),
    ),
    "bonus as a larger beta alone": (
        "check_bonus_optimum",
        lambda r, ref, beta, c: (ref + r / (beta + c)).log_softmax(-1),
    ),
    "overflow": (
        "check_stable_log_partition",
        lambda r, ref, beta: (ref.exp() * (r / beta).exp()).sum(-1).log(),
    ),
    "without reference": (
        "check_stable_log_partition",
        lambda r, ref, beta: (r / beta).logsumexp(-1),
    ),
    "scale inverted": (
        "check_tempered_policy",
        lambda r, ref, b, a: (ref + r / a / b).log_softmax(-1),
    ),
    "shift forgotten": ("check_calibrated_reward", lambda pi, ref, beta, known: beta * (pi - ref)),
    "mean square": ("check_proposal_variance", lambda *a: proposal_variance(*a) + 1),
    "naive logarithm": (
        "check_dpo_loss",
        lambda w, l, rw, rl, b: -torch.sigmoid(b * (w - rw - l + rl)).log(),  # noqa: E741
    ),
    "sides swapped": (
        "check_dpo_loss",
        lambda w, l, rw, rl, b: -logsigmoid(-b * (w - rw - l + rl)),  # noqa: E741
    ),
    "not normalised": ("check_changed_reference", lambda pi, ref, other: pi - ref + other),
    "no shift": ("check_class_distance", lambda r, other: (r - other).abs().amax(-1)),
    "shift by the mean": (
        "check_class_distance",
        lambda r, other: ((r - other) - (r - other).mean(-1, keepdim=True)).abs().amax(-1),
    ),
    "whole spread": (
        "check_class_distance",
        lambda r, other: (r - other).amax(-1) - (r - other).amin(-1),
    ),
    "mean as a baseline": ("check_optimal_baseline", lambda log_pi, R: (log_pi.exp() * R).sum(-1)),
    "long scores count less": (
        "check_optimal_baseline",
        lambda log_pi, R: mean_by_length(log_pi, R, -1.0),
    ),
    "own draw included": (
        "check_leave_one_out",
        lambda R: R.mean(-1, keepdim=True).expand_as(R),
    ),
    "others counted one too many": (
        "check_leave_one_out",
        lambda R: (R.sum(-1, keepdim=True) - R) / R.shape[-1],
    ),
    "eta as a price": (
        "check_regression_round",
        lambda log_pi, r, eta: (log_pi + r / eta).log_softmax(-1),
    ),
    "a round that is not normalised": (
        "check_regression_round",
        lambda log_pi, r, eta: log_pi + eta * r,
    ),
    "always Z = 1": (
        "check_member_with_partition",
        lambda r, ref, beta, z: r - beta * (ref + r / beta).logsumexp(-1, keepdim=True),
    ),
    "beta forgotten": (
        "check_member_with_partition",
        lambda r, ref, beta, z: r - ((ref + r / beta).logsumexp(-1) - z.log())[..., None],
    ),
    "arithmetic mean": (
        "check_blended_policy",
        lambda pi, other: ((pi.exp() + other.exp()) / 2).log(),
    ),
    "mean not normalised": ("check_blended_policy", lambda pi, other: (pi + other) / 2),
    "nobody leaves": (
        "check_ranking_gradient",
        lambda r, ranking: ranking_gradient(r, ranking, leave=False),
    ),
    "ascent": ("check_ranking_gradient", lambda r, ranking: -ranking_gradient(r, ranking)),
    "list not reversed": ("check_worst_first", lambda r, ranking: ranking_logp(-r, ranking)),
    "reward not turned": (
        "check_worst_first",
        lambda r, ranking: ranking_logp(r, ranking.flip(-1)),
    ),
    "reference's share forgotten": (
        "check_tilted_samples",
        lambda rewards, beta: tilted_samples(rewards, beta, share=False),
    ),
    "beta the wrong way": (
        "check_tilted_samples",
        lambda rewards, beta: tilted_samples(rewards, 1 / beta),
    ),
    "samples as draws": (
        "check_paired_z",
        lambda rewards, other: paired_z(rewards, other, by_prompt=False),
    ),
    "every completion counted": (
        "check_standard_error_over_prompts",
        lambda r: r.std() / r.numel() ** 0.5,
    ),
    "itself not counted": ("check_ipo_optimum", lambda *a: ipo_optimum(*a, share=1)),
    "tau forgotten": ("check_ipo_optimum", lambda p, ref, tau: ipo_optimum(p, ref, 1.0)),
    "tokens predict themselves": (
        "check_completion_logps",
        lambda *batch: completion_logps(*batch, ahead=0),
    ),
    "end not counted": ("check_completion_logps", lambda *batch: completion_logps(*batch, last=-1)),
    "padding counted": ("check_completion_logps", lambda *batch: completion_logps(*batch, last=1)),
    "prompt counted": ("check_completion_logps", lambda *batch: completion_logps(*batch, first=-9)),
    "mean over tokens": (
        "check_completion_logps",
        lambda *batch: completion_logps(*batch, mean=True),
    ),
    "not divided": ("check_unbiased_loss", lambda loss, opp, e: (1 - e) * loss - e * opp),
    "smoothed instead": ("check_unbiased_loss", lambda loss, opp, e: (1 - e) * loss + e * opp),
    "log-odds instead of win rates": (
        "check_ipo_policy",
        lambda p, ref, beta: (ref + p.logit().mean(-1) / beta).log_softmax(-1),
    ),
    "without the reference": (
        "check_ipo_policy",
        lambda p, ref, beta: (p.mean(-1) / beta).log_softmax(-1),
    ),
    "mean under equal weights": (
        "check_answer_slopes",
        lambda features, log_pi: answer_slopes(features, log_pi, weighted=False),
    ),
    "winner's share not doubled": (
        "check_preferred_ft",
        lambda r, ref: ref + win_rate(r, ref).log(),
    ),
    "a tilt by the win rate": (
        "check_preferred_ft",
        lambda r, ref: (ref + win_rate(r, ref)).log_softmax(-1),
    ),
    "floor of the other sign": ("check_loss_floor", lambda margin: -logsigmoid(-margin)),
    "floor overflows": ("check_loss_floor", lambda margin: (1 + (-margin).exp()).log()),
    "beta kept": ("check_reference_score", lambda logps, rewards, beta: logps - rewards),
    "reward added": ("check_reference_score", lambda lp, rewards, beta: lp + rewards / beta),
}


def unfinished(*_): ...


def raises(*_):
    raise RuntimeError("first draft")


every_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


def test_each_self_check_is_tested_with_a_right_and_a_wrong_answer():
    assert set(RIGHT) == {name for name, _ in WRONG.values()} == set(CHECKS)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_accepted(name):
    verdict = CHECKS[name](RIGHT[name])
    assert verdict, repr(verdict)
    assert repr(verdict).startswith("Solved: ")


@pytest.mark.parametrize(("name", "attempt"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_is_refused_with_a_hint(name, attempt):
    verdict = CHECKS[name](attempt)
    assert not verdict
    assert repr(verdict).startswith("Not yet: input ")
    assert " Hint: " in repr(verdict)


@every_check
def test_an_unfinished_stub_is_no_error(check):
    verdict = check(unfinished)
    assert not verdict
    assert "returns nothing so far" in verdict.message


@every_check
def test_on_a_built_page_an_unfinished_stub_leaves_a_folded_hint_and_no_reproach(
    check, monkeypatch
):
    verdict = check(unfinished)
    assert verdict._repr_html_() is None  # a notebook shows the sentence
    monkeypatch.setenv("DPO_BOOK_BUILD", "1")
    shown = verdict._repr_html_()
    assert shown.startswith('<details class="dpo-hint"><summary>Hint</summary>')
    assert "Not yet" not in shown and "nothing so far" not in shown


@every_check
def test_whatever_an_attempt_raises_becomes_a_verdict(check):
    verdict = check(raises)
    assert not verdict
    assert "RuntimeError: first draft" in verdict.message


@every_check
@pytest.mark.parametrize(
    "value", ["text", [1.0, "text"], {}, Ellipsis, 7, float("nan"), torch.zeros(7)], ids=repr
)
def test_whatever_an_attempt_returns_becomes_a_verdict(check, value):
    verdict = check(lambda *_: value)
    assert not verdict
    assert " Hint: " in repr(verdict)


@every_check
def test_a_check_says_which_chapter_asks_for_it(check):
    assert inspect.getdoc(check).startswith("Chapter ")


def test_a_check_stands_in_the_file_of_its_part_of_the_book_and_is_offered_by_the_room():
    parts = [re.findall(r"book/(\d\d)_", str(part["chapters"])) for part in TOC["parts"]]
    files = {f"chapters_{part[0]}_to_{part[-1]}": part for part in parts if part}
    room = ROOT / "dpo_lib/page/exercises"
    assert {path.stem for path in room.glob("chapters_*.py")} == set(files)
    written = {}
    for name, chapters in files.items():
        text = (room / f"{name}.py").read_text()
        found = re.findall(r'^def (check_\w+).*\n    """Chapter (\d+):', text, re.MULTILINE)
        assert {f"{int(chapter):02d}" for _, chapter in found} <= set(chapters)
        written |= dict(found)
    assert set(written) == set(CHECKS)


def test_a_wrong_shape_is_said_to_be_one():
    verdict = exercises.check_stable_log_partition(lambda r, ref, beta: r)
    assert "input 1 gives shape (2, 6) instead of (2,)" in verdict.message


def test_an_attempt_that_works_in_place_is_judged_by_the_original_input():
    def in_place(reward, log_ref, beta):
        return reward.div_(beta).add_(log_ref).logsumexp(-1)

    assert exercises.check_stable_log_partition(in_place)
