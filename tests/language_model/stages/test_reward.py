"""The reward model of equation (2), trained by the one loop on known preferences."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_lib.language_model.data.reading import read_preferences
from dpo_lib.language_model.data.tokens import Pair, tokenize_preferences
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.hub import ModelError
from dpo_lib.language_model.models.policies import load_tokenizer, save_policy
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.settings import RewardSettings
from dpo_lib.language_model.stages.reward import Reward, correct, pair_rewards, rewards_of
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.worlds.data_set import write_world
from dpo_lib.losses import reward_loss

EOS, LOVED = 0, 5
PAIRS = [
    Pair((3, 1), (4, 1, 5, EOS), (4, 2, EOS)),
    Pair((2,), (7, EOS), (8, 9, 6, 3, 1, EOS)),
    Pair((5, EOS, 5), (8, 9, EOS), (9, 8, EOS)),
]


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<|endoftext|>", *"abcdefghijk"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def small_model(dtype=torch.float32, head=True):
    """Random weights and, unless it must be as at the start of training, a random head."""
    torch.manual_seed(3)
    shape = dict(vocab_size=12, n_layer=2, n_embd=32, n_head=2, n_positions=64)
    config = GPT2Config(**shape, bos_token_id=EOS, eos_token_id=EOS)
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        setattr(config, name, 0.0)
    model = RewardModel(GPT2LMHeadModel(config).to(dtype))
    if head:
        torch.nn.init.normal_(model.head.linear.weight)
    return model


def settings(tmp_path, **changes):
    given = dict(model="tiny", data="none", out=str(tmp_path / "run"), steps=60, batch_size=32)
    given |= dict(lr=2e-3, optimizer="adamw", warmup_steps=5, max_length=64, save_every=1000)
    return RewardSettings(**(given | changes))


def stage(tmp_path, tokenizer, pairs=PAIRS, model=None, **changes):
    changes = {"batch_size": 3} | changes
    model = small_model() if model is None else model
    return Reward(settings(tmp_path, **changes), model, tokenizer, pairs)


def counted_pairs(n, seed):
    """Completions of 1-8 random tokens; the one with more of one token was preferred."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        length = int(torch.randint(1, 9, (), generator=generator))
        return (*torch.randint(1, 12, (length,), generator=generator).tolist(), EOS)

    pairs = []
    while len(pairs) < n:
        one, other = draw(), draw()
        if one.count(LOVED) != other.count(LOVED):
            chosen, rejected = sorted((one, other), key=lambda ids: -ids.count(LOVED))
            pairs.append(Pair((1, 2), chosen, rejected))
    return pairs


def z_of_accuracy(model, pairs):
    """How many standard errors the accuracy is above that of a coin."""
    rewards = rewards_of(model, pairs)
    accuracy = correct(*rewards.unbind(1)).mean().item()
    return (accuracy - 0.5) / math.sqrt(0.25 / len(pairs))


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


# one micro-batch


def test_the_loss_starts_at_log_two_with_every_pair_tied(tmp_path, tokenizer):
    fresh = stage(tmp_path, tokenizer, model=small_model(head=False))
    sums = fresh.backward([0, 1, 2], share=1 / 3)
    assert sums["loss"].item() / 3 == pytest.approx(math.log(2), rel=1e-6)
    assert (sums["accuracy"], sums["margin"], sums["mean_reward"]) == (1.5, 0, 0)
    assert sums["num_tokens"] == (2 * 2 + 4 + 3) + (2 * 1 + 2 + 6) + (2 * 3 + 3 + 3)


def test_the_loss_its_gradient_and_the_metrics_are_those_of_equation_2_by_hand(tmp_path, tokenizer):
    ours = stage(tmp_path, tokenizer, model=small_model(torch.float64))
    sums = ours.backward([0, 1, 2], share=1 / 3)
    found = gradients(ours.model)
    ours.model.zero_grad()
    rewards = []
    for pair in PAIRS:  # each side alone, no padding
        for side in (pair.chosen, pair.rejected):
            hidden = ours.model.body(torch.tensor([[*pair.prompt, *side]])).last_hidden_state
            rewards.append(hidden[0, -1] @ ours.model.head.linear.weight[0])
    chosen, rejected = torch.stack(rewards).view(3, 2).unbind(1)
    losses = torch.log1p(torch.exp(-(chosen - rejected)))  # -log sigmoid, written out
    losses.mean().backward()
    assert_close(found, gradients(ours.model), rtol=1e-9, atol=1e-12)
    assert_close(sums["loss"], losses.sum().detach(), rtol=1e-12, atol=0)
    assert_close(sums["margin"], (chosen - rejected).sum().detach())
    assert_close(sums["mean_reward"], torch.stack([chosen, rejected]).mean(0).sum().detach())
    assert sums["accuracy"] == (chosen > rejected).sum()


def test_g1_the_gradient_is_that_of_the_mean_however_the_batch_is_split(tmp_path, tokenizer):
    whole = stage(tmp_path, tokenizer, model=small_model(torch.float64))
    whole.backward([0, 1, 2], share=1 / 3)
    parts = stage(tmp_path, tokenizer, model=small_model(torch.float64))
    for piece in ([2], [1, 0]):
        parts.backward(piece, share=1 / 3)
    assert_close(gradients(whole.model), gradients(parts.model), rtol=1e-10, atol=1e-13)


def test_under_bfloat16_the_weights_and_the_loss_stay_float32(tmp_path, tokenizer):
    exact = stage(tmp_path, tokenizer)
    rounded = stage(tmp_path, tokenizer, dtype="bfloat16")
    one, other = (ours.backward([0, 1, 2], 1 / 3) for ours in (exact, rounded))
    assert other["loss"].dtype == torch.float32
    assert {gradient.dtype for gradient in gradients(rounded.model)} == {torch.float32}
    assert other["loss"] != one["loss"]
    assert_close(other["loss"], one["loss"], rtol=0.05, atol=0)  # bfloat16 has 8 bits


def test_d7_chosen_and_rejected_swapped_turn_margin_and_accuracy_round(tmp_path, tokenizer):
    swapped = [Pair(pair.prompt, pair.rejected, pair.chosen) for pair in PAIRS]
    one = stage(tmp_path, tokenizer).backward([0, 1, 2], 1 / 3)
    other = stage(tmp_path, tokenizer, swapped).backward([0, 1, 2], 1 / 3)
    assert_close(one["margin"], -other["margin"])
    assert one["accuracy"] + other["accuracy"] == 3
    assert_close(one["loss"] - other["loss"], -one["margin"])  # L(z) - L(-z) = -z


def test_i3_identical_sides_give_log_two_and_no_gradient(tmp_path, tokenizer):
    same = [Pair((1, 2), (4, 5, EOS), (4, 5, EOS)), Pair((3,), (EOS,), (EOS,))]
    ours = stage(tmp_path, tokenizer, same, batch_size=2)
    sums = ours.backward([0, 1], share=1 / 2)
    assert sums["loss"].item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert (sums["accuracy"], sums["margin"]) == (1, 0)
    for gradient in gradients(ours.model):
        assert gradient.abs().max() < 1e-6  # two equal gradients that cancel, in float32


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=4),
)
def test_i4_a_constant_added_to_all_rewards_changes_no_loss(constant, rewards):
    chosen, rejected = torch.tensor(rewards, dtype=torch.float64).unbind(1)
    shifted = reward_loss(chosen + constant, rejected + constant)
    assert_close(shifted, reward_loss(chosen, rejected), rtol=1e-8, atol=1e-9)


def test_i4_the_shift_changes_neither_loss_nor_gradient(tmp_path, tokenizer):
    plain = stage(tmp_path, tokenizer, model=small_model(torch.float64))
    shifted = stage(tmp_path, tokenizer, model=small_model(torch.float64))
    shifted.model.normalise(1e6)
    one, other = (ours.backward([0, 1, 2], 1 / 3) for ours in (plain, shifted))
    assert_close(one["loss"], other["loss"], rtol=1e-9, atol=0)
    assert_close(gradients(plain.model), gradients(shifted.model), rtol=1e-8, atol=1e-9)


def test_d8_a_tie_counts_one_half():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    assert correct(*rewards.unbind(1)).tolist() == [1.0, 0.0, 0.5]


def test_pair_rewards_has_the_chosen_side_first():
    model = small_model(torch.float64)
    rewards = pair_rewards(model, PAIRS)
    alone = [model.score([(pair.prompt, pair.chosen)]) for pair in PAIRS]
    assert_close(rewards[:, 0], torch.cat(alone))
    assert_close(rewards_of(model, PAIRS, batch_size=2), rewards.detach())


def test_a_pair_longer_than_the_context_is_refused_before_the_first_step(tmp_path, tokenizer):
    long = [*PAIRS, Pair((1,) * 60, (2, 3, EOS), (4, 5, 6, 7, EOS))]
    with pytest.raises(ModelError, match="has 65 tokens, allowed are 1 to 64"):
        stage(tmp_path, tokenizer, long)


# whole runs


def test_a_rule_is_learnt_and_holds_on_pairs_not_seen(tmp_path, tokenizer):
    ours = stage(
        tmp_path, tokenizer, counted_pairs(512, seed=0), small_model(head=False), batch_size=32
    )
    run = train(ours)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert lines[0]["accuracy"] == 0.5
    assert lines[-1]["loss"] < 0.3 and lines[-1]["margin"] > 1
    trained = RewardModel.load(run / "model")
    assert z_of_accuracy(trained, counted_pairs(400, seed=1)) > 4
    rewards = rewards_of(trained, ours.pairs)
    assert rewards.mean().abs() < 1e-5 * rewards.abs().max()
    assert trained.shift == ours.model.shift != 0


def test_a_run_is_the_same_twice_and_another_seed_is_another(tmp_path, tokenizer):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        ours = stage(tmp_path / name, tokenizer, counted_pairs(40, 0), steps=3, seed=seed)
        train(ours)
        hashes.append(state_hash(RewardModel.load(tmp_path / name / "run/model")))
    assert hashes[0] == hashes[1] != hashes[2]


def test_k1_a_run_that_goes_on_ends_with_the_same_bytes(tmp_path, tokenizer):
    (tmp_path / "a").mkdir()
    pairs = counted_pairs(40, 0)
    whole = train(stage(tmp_path / "a", tokenizer, pairs, steps=6, save_every=3))
    cut = stage(tmp_path, tokenizer, pairs, steps=6, save_every=3)
    backward, calls = cut.backward, 0

    def dies(indices, share):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return backward(indices, share)

    cut.backward = dies
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    again = train(stage(tmp_path, tokenizer, pairs, steps=6, save_every=3, resume=True))
    for name in ("metrics.jsonl", "model/model.safetensors", "model/config.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


def test_on_the_built_in_reviews_the_held_out_accuracy_is_far_from_chance(tmp_path):
    world = tmp_path / "world"
    write_world(world, pairs=800, labels="deterministic", reviews=1, prompts=1, test=400)
    tokenizer = load_tokenizer("tiny", world)
    shape = dict(vocab_size=len(tokenizer), n_layer=1, n_embd=32, n_head=2, n_positions=256)
    torch.manual_seed(0)
    policy = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=EOS, eos_token_id=EOS))
    save_policy(policy, tokenizer, tmp_path / "sft")
    chosen = settings(
        tmp_path,
        model=str(tmp_path / "sft"),
        data=str(world),
        steps=80,
        lr=5e-3,
        max_length=256,
        max_grad_norm=1.0,
    )
    ours, report = Reward.from_settings(chosen)
    assert report.used == ours.items == 800
    run = train(ours)
    rows, held_out_report = read_preferences(world / "test_preferences.jsonl")
    held_out = tokenize_preferences(rows, tokenizer, 256, held_out_report)
    z = z_of_accuracy(RewardModel.load(run / "model"), held_out)
    assert z > 4
