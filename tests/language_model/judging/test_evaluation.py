"""Sampled estimates against the exact values of language models small enough to enumerate."""

import json
import math
from itertools import combinations, product

import pytest
import torch
from faults import count_events, full_disk, in_child
from helpers import generator
from transformers import GPT2Config, GPT2LMHeadModel

from dpo_lib.evaluation import z_score
from dpo_lib.language_model.judging import evaluation as ev
from dpo_lib.language_model.judging import holm
from dpo_lib.language_model.judging import report as report_of
from dpo_lib.language_model.scoring.logprobs import plain_logps

EOS, LONGEST = 2, 3
PROMPT, OTHER = (0, 1), (1,)


def language_model(seed):
    """A GPT-2 of three words with random weights, large enough that two of them differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=3, n_positions=16, n_embd=8, n_layer=1, n_head=1, initializer_range=0.3,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=EOS, eos_token_id=EOS,
        )  # fmt: skip
        return GPT2LMHeadModel(config).double().eval()


def completions():
    """All texts of at most three tokens: ended by the EOS, or cut at the limit."""
    found = []
    for length in range(1, LONGEST + 1):
        for text in product(range(3), repeat=length):
            ends = text[-1] == EOS or length == LONGEST
            if ends and EOS not in text[:-1]:
                found.append(text)
    return found


ALL = completions()


def value(text):
    """A reward with ties: how many zeros."""
    return float(text.count(0))


def score(sequences):
    return torch.tensor([value(completion) for _, completion in sequences])


@torch.no_grad()
def table(model, prompt=PROMPT, temperature=1.0):
    """Exact log-probabilities of all completions, shape (completions,)."""
    rows = plain_logps(model, [(prompt, text) for text in ALL], temperature)
    return torch.stack([row.sum() for row in rows])


POLICY, REFERENCE = language_model(1), language_model(2)
P, Q = table(POLICY), table(REFERENCE)
VALUES = torch.tensor([value(text) for text in ALL], dtype=torch.float64)
DRAWS = 4000


def draw(model=POLICY, seed=0, temperature=1.0, prompts=(PROMPT,) * DRAWS, samples=1):
    """Many copies of one prompt: then all samples are independent and the truth is a sum."""
    options = dict(max_new_tokens=LONGEST, temperature=temperature, seed=seed, batch_size=DRAWS)
    return ev.sample(model, prompts, score, EOS, samples=samples, **options)


def z(values, truth):
    found = ev.estimate(values)
    return (found.mean - truth) / found.standard_error


def test_A10_the_enumerated_texts_are_all_texts():
    for model, prompt in product((POLICY, REFERENCE), (PROMPT, OTHER)):
        assert table(model, prompt).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.fixture(scope="module")
def drawn():
    return draw()


def test_the_mean_reward_is_the_expected_reward(drawn):
    assert abs(z(drawn.rewards, (P.exp() * VALUES).sum().item())) < 4


def test_lengths_and_endings_are_those_of_the_distribution(drawn):
    lengths = torch.tensor([float(len(text)) for text in ALL], dtype=torch.float64)
    ended = torch.tensor([float(text[-1] == EOS) for text in ALL], dtype=torch.float64)
    assert abs(z(drawn.lengths, (P.exp() * lengths).sum().item())) < 4
    assert abs(z(drawn.ended, (P.exp() * ended).sum().item())) < 4


def test_J2_both_kl_estimates_agree_with_the_exact_kl(drawn):
    truth = (P.exp() * (P - Q)).sum().item()
    k1, k3 = ev.sequence_kl(POLICY, REFERENCE, drawn)
    assert truth > 0.1
    assert abs(z(k1, truth)) < 4
    assert abs(z(k3, truth)) < 4
    assert k3.min() >= 0 > k1.min()  # k1 must not be clamped: that would bias its mean
    assert abs(z(k1.clamp(min=0), truth)) > 4


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_J3_at_another_temperature_it_is_the_kl_of_what_was_drawn(temperature):
    tempered = table(POLICY, temperature=temperature)
    truth = (tempered.exp() * (tempered - Q)).sum().item()
    hot = draw(temperature=temperature)
    k1, k3 = ev.sequence_kl(POLICY, REFERENCE, hot, temperature)
    assert abs(z(k1, truth)) < 4 and abs(z(k3, truth)) < 4
    wrong, _ = ev.sequence_kl(POLICY, REFERENCE, hot)  # scored at temperature 1
    assert abs(z(wrong, truth)) > 4


def test_J2_identical_policies_have_a_kl_of_exactly_0(drawn):
    for estimate in ev.sequence_kl(POLICY, language_model(1), drawn):
        assert (estimate == 0).all()


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth = (P.exp() * VALUES).sum().item()
    blocks = draw(seed=5).rewards.view(100, 40, 1)  # 100 experiments of 40 draws
    intervals = [ev.estimate(block).interval for block in blocks]
    covered = torch.tensor(float(sum(low <= truth <= high for low, high in intervals)))
    assert abs(z_score(covered, 100, torch.tensor(0.95))) < 4


def test_samples_of_one_prompt_do_not_count_as_prompts():
    # Two prompts whose rewards are 0 and 1: a thousand samples of each leave the mean of
    # all prompts as uncertain as one sample does.
    rewards = torch.tensor([[0.0], [1.0]])
    assert ev.estimate(rewards.expand(2, 1000)) == ev.estimate(rewards)
    assert ev.estimate(rewards).standard_error == pytest.approx(0.5)  # sqrt(1/2) / sqrt(2)


def test_a_win_rate_agrees_with_enumeration(drawn):
    wins = (VALUES[:, None] > VALUES).double() + 0.5 * (VALUES[:, None] == VALUES)
    truth = (P.exp()[:, None] * Q.exp() * wins).sum().item()
    found = ev.win_rate(drawn.rewards, draw(REFERENCE, seed=1).rewards)
    assert abs(found.mean - truth) / found.standard_error < 4


def test_a_tie_is_half_a_win():
    # 3 against 1, 1, 5: a win, a win, a loss; 1 against them: a tie, a tie, a loss. 3 of 6.
    rewards, other = torch.tensor([[3.0, 1.0]] * 2), torch.tensor([[1.0, 1.0, 5.0]] * 2)
    assert ev.win_rate(rewards, other).mean == 0.5
    assert ev.win_rate(rewards, other[:, :2]).mean == 0.75
    assert ev.win_rate(other[:, :2], rewards).mean == 0.25


def test_a_policy_wins_exactly_half_against_its_own_samples():
    rewards = torch.randn(7, 5, generator=generator())
    assert ev.win_rate(rewards, rewards).mean == 0.5


def test_a_greedy_policy_ties_with_itself_always():
    report = ev.evaluate(
        {"same": REFERENCE}, REFERENCE, [PROMPT, OTHER], score, EOS,
        temperatures=(0.0,), max_new_tokens=LONGEST,
    )  # fmt: skip
    greedy = draw(REFERENCE, temperature=0.0, prompts=[PROMPT, OTHER])
    again = draw(REFERENCE, seed=9, temperature=0.0, prompts=[PROMPT, OTHER])
    assert ev.win_rate(greedy.rewards, again.rewards).mean == 0.5
    assert "kl" not in report["policies"][0]  # of one text there is none


def test_best_of_n_is_the_average_over_all_subsets():
    rewards = torch.randn(3, 6, generator=generator(), dtype=torch.float64)
    by = torch.randn(3, 6, generator=generator(1), dtype=torch.float64)
    for n in range(1, 7):
        subsets = [list(subset) for subset in combinations(range(6), n)]
        plain = torch.stack([rewards[:, s].amax(-1) for s in subsets]).mean(0)
        torch.testing.assert_close(ev.best_of(rewards, n)[:, 0], plain)
        places = [by[:, s].argmax(-1, keepdim=True) for s in subsets]
        chosen = [rewards[:, s].gather(-1, p) for s, p in zip(subsets, places, strict=True)]
        torch.testing.assert_close(ev.best_of(rewards, n, by), torch.stack(chosen).mean(0))


def test_best_of_n_agrees_with_the_exact_order_statistic():
    levels = VALUES.unique()
    below = torch.stack([Q.exp()[level >= VALUES].sum() for level in levels])
    for n in (2, 4):
        mass = torch.diff(below**n, prepend=torch.zeros(1, dtype=torch.float64))
        best = ev.best_of(draw(REFERENCE, prompts=[PROMPT] * 1000, samples=4).rewards, n)
        assert abs(z(best, (mass * levels).sum().item())) < 4


def test_best_of_n_has_at_most_the_kl_that_is_stated():
    # Best-of-n by a reward without ties, enumerated: P(rank i is the best) over P(rank i).
    for n in (1, 2, 8):
        cumulative = Q.exp()[torch.randperm(len(Q), generator=generator())].cumsum(0)
        best = torch.diff(cumulative**n, prepend=torch.zeros(1, dtype=torch.float64))
        base = torch.diff(cumulative, prepend=torch.zeros(1, dtype=torch.float64))
        assert (best * (best / base).log()).sum() <= ev.best_of_kl(n) + 1e-12
    assert ev.best_of_kl(2) == pytest.approx(math.log(2) - 0.5)


def test_the_z_of_a_difference_is_that_of_the_paired_means():
    rewards, other = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    found, z = ev.difference(rewards, other)  # differences 1, 1, 4: mean 2, deviation sqrt(3)
    assert (found.mean, found.standard_error) == (pytest.approx(2), pytest.approx(1))
    assert z == pytest.approx(2)
    assert ev.difference(rewards, rewards)[1] == 0


def test_a_report_holds_the_exact_values_and_is_reproducible(tmp_path):
    def run():
        return ev.evaluate(
            {"policy": POLICY, "same": language_model(2)}, REFERENCE, [PROMPT] * 1000, score, EOS,
            temperatures=(1.0, 0.5), best_of_n=3, samples=2, max_new_tokens=LONGEST,
            batch_size=2000,
        )  # fmt: skip

    report = run()
    policy, cold, same, _ = report["policies"]
    gain = (P.exp() * VALUES).sum().item() - (Q.exp() * VALUES).sum().item()
    assert abs(policy["gain"]["mean"] - gain) < 4 * policy["gain"]["standard_error"]
    assert (cold["name"], cold["temperature"]) == ("policy", 0.5)
    assert (same["kl"]["mean"], same["kl"]["standard_error"]) == (0, 0)
    assert abs(same["win_rate"]["mean"] - 0.5) < 4 * same["win_rate"]["standard_error"]
    assert abs(same["z"]) < 4
    assert [row["n"] for row in report["best_of"]] == [1, 2, 3]
    assert report == run()


def test_a_report_is_written_as_strict_json_with_a_drawing_beside_it(tmp_path):
    report = ev.evaluate(
        {"policy": POLICY}, REFERENCE, [PROMPT, OTHER], score, EOS,
        temperatures=(0.0, 1.0), best_of_n=2, samples=2, max_new_tokens=LONGEST,
    )  # fmt: skip
    written, drawing = report_of.write(report, tmp_path / "new" / "points.json")

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(written.read_text(), parse_constant=refuse) == report
    markup = drawing.read_text()
    assert markup.startswith("<svg") and "xmlns=" in markup and "nats" in markup
    assert "sampling temperature" in markup  # there are two
    del report["policies"][0]
    assert "sampling temperature" not in report_of.draw_plot(report)
    head, reference, *_ = report_of.lines(report)
    assert head.startswith("policy") and reference.startswith("reference")


def test_a_full_disk_at_every_event_leaves_report_and_plot_of_one_run_and_nothing_else(tmp_path):
    old = ev.evaluate({}, REFERENCE, [PROMPT, OTHER], score, EOS, max_new_tokens=LONGEST)
    new = old | {"settings": "other"}

    def written(report, folder):
        report_of.write(report, folder / "points.json")
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    ends = [written(report, tmp_path / name) for name, report in (("old", old), ("new", new))]
    events, seen = count_events(lambda: report_of.write(new, tmp_path / "count/points.json")), []
    for at in range(1, events + 1):
        folder = tmp_path / str(at)
        written(old, folder)

        def fill(folder=folder, at=at):
            full_disk(at).install()
            report_of.write(new, folder / "points.json")

        in_child(fill)
        seen.append(ends.index({file.name: file.read_bytes() for file in folder.iterdir()}))
    assert ends[0].keys() == {"points.json", "points.svg"}
    assert seen == sorted(seen) and set(seen) == {0, 1}


def test_a_prompt_without_room_is_named_by_its_number_among_the_prompts():
    with pytest.raises(ValueError, match=r"^prompt 2 has 16 tokens"):
        draw(prompts=[PROMPT, (1,) * 16], samples=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ev.estimate(torch.zeros(1, 4)),
        lambda: ev.best_of(torch.zeros(2, 3), 4),
        lambda: ev.best_of(torch.zeros(2, 3), 0),
        lambda: ev.win_rate(torch.zeros(2, 3), torch.zeros(3, 3)),
        lambda: ev.difference(torch.zeros(2, 3), torch.zeros(3, 3)),
        lambda: draw(prompts=[PROMPT], samples=0),
        lambda: report_of.write({}, "plot.svg"),
    ],
)
def test_bad_input_is_refused_in_one_line(call):
    with pytest.raises(ValueError, match="got") as refused:
        call()
    assert "\n" not in str(refused.value)


def test_holm_worked_by_hand_is_stepwise_and_keeps_the_order_of_the_tests():
    assert holm([0.04, 0.01, 0.03, 0.005]) == [False, True, False, True]  # 0.03 > 0.05 / 2
    assert holm([0.012, 0.016, 0.024, 0.04]) == [True] * 4  # Bonferroni would pass the first only
    assert holm([0.013, 0.001, 0.001, 0.001]) == [True] * 4
    assert holm([0.03, 0.001]) == [True, True] and holm([]) == []
    assert holm([0.03, 0.026]) == [False, False]  # the first that fails ends it


def test_holm_errs_on_some_true_null_in_at_most_five_per_cent_of_families():
    p = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0)).double()
    wrong = sum(any(holm(row)) for row in p.tolist()) / len(p)
    assert 0.03 < wrong < 0.06
