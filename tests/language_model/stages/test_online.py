"""Online DPO: what a round draws, whose step follows, what is kept of it."""

import copy
import json
import math
import sys

import pytest
import torch
from small_world import small_run, small_world
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_lib.__main__ import main
from dpo_lib.language_model.data import Pair, read_preferences, tokenize_preferences
from dpo_lib.language_model.data.order import batch_indices, derive_seed, next_items
from dpo_lib.language_model.generation import generate
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.judges import Judge
from dpo_lib.language_model.models.policies import frozen_copy, load_tokenizer
from dpo_lib.language_model.scoring import pair_logps, plain_logps
from dpo_lib.language_model.settings import DPOSettings, OnlineDPOSettings, TrainingError
from dpo_lib.language_model.stages import DPO, OnlineDPO
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.learner import Learner
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.training.parallel.processes import Processes
from dpo_lib.language_model.worlds import reviews
from dpo_lib.objective import optimal_log_policy
from dpo_lib.variants import LOSSES

EOS = 3
PROMPTS = [(0,), (1, 2), (2,)]
SHAPE = dict(vocab_size=EOS + 1, n_layer=1, n_embd=16, n_head=2, n_positions=16)


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<eos>": EOS}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")


def model(seed=0):
    """Random weights, large enough for distributions that are far from uniform."""
    ends = dict(bos_token_id=EOS, eos_token_id=EOS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**SHAPE, **ends, initializer_range=0.3)).eval()


def score(sequences):
    """The number of a's, so that many completions tie."""
    return torch.tensor([float(completion.count(0)) for _, completion in sequences])


def make(tokenizer, out="none", scores=score, frozen=None, judge="a table", **changes):
    told = dict(model="-", data="-", out=str(out), reward="-", max_new_tokens=3, dtype="float32")
    told |= dict(steps=6, batch_size=8, lr=0.01, warmup_steps=0, optimizer="adamw", beta=0.5)
    policy = model()
    return OnlineDPO(
        OnlineDPOSettings(**told | dict(save_every=1, log_every=10_000) | changes),
        policy=policy,
        reference=frozen_copy(policy) if frozen is None else frozen,
        tokenizer=tokenizer,
        prompts=PROMPTS,
        judge=Judge(scores, judge),
    )


def run(stage):
    """Train it; the lines of its log and its pairs."""
    path = train(stage)
    names = ("metrics.jsonl", "pairs.jsonl")
    return [[json.loads(line) for line in open(path / name)] for name in names]


def gradient(stage, indices, share):
    stage.policy.zero_grad()
    sums = stage.backward(indices, share)
    return torch.cat([p.grad.flatten() for p in stage.policy.parameters()]), sums


# A round


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_round_is_the_best_against_the_worst_of_what_the_policy_draws(tokenizer, count, steps):
    """By brute force, from `generate` with the same numbers."""
    stage = make(tokenizer, num_generations=count, refresh_every=steps, temperature=0.9, seed=5)
    for number in (0, 1):
        stage.start(number * steps + 1)
        chosen = next_items(5, number, 8 * steps, 3)
        repeated = [PROMPTS[place] for place in chosen for _ in range(count)]
        generator = torch.Generator().manual_seed(derive_seed(5, 0, number))
        drawn = generate(stage.policy, repeated, 3, 0.9, generator, EOS)
        wanted = []
        for k, place in enumerate(chosen):
            group = drawn[k * count : (k + 1) * count]
            by_score = sorted(group, key=lambda completion: completion.count(0))
            most, least = (by_score[at].count(0) for at in (-1, 0))
            best = next(completion for completion in group if completion.count(0) == most)
            worst = next(completion for completion in group if completion.count(0) == least)
            wanted.append(Pair(PROMPTS[place], best, worst) if most > least else None)
        assert stage.pairs == wanted
        assert 0 < wanted.count(None) < len(wanted)  # ties make no pair, and there are some
        log = stage.figures([0, 1, 2])
        assert log["completions/ties"] == wanted.count(None) / len(wanted)
        assert log["pairs"] == 3 - wanted[:3].count(None)
        assert log["objective/scores"] == pytest.approx(sum(y.count(0) for y in drawn) / len(drawn))
        assert log["completions/mean_length"] == pytest.approx(sum(map(len, drawn)) / len(drawn))
        assert log["completions/ended"] == sum(y[-1] == EOS for y in drawn) / len(drawn)


def test_a_completion_drawn_twice_is_a_tie_whatever_its_scores(tokenizer):
    random = torch.Generator().manual_seed(0)
    moody = lambda sequences: torch.rand(len(sequences), generator=random)  # noqa: E731
    stage = make(tokenizer, scores=moody, batch_size=64, max_new_tokens=1)
    stage.start(1)
    first, second = stage.drawn.tokens[::2, 0], stage.drawn.tokens[1::2, 0]
    assert [pair is None for pair in stage.pairs] == (first == second).tolist()
    assert 0 < (first == second).sum() < 64


def test_every_prompt_is_drawn_for_once_before_any_is_drawn_for_twice():
    used = [item for number in range(6) for item in next_items(1, number, 2, 3)]
    assert [sorted(used[k : k + 3]) for k in range(0, 12, 3)] == [[0, 1, 2]] * 4


def test_a_round_as_long_as_the_run_draws_once_and_all_from_the_start(tokenizer, tmp_path):
    drawn = []

    def watched(sequences):
        drawn.append(len(sequences))
        return score(sequences)

    stage = make(tokenizer, tmp_path / "run", scores=watched, refresh_every=6)
    log, rows = run(stage)
    assert sum(drawn) == 6 * 8 * 2 and {row["round"] for row in rows} == {1}
    other = make(tokenizer, refresh_every=6)
    other.start(1)
    assert other.pairs == stage.pairs  # of the start, whatever came after
    used = [i for n in range(1, 7) for i in batch_indices(0, n, 8, 48)]
    assert sorted(used) == list(range(48))  # each once
    assert sum(line["pairs"] for line in log) == len(rows)


def test_each_round_draws_from_the_policy_as_it_begins(tokenizer, tmp_path):
    asked = []
    stage = make(tokenizer, tmp_path / "run", refresh_every=2)
    draw = stage.draw
    stage.draw = lambda number: (asked.append((number, state_hash(stage.policy))), draw(number))
    _, rows = run(stage)
    assert [number for number, _ in asked] == [0, 1, 2] and len(set(asked)) == 3
    assert len({policy for _, policy in asked}) == 3
    assert sorted({row["round"] for row in rows}) == [1, 2, 3]


# The step


@pytest.mark.parametrize("loss", [*LOSSES, "sigmoid with rpo_alpha"])
def test_the_step_is_dpos_own_to_the_bit(tokenizer, loss):
    """The same pairs and scores of the reference in a DPO stage: the same gradient and metrics."""
    own = {"exo_pair": dict(label_smoothing=0.1), "unlikelihood": dict(alpha=0.5)}
    own |= {"sigmoid with rpo_alpha": dict(rpo_alpha=1.0), "rdpo": dict(rdpo_alpha=0.1)}
    own = dict(loss=loss.split()[0]) | own.get(loss, {})
    stage = make(tokenizer, frozen=frozen_copy(model(1)), refresh_every=2, **own)
    stage.start(1)
    untied = [index for index, pair in enumerate(stage.pairs) if pair is not None]
    told = dict(model="-", data="-", out="", beta=0.5, batch_size=8, dtype="float32") | own
    pairs = [stage.pairs[index] for index in untied]
    dpo = DPO(DPOSettings(**told), model(), frozen_copy(model(1)), tokenizer, pairs)
    dpo.ref_logps = stage.ref_logps[untied]
    assert stage.weight(list(range(16))) == len(untied) < 16
    ours, log = gradient(stage, list(range(16)), 1 / len(untied))
    theirs, wanted = gradient(dpo, list(range(len(untied))), 1 / len(untied))
    assert torch.equal(ours, theirs) and ours.abs().max() > 0
    assert log.keys() == wanted.keys()
    assert all(float(log[name]) == float(wanted[name]) for name in log)


def test_the_reference_scores_the_pairs_that_were_drawn(tokenizer):
    reference = frozen_copy(model(1))
    stage = make(tokenizer, frozen=reference, refresh_every=2, accumulate=2)
    stage.start(1)
    for pair, found in zip(stage.pairs, stage.ref_logps, strict=True):
        if pair is not None:
            sides = [(pair.prompt, side) for side in (pair.chosen, pair.rejected)]
            wanted = torch.stack([row.sum() for row in plain_logps(reference, sides)])
            assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reference", ["fixed", "moving"])
def test_rewards_are_exactly_0_where_the_reference_is_the_policy(tokenizer, tmp_path, reference):
    """The first step of each round with a moving reference, that of the first with a fixed one."""
    changes = dict(reference=reference, refresh_every=3, accumulate=2, steps=9)
    log, _ = run(make(tokenizer, tmp_path / "run", **changes))
    at_0 = [(line["rewards/chosen"], line["rewards/rejected"]) == (0, 0) for line in log]
    exact = [line["step"] for line, zero in zip(log, at_0, strict=True) if zero]
    assert exact == ([1, 4, 7] if reference == "moving" else [1])
    for line in log:
        if line["step"] in exact:
            assert line["loss"] == pytest.approx(math.log(2), abs=1e-7)


def test_the_reference_is_asked_in_the_parts_in_which_the_steps_ask_the_policy(tokenizer):
    """So that equal weights give equal bits on every device."""
    stage = make(tokenizer, refresh_every=3, accumulate=2)
    logps, asked = stage.logps, {}

    def watched(lm, indices):
        asked.setdefault(lm is stage.policy, []).append(indices)
        return logps(lm, indices)

    stage.logps = watched
    learner = Learner(stage)
    learner.start(None)
    for _ in range(3):
        learner.update()
    of_policy, of_reference = ([stage.untied(part) for part in asked[who]] for who in (True, False))
    assert [part for part in of_reference if part] == of_policy and len(of_policy) > 3


def test_a_moving_reference_is_the_policy_of_the_rounds_start(tokenizer, tmp_path):
    stage = make(tokenizer, tmp_path / "run", reference="moving", refresh_every=2)
    learner = Learner(stage)
    learner.start(None)
    starts = []
    for step in range(4):
        starts += [copy.deepcopy(stage.policy)] * (step % 2 == 0)
        learner.update()
        untied = stage.untied(list(range(stage.items)))
        pairs = [stage.pairs[index] for index in untied]
        with torch.no_grad():
            of_start, of_first = (pair_logps(model, pairs) for model in (starts[-1], starts[0]))
        assert_close(stage.ref_logps[untied], of_start, atol=1e-6, rtol=1e-6)
        assert torch.equal(of_start, of_first) == (step < 2)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_rounds_that_reach_their_optimum_with_a_moving_reference_divide_beta(rounds):
    """Equation (4) round after round is equation (4) once, with beta / T."""
    random = torch.Generator().manual_seed(rounds)
    draw = dict(generator=random, dtype=torch.float64)
    reward, start = torch.randn(4, 9, **draw), torch.randn(4, 9, **draw).log_softmax(-1)
    log_policy = start
    for _ in range(rounds):
        log_policy = optimal_log_policy(reward, log_policy, 0.3)
    assert_close(log_policy, optimal_log_policy(reward, start, 0.3 / rounds), rtol=0, atol=1e-12)
    once = optimal_log_policy(reward, start, 0.3)  # control: what a fixed one has, whatever T
    assert (rounds == 1) == torch.allclose(log_policy, once, atol=1e-6)


class AmongOthers(Processes):
    """Where a process without an item has a gradient of zeros, as among several."""

    def sum_gradients(self, parameters):
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("group", [Processes(), AmongOthers()])
def test_a_batch_without_a_pair_moves_nothing_and_says_so(tokenizer, tmp_path, group):
    """Beside batches that have some: weights and optimiser stay, the log has no NaN."""
    rare = lambda sequences: torch.tensor([float(y == (0, 0, EOS)) for _, y in sequences])  # noqa: E731
    changes = dict(batch_size=1, steps=12, refresh_every=12, reference="moving", seed=2)
    stage = make(tokenizer, tmp_path / "run", scores=rare, **changes)
    learner = Learner(stage)
    learner.group = group
    learner.start(None)
    empty = []
    for _ in range(12):
        before = state_hash(stage.policy), str(learner.optimizer.state_dict())
        line = learner.update()
        same = before == (state_hash(stage.policy), str(learner.optimizer.state_dict()))
        assert same == (line["pairs"] == 0) == ("loss" not in line)
        assert all(math.isfinite(value) for value in line.values())
        empty.append(same)
    assert True in empty[empty.index(False) :]  # momentum would have moved the weights


@pytest.mark.parametrize("found, said", [(0.5, "0.5"), (None, "-1 to 2")])
def test_a_round_in_which_all_completions_tie_is_refused_and_can_be_resumed(
    tokenizer, tmp_path, found, said
):
    """The judge is at fault from the third round on; mended, the run ends as if it never was."""
    options = dict(refresh_every=2)
    whole = make(tokenizer, tmp_path / "whole", **options)
    train(whole)
    rounds = []

    def faulty(sequences):
        rounds.append(0)
        if len(rounds) <= 2 * 2 * 2:  # calls: two rounds of 32 completions, 8 at a time
            return score(sequences)
        spread = [2.0 if prompt == (0,) else -1.0 for prompt, _ in sequences]
        return torch.tensor([spread[n] if found is None else found for n in range(len(sequences))])

    stage = make(tokenizer, tmp_path / "run", scores=faulty, **options)
    with pytest.raises(TrainingError) as error:
        train(stage)
    assert str(error.value) == (
        f"round 3: all completions of 16 prompts tie, with a score of {said}, so there is no pair "
        "to learn from; raise temperature or num_generations, or take another judge; the "
        "checkpoints are intact"
    )
    assert checkpoint.load(tmp_path / "run").step == 4
    train(make(tokenizer, tmp_path / "run", resume=True, **options))
    assert same_bytes(tmp_path / "whole", tmp_path / "run")


def test_a_score_that_is_not_finite_is_refused(tokenizer):
    stage = make(tokenizer, scores=lambda sequences: torch.full((len(sequences),), torch.inf))
    with pytest.raises(ValueError, match="scores must be finite, got inf at"):
        stage.start(1)


# What is kept


def same_bytes(one, other):
    """Logs, pairs, checkpoint and model of two runs."""
    names = ("metrics.jsonl", "pairs.jsonl", "model/model.safetensors")
    whole, parts = (checkpoint.load(run) for run in (one, other))
    assert whole.step == parts.step and whole.extras == parts.extras
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.equal(whole.tensors[name], parts.tensors[name]) for name in whole.tensors)
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def killed(stage, at):
    """Train until the update of step `at` is about to be taken, or its line is being written."""
    backward, kept, now = stage.backward, stage.kept, []
    start = stage.start
    stage.start = lambda number: (now.append(number), start(number))

    def fail(indices, share):
        if now[-1] == at:
            raise RuntimeError("killed")
        return backward(indices, share)

    def torn(step):
        if step == -at:
            raise RuntimeError("killed")
        return kept(step)

    stage.backward, stage.kept = fail, torn
    with pytest.raises(RuntimeError, match="killed"):
        train(stage)


@pytest.mark.parametrize("reference", ["fixed", "moving"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("ends", [(3,), (4, -4), (2, 5, 6)])
def test_a_killed_run_ends_with_the_same_bytes(tokenizer, tmp_path, reference, steps, ends):
    """Policy, reference, optimiser, what was drawn, log and pairs, in mid-round or not."""
    options = dict(reference=reference, refresh_every=steps, accumulate=2, save_every=2)
    train(make(tokenizer, tmp_path / "whole", **options))
    for number, end in enumerate(ends):
        killed(make(tokenizer, tmp_path / "parts", resume=number > 0, **options), end)
    train(make(tokenizer, tmp_path / "parts", resume=True, **options))
    assert same_bytes(tmp_path / "whole", tmp_path / "parts")
    names = checkpoint.load(tmp_path / "whole").tensors.keys()
    assert {"drawn/tokens", "drawn/scores", "drawn/ref_logps"} < names


def test_another_judge_is_not_resumed(tokenizer, tmp_path):
    killed(make(tokenizer, tmp_path / "run"), 2)
    other = make(tokenizer, tmp_path / "run", resume=True, judge="another")
    with pytest.raises(ValueError, match="reward"):
        train(other)


def test_what_the_main_process_finds_or_refuses_all_processes_do():
    main_one, other = Processes(0, 2), Processes(1, 2)
    sent = []
    main_one.gather = lambda value: sent.append(value) or [value, None]
    other.gather = lambda value: [sent[-1], value]
    assert main_one.from_main(lambda: 5) == other.from_main(lambda: 6) == 5

    def refuse():
        raise TrainingError("no")

    for group in (main_one, other):
        with pytest.raises(TrainingError, match="no"):
            group.from_main(refuse)


# From the disk


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    return small_world(folder, pairs=20, reviews=16, prompts=12, test=12)


def from_disk(named, out, **changes):
    told = dict(steps=4, reward="true", max_new_tokens=24, out=str(out))
    return small_run(OnlineDPO, OnlineDPOSettings, **told | named | changes)


def test_the_rows_train_in_dpo_dpo_and_are_scored_as_they_read(named, tmp_path):
    path, log = from_disk(named, tmp_path / "run")
    rows = [json.loads(line) for line in (path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == sum(line["pairs"] for line in log) > 8
    for row in rows:
        assert row["score_chosen"] == pytest.approx(reviews.reward(row["prompt"], row["chosen"]))
        assert row["score_rejected"] < row["score_chosen"]
    told = ["--model", named["model"], "--data", str(path / "pairs.jsonl"), "--max-length", "100"]
    told += ["--steps", "2", "--batch-size", "4", "--out", str(tmp_path / "dpo")]
    assert main(["dpo", *told]) == 0
    assert (tmp_path / "dpo/model/model.safetensors").exists()


def test_what_text_loses_of_a_pair_is_the_end_that_was_cut_and_another_reading(named, tmp_path):
    """Counted on a model of random weights, whose bytes are often no text: the worst case."""
    changes = dict(batch_size=12, refresh_every=4, steps=4)
    stage = OnlineDPO.from_settings(settings(named, tmp_path / "run", **changes))[0]
    path = train(stage)
    tokenizer = load_tokenizer(named["model"])
    rows, report = read_preferences(path / "pairs.jsonl", tokenizer)
    read = tokenize_preferences(rows, tokenizer, 100, report)
    drawn = [pair for pair in stage.pairs if pair is not None]
    assert len(read) == len(drawn) and [p.prompt for p in read] == [p.prompt for p in drawn]
    end = tokenizer.eos_token_id
    sides = [(getattr(a, n), getattr(b, n)) for a, b in zip(drawn, read, strict=True)
             for n in ("chosen", "rejected")]  # fmt: skip
    cut = [(ours, back) for ours, back in sides if ours[-1] != end]
    assert cut and all(back[-1] == end for _, back in cut)  # an end that nobody drew
    same = sum(ours in (back, back[:-1]) for ours, back in sides) / len(sides)
    text = [[tokenizer.decode(ids, skip_special_tokens=True) for ids in side] for side in sides]
    kept = sum(ours == back for ours, back in text) / len(text)
    print(f"{len(sides)} completions: {same:.0%} the same ids, {kept:.0%} the same text")
    assert kept == 1.0


def settings(named, out, **changes):
    told = dict(steps=4, reward="true", max_new_tokens=24, out=str(out), max_length=100, lr=1e-2)
    told |= dict(warmup_steps=0, dtype="float32", batch_size=6)
    return OnlineDPOSettings(**told | named | changes)


CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_conversations_are_kept_as_messages_and_read_by_the_chat_template(named, tmp_path):
    tokenizer = load_tokenizer(named["model"])
    tokenizer.chat_template = CHAT
    told = settings(named, tmp_path / "run", steps=1, max_length=120)
    policy = OnlineDPO.from_settings(told)[0].policy
    policy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    talks = [[{"role": "user", "content": text}] for text in ("A film?", "Which one, please?")]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": talk}) + "\n" for talk in talks))
    where = dict(model=str(tmp_path / "model"), data=str(file), max_length=120)
    told = settings(named | where, tmp_path / "talk", steps=2)
    stage = OnlineDPO.from_settings(told)[0]
    path = train(stage)
    rows = [json.loads(line) for line in (path / "pairs.jsonl").read_text().splitlines()]
    assert all(row["prompt"] in talks and row["chosen"][0]["role"] == "assistant" for row in rows)
    found, report = read_preferences(path / "pairs.jsonl", load_tokenizer(where["model"]))
    pairs = tokenize_preferences(found, tokenizer, 120, report)
    assert len(pairs) == len(rows) and {pair.prompt for pair in pairs} <= set(stage.prompts)


def test_a_program_that_dies_in_mid_run_leaves_a_run_that_goes_on(named, tmp_path, capfd):
    """By the command line: one line and exit code 2; mended, --resume ends as if nothing was."""
    script = (
        "import json, os, sys\n"
        "rows = [json.loads(line) for line in sys.stdin]\n"
        "if os.path.exists(sys.argv[1]) and os.path.getsize(sys.argv[1]) >= 2: sys.exit('tired')\n"
        "open(sys.argv[1], 'a').write('x')\n"
        "for row in rows: print(len(row['completion']))\n"
    )
    (tmp_path / "judge.py").write_text(script)
    calls = tmp_path / "calls"
    told = ["--model", named["model"], "--data", named["data"], "--steps", "4", "--save-every", "1"]
    told += ["--max-length", "100", "--max-new-tokens", "8", "--batch-size", "4", "--lr", "1e-3"]
    told += ["--reward", f"command:{sys.executable} {tmp_path / 'judge.py'} {calls}"]
    command = ["online", *told, "--out", str(tmp_path / "run")]
    assert main(command) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dpo: ")]
    assert len(said) == 1 and "failed with exit code 1: tired; mend the program" in said[0]
    for _ in range(3):
        calls.write_text("")
        main([*command, "--resume"])
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    (tmp_path / "judge.py").write_text(script.replace(">= 2", ">= 99"))
    assert main(["online", *told, "--out", str(tmp_path / "whole")]) == 0
    assert same_bytes(tmp_path / "whole", tmp_path / "run")


def test_it_is_watched_by_samples_and_the_best_is_saved(named, tmp_path):
    watched = dict(eval_data=named["data"], samples=4, eval_every=2, early_stopping_patience=1)
    watched |= dict(metric_for_best_model="objective/kl", reference="moving")
    path, log = from_disk(named, tmp_path / "run", **watched)
    figures = [line for line in log if "eval_objective/scores" in line]
    by_kl = {line["step"]: line["eval_objective/kl"] for line in figures}
    assert by_kl[0] == 0.0 != by_kl[2]
    best = min(by_kl, key=by_kl.get)
    assert max(by_kl) == min(best + 2, 4)  # ended after one that is no better
    weights = checkpoint.load_at(path, best).tensors
    saved = GPT2LMHeadModel.from_pretrained(path / "model").state_dict()
    names = [name for name in saved if f"policy/{name}" in weights]
    assert names and all(torch.equal(saved[name], weights[f"policy/{name}"]) for name in names)
    assert len(list((path / "samples.jsonl").open())) == 4 * len(by_kl)


@pytest.mark.parametrize(
    "change, line",
    [
        (dict(num_generations=1), "num_generations must be at least 2, got 1"),
        (dict(refresh_every=0), "refresh_every must be at least 1, got 0"),
        (dict(refresh_every=2), "refresh_every must be at most the 1 steps of the run, got 2"),
        (dict(temperature=0.0), "temperature must be positive and finite, got 0.0"),
        (dict(max_new_tokens=511), "max_new_tokens must be at most max_length - 2, got 511"),
        (dict(eval_data="rows"), "samples must be at least 1 with eval_data, got 0"),
        (dict(beta=0.0), "beta must be a positive, finite number, got 0.0"),
        (dict(loss="unlikelihood"), "the loss unlikelihood needs alpha"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(change, line):
    told = dict(model="-", data="-", out="-", reward="-", steps=1)
    with pytest.raises(ValueError) as error:
        OnlineDPOSettings(**told | change)
    assert str(error.value).startswith(line)
