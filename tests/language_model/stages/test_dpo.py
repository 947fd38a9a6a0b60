"""The stage `dpo`: equation (7) on a model, its first step, its log, and its reference."""

import json
import math
import shutil

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.policies import frozen_copy, load_policy
from dpo_lib.language_model.scoring import layouts
from dpo_lib.language_model.scoring.logprobs import plain_logps
from dpo_lib.language_model.settings import DPOSettings
from dpo_lib.language_model.stages import dpo
from dpo_lib.language_model.stages.dpo import DPO, reward_metrics
from dpo_lib.language_model.stages.shared import reference_scores
from dpo_lib.language_model.stages.shared.reference_scores import load_scores, save_scores
from dpo_lib.language_model.training import progress
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.training.parallel.processes import Processes
from dpo_lib.losses import dpo_loss
from dpo_lib.variants import LOSSES, choose_loss

torch.set_num_threads(1)
WORDS = [f"w{i}" for i in range(30)]
GOOD, BAD = WORDS[20:25], WORDS[25:30]
LN2 = math.log(2)


def make_tokenizer(words=WORDS):
    vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *words])}
    model = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>")


def gpt2(seed=0, dropout=0.0, dtype=torch.float32):
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    shape = dict(vocab_size=32, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**shape, **rates, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # far from uniform
    return model.to(dtype)


def random_pairs(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(most):
        length = int(torch.randint(1, most + 1, (), generator=generator))
        return tuple(torch.randint(2, 32, (length,), generator=generator).tolist())

    return [Pair(ids(6), (*ids(9), 0), (*ids(9), 0)) for _ in range(n)]


@pytest.fixture
def world(tmp_path):
    """A folder with a model whose configuration has dropout 1/2, and data of good and bad words."""
    tokenizer = make_tokenizer()
    for name, seed in (("model", 0), ("other", 1)):
        gpt2(seed, dropout=0.5).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    generator = torch.Generator().manual_seed(3)

    def draw(words, most=7):
        count = int(torch.randint(1, most, (), generator=generator))
        return " ".join(
            words[int(i)] for i in torch.randint(len(words), (count,), generator=generator)
        )

    rows = [dict(prompt=draw(WORDS[:20]), chosen=draw(GOOD), rejected=draw(BAD)) for _ in range(26)]
    rows = [row for row in rows if row["chosen"] != row["rejected"]]
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def settings_for(world, **changes):
    changes = dict(model=str(world / "model"), data=str(world), out=str(world / "run")) | changes
    return DPOSettings(
        **dict(steps=1, batch_size=8, lr=1e-3, warmup_steps=0, dtype="float32") | changes
    )


def run(world, **changes):
    """Train from settings; the lines of the log."""
    stage, _ = DPO.from_settings(settings_for(world, **changes))
    folder = train(stage)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def make_stage(tmp_path, pairs=None, policy=None, reference=None, **changes):
    policy = gpt2() if policy is None else policy
    reference = frozen_copy(gpt2(1, dtype=policy.dtype)) if reference is None else reference
    pairs = random_pairs() if pairs is None else pairs
    (tmp_path / "run").mkdir(exist_ok=True)
    changes = dict(steps=9, batch_size=4) | changes
    return DPO(settings_for(tmp_path, **changes), policy, reference, make_tokenizer(), pairs)


def by_hand(model, pairs):
    """Log-probabilities of whole completions, one sequence at a time, shape (pairs, 2)."""
    sides = [[(p.prompt, p.chosen), (p.prompt, p.rejected)] for p in pairs]
    return torch.stack([torch.stack([t.sum() for t in plain_logps(model, s)]) for s in sides])


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (8, 3), (7, 7), (25, 2)])
def test_at_the_first_step_the_loss_is_log_two_and_no_pair_is_preferred(
    world, batch_size, accumulate
):
    """D8, E1, E4: exactly, whatever the batch, and with dropout 1/2 in the configuration."""
    config = json.loads((world / "model/config.json").read_text())
    assert config["resid_pdrop"] == config["attn_pdrop"] == config["embd_pdrop"] == 0.5
    first, *_ = run(world, batch_size=batch_size, accumulate=accumulate)
    assert first["loss"] == pytest.approx(LN2, abs=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert first[name] == 0.0
    assert first["rewards/accuracies"] == pytest.approx(0.5, abs=1e-15)


def test_margins_are_zero_for_the_whole_first_epoch_of_a_policy_that_does_not_move(world):
    lines = run(world, steps=3, batch_size=10, lr=1e-30, accumulate=3)  # 1e-30 is lost in rounding
    assert [line["rewards/margins"] for line in lines] == [0, 0, 0]


def test_two_scorings_during_a_training_step_are_bit_equal(world):  # E1
    stage, _ = DPO.from_settings(settings_for(world))
    assert stage.policy.training
    once, again = (list(stage.logps(stage.policy, [0, 1, 2])) for _ in range(2))
    for (_, first), (_, second) in zip(once, again, strict=True):
        assert torch.equal(first, second)


def test_the_log_shows_which_column_was_chosen(world):  # D7
    (world / "swapped").mkdir()
    rows = [json.loads(line) for line in (world / "preferences.jsonl").read_text().splitlines()]
    rows = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (world / "swapped/preferences.jsonl").write_text(text)
    last = run(world, steps=20)[-1]
    swapped = run(world, steps=20, data=str(world / "swapped"), out=str(world / "swapped/run"))[-1]
    for line in (last, swapped):  # each learned its own column
        assert line["rewards/chosen"] > 0 > line["rewards/rejected"]
        assert line["rewards/margins"] > 0
        assert line["rewards/accuracies"] == 1
        assert line["loss"] < LN2
    # The words of the first run's chosen column are the second run's rejected ones.
    good, bad = (
        _mean_logps(world / "run/model", rows),
        _mean_logps(world / "swapped/run/model", rows),
    )
    assert good[1] - good[0] > 1 and bad[0] - bad[1] > 1


def _mean_logps(folder, rows):
    tokenizer = make_tokenizer()
    model = load_policy(str(folder), tokenizer)
    encode = lambda text: tuple(tokenizer(text)["input_ids"])  # noqa: E731
    pairs = [Pair(*(encode(row[key]) for key in ("prompt", "chosen", "rejected"))) for row in rows]
    with torch.no_grad():
        return by_hand(model, pairs).mean(0).tolist()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-11)])
def test_a_step_has_the_loss_and_gradient_of_equation_7_at_plain_log_probabilities(
    tmp_path, dtype, tolerance
):  # D1, D2
    stage = make_stage(tmp_path, policy=gpt2(dtype=dtype), beta=0.3)
    reference = stage.reference
    indices = [5, 0, 11, 3]
    stage.start(1)
    metrics = stage.backward(indices, share=1 / 4)
    gradients = [parameter.grad.clone() for parameter in stage.policy.parameters()]

    pairs = [stage.pairs[index] for index in indices]
    policy_logps, ref_logps = by_hand(stage.policy, pairs), by_hand(reference, pairs)
    losses = dpo_loss(*policy_logps.unbind(-1), *ref_logps.unbind(-1), 0.3)
    wanted = torch.autograd.grad(losses.mean(), list(stage.policy.parameters()))
    close = dict(atol=tolerance, rtol=tolerance)
    assert_close(metrics["loss"], losses.sum().detach(), **close)
    for gradient, plain in zip(gradients, wanted, strict=True):
        assert_close(gradient, plain, **close)
    rewards = 0.3 * (policy_logps - ref_logps).sum(0).detach()
    assert_close(
        torch.stack([metrics["rewards/chosen"], metrics["rewards/rejected"]]), rewards, **close
    )
    logps = torch.stack([metrics["logps/chosen"], metrics["logps/rejected"]])
    assert_close(logps, policy_logps.sum(0).detach(), **close)
    assert metrics["num_tokens"] == sum(
        2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs
    )


@pytest.mark.parametrize("size", [1, 3, 5])
def test_micro_batches_add_up_to_the_batch(tmp_path, size):  # G1
    whole = make_stage(tmp_path, policy=gpt2(dtype=torch.float64))
    split = make_stage(tmp_path, policy=gpt2(dtype=torch.float64))
    sums: dict = {}
    for stage in (whole, split):
        stage.start(1)
    wanted = whole.backward(list(range(12)), 1 / 12)
    for start in range(0, 12, size):
        for name, value in split.backward(list(range(12))[start : start + size], 1 / 12).items():
            sums[name] = sums.get(name, 0) + value
    for name, value in wanted.items():
        assert float(sums[name]) == pytest.approx(float(value), rel=1e-12, abs=1e-12)
    for one, other in zip(whole.policy.parameters(), split.policy.parameters(), strict=True):
        assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_the_metrics_worked_by_hand():  # D7, D8: a tie counts one half
    metrics = reward_metrics(
        policy_chosen_logps=torch.tensor([-1.0, -2.0, -5.0]),
        policy_rejected_logps=torch.tensor([-3.0, -4.0, -1.0]),
        ref_chosen_logps=torch.tensor([-2.0, -2.0, -2.0]),
        ref_rejected_logps=torch.tensor([-2.0, -4.0, -3.0]),
        beta=0.5,
    )
    assert metrics["rewards/chosen"].tolist() == [0.5, 0.0, -1.5]
    assert metrics["rewards/rejected"].tolist() == [-0.5, 0.0, 1.0]
    assert metrics["rewards/margins"].tolist() == [1.0, 0.0, -2.5]
    assert metrics["rewards/accuracies"].tolist() == [1.0, 0.5, 0.0]
    assert metrics["logps/chosen"].tolist() == [-1.0, -2.0, -5.0]
    assert metrics["logps/rejected"].tolist() == [-3.0, -4.0, -1.0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_the_family_starts_at_its_value_for_policy_equal_to_reference(world, name):
    settings = {"label_smoothing": 0.1} if "label_smoothing" in LOSSES[name].settings else {}
    settings |= {"alpha": 0.5} if name == "unlikelihood" else {}
    settings |= {"rdpo_alpha": 0.3} if name == "rdpo" else {}
    stage, _ = DPO.from_settings(settings_for(world, loss=name, beta=0.2, **settings))
    before = by_hand(stage.policy, stage.pairs).double().detach()
    folder = train(stage)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    batch = batch_indices(0, 1, 8, stage.items)
    logps = before[batch].T
    lengths = torch.tensor([[len(p.chosen), len(p.rejected)] for p in stage.pairs])[batch].T
    losses = choose_loss(name, 0.2, **settings)(*logps, *logps, *lengths)
    assert first["loss"] == pytest.approx(losses.mean().item(), rel=1e-5, abs=1e-6)
    if name not in ("unlikelihood", "rdpo", "simpo", "orpo"):  # those see more than a log-ratio
        zero = torch.zeros(1, dtype=torch.float64)
        at_0 = choose_loss(name, 0.2, **settings)(zero, zero, zero, zero, zero + 1, zero + 1)
        assert first["loss"] == pytest.approx(at_0.item(), rel=1e-6, abs=1e-6)
    assert first["rewards/margins"] == 0  # of (5), also where the loss has no reference
    assert ("nll_loss" in first) == (name == "orpo")


SEVERAL = {
    "rdpo": dict(loss="rdpo", rdpo_alpha=0.3),
    "sigmoid_norm": dict(loss="sigmoid_norm", beta=5.0),
    "simpo": dict(loss="simpo", beta=2.0, simpo_gamma=1.0),
    "orpo": dict(loss="orpo", beta=0.5),
    "dpop": dict(loss="dpop", dpop_lambda=5.0),
    "rpo": dict(rpo_alpha=0.5),
    "forward_kl": dict(f_divergence_type="forward_kl"),
    "alpha 2, and SFT": dict(
        loss="hinge", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=2.0,
        rpo_alpha=1.0,
    ),
    "js per token": dict(loss="sigmoid_norm", f_divergence_type="js_divergence"),
}  # fmt: skip


@pytest.mark.parametrize("told", SEVERAL.values(), ids=SEVERAL)
def test_a_step_has_the_loss_and_gradient_of_its_function_at_plain_log_probabilities_and_lengths(
    tmp_path, told
):
    stage = make_stage(tmp_path, policy=gpt2(dtype=torch.float64), **told)
    reference, indices = stage.reference, [5, 0, 11, 3]
    stage.start(1)
    metrics = stage.backward(indices, share=1 / 4)
    gradients = [parameter.grad.clone() for parameter in stage.policy.parameters()]
    pairs = [stage.pairs[index] for index in indices]
    policy_logps, ref_logps = by_hand(stage.policy, pairs), by_hand(reference, pairs)
    lengths = torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs])
    assert (lengths[:, 0] != lengths[:, 1]).any()
    function = choose_loss(**dict(name="sigmoid", beta=0.1) | {
        "name" if key == "loss" else key: value for key, value in told.items()
    })  # fmt: skip
    losses = function(*policy_logps.T, *ref_logps.T, *lengths.T)
    wanted = torch.autograd.grad(losses.mean(), list(stage.policy.parameters()))
    close = dict(atol=1e-11, rtol=1e-11)
    assert_close(metrics["loss"], losses.sum().detach(), **close)
    for gradient, plain in zip(gradients, wanted, strict=True):
        assert_close(gradient, plain, **close)
    if told.get("loss") == "orpo" or "rpo_alpha" in told:
        nll = -(policy_logps[:, 0] / lengths[:, 0]).sum().detach()
        assert_close(metrics["nll_loss"], nll, **close)
    else:
        assert "nll_loss" not in metrics


@pytest.mark.parametrize("told", [SEVERAL["simpo"], SEVERAL["alpha 2, and SFT"]])
def test_held_out_pairs_have_the_same_loss_and_a_resumed_run_ends_with_the_same_bytes(world, told):
    rows = [json.loads(line) for line in (world / "preferences.jsonl").read_text().splitlines()]
    rows = [row | {"chosen": f"{row['chosen']} w0"} for row in rows[:9]]
    (world / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = dict(steps=6, save_every=1, eval_data=str(world / "held_out.jsonl"), eval_every=3)
    whole = run(world, **told, **quick)
    measured = [line for line in whole if "eval_loss" in line]
    assert [line["step"] for line in measured] == [0, 3, 6]
    assert ("eval_nll_loss" in measured[0]) == ("rpo_alpha" in told)
    before = (world / "run/metrics.jsonl").read_bytes()
    stage, _ = DPO.from_settings(settings_for(world, out=str(world / "cut"), **told, **quick))
    start = stage.start

    def die(step):
        if step == 4:
            raise Killed
        start(step)

    stage.start = die
    with pytest.raises(Killed):
        train(stage)
    run(world, out=str(world / "cut"), resume=True, **told, **quick)
    assert (world / "cut/metrics.jsonl").read_bytes() == before


def test_with_no_weight_of_its_own_a_term_changes_no_bit_of_a_run(world):
    plain = run(world, steps=3)
    for name, told in (("rpo", dict(rpo_alpha=0.0)), ("dpop", dict(loss="dpop", dpop_lambda=0.0))):
        lines = run(world, steps=3, out=str(world / name), **told)
        for line in lines:
            line.pop("nll_loss", None)
        assert lines == plain


def test_settings_without_effect_are_refused_by_name(tmp_path):  # D5
    for changes, problem in (
        (
            dict(loss="hinge", label_smoothing=0.1),
            "label_smoothing has no effect on the loss hinge",
        ),
        (dict(alpha=0.5, loss="ipo"), "alpha has no effect on the loss ipo"),
        (
            dict(loss="cdpo", label_smoothing=0.5),
            r"label_smoothing must lie in \[0, 1/2\), got 0.5",
        ),
        (dict(loss="dpo"), "loss must be one of sigmoid, "),
        (dict(loss="orpo", rpo_alpha=1.0), "orpo has an SFT term already: leave out rpo_alpha"),
        (dict(simpo_gamma=1.0), "simpo_gamma has no effect on the loss sigmoid, only on simpo"),
        (dict(f_divergence_type="kl"), "f_divergence_type must be one of reverse_kl, "),
        (dict(f_alpha_divergence_coef=0.5), "f_alpha_divergence_coef has no effect on reverse_kl"),
        (dict(beta=0.0), "beta must be a positive, finite number, got 0.0"),
    ):
        with pytest.raises(ValueError, match=f"^{problem}"):
            settings_for(tmp_path, **changes)


def count_scorings(monkeypatch):
    """A list that grows with every scoring: the model and the pairs."""
    calls, scored = [], dpo.pair_logps_in_parts

    def counted(model, pairs, context):
        calls.append((model, pairs))
        return scored(model, pairs, context)

    monkeypatch.setattr(dpo, "pair_logps_in_parts", counted)
    return calls


def test_the_reference_scores_each_pair_once_before_the_first_step(world, monkeypatch):
    calls = count_scorings(monkeypatch)
    lines = run(world, steps=12, accumulate=2)  # three epochs
    assert lines[-1]["epoch"] == 3
    items = len((world / "preferences.jsonl").read_text().splitlines())
    policy = calls[-1][0]
    of_reference = [pairs for model, pairs in calls if model is not policy]
    assert sum(map(len, of_reference)) == items
    assert all(model is not policy for model, _ in calls[: len(of_reference)])


def test_a_reference_that_takes_long_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET", 0)
    make_stage(tmp_path, steps=2).start(1)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "reference" in line] == [
        "the reference scores the data: 0%",
        "the reference scores the data: 50%",
    ]


def test_a_run_of_less_than_an_epoch_scores_only_what_it_meets(tmp_path):
    stage = make_stage(tmp_path, steps=2)
    stage.start(1)
    met = ~stage.ref_logps.isnan().any(-1)
    assert met.sum() == 8  # two batches of four


def test_a_pair_longer_than_the_context_is_refused_before_the_reference_scores(tmp_path):  # L2
    long = Pair((2,) * 20, (3,), (4,) * 20)
    with pytest.raises(ValueError, match=r"^40 tokens in a sequence, .* set max_length to 32"):
        make_stage(tmp_path, pairs=[*random_pairs(), long])


def test_scores_follow_their_pairs_when_data_are_reordered_or_fewer(tmp_path):  # D9
    pairs = random_pairs()
    whole = make_stage(tmp_path, pairs)
    whole.start(1)
    some = [7, 2, 11, 0, 5]
    part = make_stage(tmp_path, [pairs[index] for index in some])  # in the same folder
    part.start(1)
    assert_close(part.ref_logps, whole.ref_logps[some], rtol=1e-6, atol=0)
    assert_close(whole.ref_logps, by_hand(frozen_copy(gpt2(1)), pairs), rtol=1e-5, atol=0)


def test_scores_are_taken_from_the_run_s_folder_bit_for_bit(tmp_path, monkeypatch):  # D9
    first = make_stage(tmp_path)
    first.start(1)
    calls = count_scorings(monkeypatch)
    second = make_stage(tmp_path)
    second.start(4)
    assert torch.equal(first.ref_logps, second.ref_logps)
    assert calls == [] and second.reference is None


STALE = {  # what is another, and what the line calls it
    "data": dict(pairs=random_pairs(seed=1)),
    "data, in another order": dict(pairs=random_pairs()[::-1]),
    "model": dict(reference=frozen_copy(gpt2(2))),
    "batches": dict(seed=5),
    "batches, larger": dict(batch_size=5),
    "precision": dict(dtype="bfloat16"),
    "mask": {},
}


@pytest.mark.parametrize("name", STALE)
def test_scores_of_another_run_are_never_used(tmp_path, monkeypatch, capsys, name):  # D9
    changes = STALE[name]
    make_stage(tmp_path).start(1)
    path = tmp_path / "run/reference.safetensors"
    before = path.read_bytes()
    if name == "mask":
        monkeypatch.setattr(reference_scores, "MASK", "the prompt too")
    calls = count_scorings(monkeypatch)
    stage = make_stage(tmp_path, **changes)
    reference = stage.reference
    stage.start(1)
    what = name.partition(",")[0]
    said = capsys.readouterr().err
    assert said == f"{path}: not used, it is of another {what}; scoring again\n"
    assert sum(len(pairs) for _, pairs in calls) == 12
    tolerance = 1e-2 if name == "precision" else 1e-5
    assert_close(stage.ref_logps, by_hand(reference, stage.pairs), rtol=tolerance, atol=0)
    assert path.read_bytes() != before


def test_a_longer_run_asks_for_what_is_missing_and_for_nothing_else(tmp_path, monkeypatch):
    """Of another stage in the same folder, and of the same stage: no score is ever NaN."""
    make_stage(tmp_path, steps=2).start(1)
    calls = count_scorings(monkeypatch)
    stage = make_stage(tmp_path, steps=9)
    stage.start(1)
    assert sum(len(pairs) for _, pairs in calls) == 4 and stage.reference is None
    whole = make_stage(tmp_path / "..", steps=9, out=str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    whole.start(1)
    assert torch.equal(stage.ref_logps, whole.ref_logps)


def test_a_stage_that_goes_on_beyond_its_run_has_the_scores_for_it(tmp_path):
    stage = make_stage(tmp_path, steps=2)
    stage.start(1)
    assert stage.ref_logps.isnan().any() and stage.reference is not None
    stage.start(3)
    batch = batch_indices(0, 3, 4, 12)
    assert stage.backward(batch, 1 / 4)["loss"].isfinite()
    assert not stage.ref_logps.isnan().any() and stage.reference is None


@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "empty", "a folder", "another format"])
def test_damaged_scores_are_computed_again(tmp_path, damage):
    stage = make_stage(tmp_path)
    stage.start(1)
    path = tmp_path / "run/reference.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes(
            {"a flipped bit": flipped, "cut": whole[:-9], "empty": b"", "another format": b"{}"}[
                damage
            ]
        )
    again = make_stage(tmp_path)
    again.start(1)
    assert torch.equal(again.ref_logps, stage.ref_logps)
    assert path.read_bytes() == whole
    assert [p.name for p in (tmp_path / "run").iterdir()] == [path.name]


def test_scores_come_back_under_their_key_only(tmp_path):
    path, key = tmp_path / "scores", {"data": "a", "model": "b"}
    logps = torch.tensor([[-1.5, -2.5], [torch.nan, torch.nan]])
    save_scores(path, key, logps)
    found, stale = load_scores(path, key)
    assert_close(found, logps, equal_nan=True, rtol=0, atol=0)
    assert stale == []
    assert load_scores(path, key | {"data": "c"}) == (None, ["data"])
    assert load_scores(path, key | {"mask": "d"}) == (None, ["mask"])
    assert load_scores(tmp_path / "nothing", key) == (None, [])
    with pytest.raises(ValueError, match=r"nowhere/scores: cannot save: .*No such file"):
        save_scores(tmp_path / "nowhere/scores", key, logps)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cache", ["kept", "lost"])
def test_a_resumed_run_measures_from_the_first_policy_not_from_the_resumed_one(
    world, monkeypatch, cache
):
    """E2: the reference's scores and everything after are bit-equal with and without a resume."""
    quick = dict(steps=6, save_every=1)
    whole, _ = DPO.from_settings(settings_for(world, out=str(world / "whole"), **quick))
    train(whole)
    stage, _ = DPO.from_settings(settings_for(world, **quick))
    start = stage.start

    def die(step):
        if step == 4:
            raise Killed
        start(step)

    monkeypatch.setattr(stage, "start", die)
    with pytest.raises(Killed):
        train(stage)
    if cache == "lost":
        (world / "run/reference.safetensors").unlink()
    resumed, _ = DPO.from_settings(settings_for(world, resume=True, **quick))
    train(resumed)
    assert torch.equal(resumed.ref_logps, whole.ref_logps)
    assert state_hash(resumed.policy) == state_hash(whole.policy)
    logs = [(world / name / "metrics.jsonl").read_bytes() for name in ("run", "whole")]
    assert logs[0] == logs[1]
    assert whole.fingerprint["reference"] in (world / "run/settings.json").read_text()


def test_a_resume_with_another_reference_is_refused_by_name(world):  # E2
    shutil.copytree(world / "model", world / "reference")
    run(world, reference=str(world / "reference"))
    shutil.rmtree(world / "reference")
    shutil.copytree(world / "other", world / "reference")
    with pytest.raises(ValueError, match=r"--resume with other settings: reference \(hash\)"):
        run(world, reference=str(world / "reference"), resume=True)


def test_the_reference_is_the_named_model_or_the_first_policy(world):
    own, _ = DPO.from_settings(settings_for(world))
    named, _ = DPO.from_settings(settings_for(world, reference=str(world / "other")))
    assert own.fingerprint["reference"] == own.fingerprint["model"]
    assert named.fingerprint["model"] == own.fingerprint["model"]
    other = load_policy(str(world / "other"), make_tokenizer())
    assert named.fingerprint["reference"] == state_hash(other) != own.fingerprint["reference"]


@pytest.mark.parametrize("name", [None, "model", "other"])
def test_the_reference_is_frozen_and_shares_nothing_with_the_policy(world, name):  # E3
    reference = None if name is None else str(world / name)
    stage, _ = DPO.from_settings(settings_for(world, reference=reference, steps=3))
    frozen, before = stage.reference, stage.fingerprint["reference"]
    assert not frozen.training
    own = {parameter.data_ptr() for parameter in stage.policy.parameters()}
    assert not own & {parameter.data_ptr() for parameter in frozen.parameters()}
    train(stage)
    assert state_hash(frozen) == before
    assert state_hash(stage.policy) != stage.fingerprint["model"]
    for parameter in frozen.parameters():
        assert parameter.grad is None and not parameter.requires_grad


def test_a_reference_that_cannot_be_compared_is_refused(world, tmp_path):  # E4
    make_tokenizer(WORDS[::-1]).save_pretrained(world / "other")
    told = (
        r"reference .*other: its tokenizer is not that of .*: '.*' is token \d+, there token \d+; "
    )
    with pytest.raises(ValueError, match=told):
        DPO.from_settings(settings_for(world, reference=str(world / "other")))
    half = frozen_copy(gpt2(dtype=torch.bfloat16))
    with pytest.raises(
        ValueError, match=r"the reference is torch.bfloat16, the policy torch.float32"
    ):
        make_stage(tmp_path, reference=half)


def test_processes_share_the_scoring_and_have_all_scores(tmp_path, monkeypatch):
    alone = make_stage(tmp_path, accumulate=2)
    alone.start(1)

    def scores(rank, exchange):
        (tmp_path / str(rank)).mkdir(exist_ok=True)
        group = Processes(rank, 2)
        group.main = False  # nothing is kept
        group.gather = lambda value: exchange if torch.is_tensor(value) else [value]
        monkeypatch.setattr(reference_scores, "processes", lambda: group)
        stage = make_stage(tmp_path, accumulate=2, out=str(tmp_path / str(rank)))
        stage.start(1)
        return stage.ref_logps

    parts = [scores(rank, []) for rank in range(2)]  # before the exchange
    mine = [~part.isnan().any(-1) for part in parts]
    assert torch.equal(mine[0], ~mine[1]) and mine[0].sum() == 6  # each pair by one process
    assert_close(scores(0, parts), alone.ref_logps, rtol=1e-6, atol=0)


def test_the_saved_model_is_the_trained_policy_in_the_hub_s_format(world):
    stage, report = DPO.from_settings(settings_for(world, steps=2))
    folder = train(stage)
    saved = GPT2LMHeadModel.from_pretrained(folder / "model")
    assert state_hash(saved) == state_hash(stage.policy)
    assert report.used == stage.items
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()


@pytest.mark.parametrize("streams", [True, False])
def test_a_run_says_which_layout_its_tokens_have_and_why(world, capsys, monkeypatch, streams):
    if not streams:
        monkeypatch.setattr(layouts, "_not_streamed", lambda model: "it has a sliding_window")
    stage, _ = DPO.from_settings(settings_for(world))
    layout = "a stream without padding" if streams else "padded rows (it has a sliding_window)"
    folder, tokens = train(stage), sum(pair.tokens for pair in stage.pairs)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("DPO on cpu: float32 weights, computed in float32, attention sdpa, ")
    assert f"layout {layout}, " in line
    assert f"{stage.items} items of {tokens:,} tokens, 1 steps of 8" in line
    about = json.loads((folder / "settings.json").read_text())["about"]
    assert (about["layout"], about["attention"], about["tokens"]) == (layout, "sdpa", tokens)
    assert about["trained"] == sum(p.numel() for p in stage.policy.parameters())
