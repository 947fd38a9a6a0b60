"""PPO on language models so small that every completion can be listed."""

import itertools
import json
import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.policies import frozen_copy, load_policy
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.scoring import layouts
from dpo_lib.language_model.scoring.logprobs import plain_logps
from dpo_lib.language_model.settings import PPOSettings, TrainingError
from dpo_lib.language_model.stages.ppo import PPO
from dpo_lib.language_model.stages.ppo_terms import ValueModel
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.loop import train
from dpo_lib.language_model.worlds import reviews, write_world
from dpo_lib.objective import expected_reward, kl_divergence, objective, optimal_log_policy

EOS = 3
PROMPTS = [(0,), (1, 2), (2,)]
# Every completion of at most two tokens: it ends in EOS, or is cut.
COMPLETIONS = [(EOS,), *itertools.product(range(EOS), range(EOS + 1))]
SHAPE = dict(vocab_size=EOS + 1, n_layer=1, n_embd=16, n_head=2, n_positions=16)


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<eos>": EOS}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")


def model(seed=0, spread=0.3, dtype=torch.float32, dropout=0.0):
    """Random weights, large enough for distributions that are far from uniform."""
    config = GPT2Config(
        **SHAPE,
        attn_pdrop=dropout,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        initializer_range=spread,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).to(dtype)


REWARD = torch.randn(3, len(COMPLETIONS), generator=torch.Generator().manual_seed(15)).double()


def score(sequences):
    return torch.stack([REWARD[PROMPTS.index(x), COMPLETIONS.index(y)] for x, y in sequences])


@torch.no_grad()
def table(lm, temperature=1.0):
    """log pi(y | x) of every completion, shape (prompts, completions), float64."""
    sequences = list(itertools.product(PROMPTS, COMPLETIONS))
    logps = [row.double().sum() for row in plain_logps(lm, sequences, temperature)]
    log_policy = torch.stack(logps).view(len(PROMPTS), len(COMPLETIONS))
    return log_policy.log_softmax(-1)  # takes off float32's rounding, 1e-7


def make(tokenizer, out="none", policy=None, reference=None, scores=score, **changes):
    settings = dict(model="-", data="-", out=str(out), reward="-", max_new_tokens=2)
    settings |= dict(steps=10, batch_size=32, save_every=10_000, log_every=10_000, beta=0.5)
    policy = policy or model()
    return PPO(
        PPOSettings(**settings | changes),
        policy=policy,
        reference=frozen_copy(reference or policy).to(policy.dtype),
        value=ValueModel(policy),
        tokenizer=tokenizer,
        prompts=PROMPTS,
        score=scores,
        judge="a table",
    )


def step(stage, parts=1):
    """Gradients of the whole iteration as one minibatch in some parts; returns its means."""
    share = 1 / stage.weight(list(range(stage.items)))
    size = stage.items // parts
    sums = {}
    for part in range(parts):
        found = stage.backward(list(range(part * size, (part + 1) * size)), share)
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
    return {name: value * share for name, value in sums.items()}


def gradients(stage, parts=1):
    means = step(stage, parts)
    grads = torch.cat([p.grad.flatten() for m in stage.modules.values() for p in m.parameters()])
    return grads, means


# Where it ends


@pytest.fixture
def padded_rows(monkeypatch):
    """Rows instead of one stream: faster for a crowd of completions of two tokens."""
    monkeypatch.setattr(layouts, "_not_streamed", lambda model: "a test")


def test_ppo_climbs_to_equation_4(tokenizer, tmp_path, padded_rows):
    """The closed form, which PPO is never told: within 0.01 of the largest objective.

    At the optimum the shaped reward is the same for every completion, so that the noise of the
    draws ends there; advantages are not whitened, which would blow it up again.
    """
    options = dict(steps=300, batch_size=128, lr=5e-3, epochs=2, whiten=False)
    stage = make(tokenizer, tmp_path / "run", **options)
    log_ref = table(stage.reference)
    star = optimal_log_policy(REWARD, log_ref, 0.5)
    train(stage)
    log_policy = table(stage.policy)
    best, ours, start = (objective(x, REWARD, log_ref, 0.5) for x in (star, log_policy, log_ref))
    assert (ours <= best + 1e-6).all() and (best - ours).max() < 0.01
    assert (best - start).min() > 0.3  # there was something to climb
    # Section 3: E[r] - beta KL is what the log says, but for the noise of 128 draws.
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    logged = sum(json.loads(line)["objective/rlhf_reward"] for line in lines[-20:]) / 20
    assert abs(logged - best.mean()) < 0.05
    # What is still to come at the prompt is the objective itself.
    values = torch.cat(stage.value([(prompt, (EOS,)) for prompt in PROMPTS])).detach().double()
    assert_close(values, best, rtol=0, atol=0.1)


def test_without_the_kl_ppo_goes_to_the_best_completion(tokenizer, tmp_path, padded_rows):
    """The best is each prompt's third most likely one, so that it is drawn now and then.

    Control: with the KL, at beta = 0.5, it gets no more than equation (4) gives it.
    """
    policy = model()
    third = table(policy).topk(3).indices[:, 2]
    prize = torch.nn.functional.one_hot(third, len(COMPLETIONS)).double()

    def found(name, beta):
        def scores(sequences):
            return torch.stack(
                [prize[PROMPTS.index(x), COMPLETIONS.index(y)] for x, y in sequences]
            )

        options = dict(steps=120, batch_size=128, lr=5e-3, epochs=2, beta=beta, whiten=False)
        stage = make(tokenizer, tmp_path / name, model(), scores=scores, **options)
        train(stage)
        return table(stage.policy).exp().gather(-1, third.unsqueeze(-1)).squeeze(-1)

    assert (found("free", 0.0) > 0.95).all()
    star = optimal_log_policy(prize, table(policy), 0.5).exp()
    wanted = star.gather(-1, third.unsqueeze(-1)).squeeze(-1)
    assert_close(found("tied", 0.5), wanted, rtol=0, atol=0.1)
    assert (wanted < 0.7).all()


# The KL to the reference, and the reward that charges it


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_J2_the_logged_kl_is_the_one_charged_and_unbiased(tokenizer, temperature):
    """The exact KL of the listed completions, within 4 standard errors of the mean over 3,000."""
    options = dict(batch_size=3000, temperature=temperature)
    stage = make(tokenizer, policy=model(0), reference=model(1), **options)
    stage.start(1)
    log_policy, log_ref = table(stage.policy, temperature), table(stage.reference, temperature)
    exact = kl_divergence(log_policy, log_ref)
    kl = stage.rollouts.kl()
    error = kl.std().item() / math.sqrt(len(kl))
    assert (exact > 0).all() and abs(kl.mean().item() - exact.mean().item()) < 4 * error
    assert (kl < 0).any()  # single draws are not clamped: that would be the bias
    found = stage.objective()
    assert found["objective/kl"] == pytest.approx(kl.mean().item())
    mean = expected_reward(log_policy, REWARD).mean().item()
    assert abs(found["objective/scores"] - mean) < 4 * stage.rollouts.scores.std() / 54
    charged = found["objective/scores"] - found["objective/rlhf_reward"]
    assert charged == pytest.approx(0.5 * kl.mean().item(), rel=1e-5)


def test_J2_the_kl_is_0_where_policy_and_reference_agree(tokenizer):
    stage = make(tokenizer)
    stage.start(1)
    assert (stage.rollouts.kl() == 0).all() and stage.objective()["objective/kl"] == 0


def test_J1_an_iteration_pays_each_completion_its_score_minus_beta_kl(tokenizer):
    """Returns at the first token, with lambda = gamma = 1: all that a completion earns."""
    stage = make(tokenizer, reference=model(1), policy=model(0, dtype=torch.float64), lam=1.0)
    stage.start(1)
    sequences = stage.sequences(list(range(32)))
    ours, theirs = (
        torch.stack([row.sum() for row in plain_logps(lm, sequences)]).detach()
        for lm in (stage.policy, stage.reference)
    )
    earned = score(sequences) - 0.5 * (ours - theirs)
    assert_close(stage.rollouts.returns[:, 0], earned, rtol=1e-6, atol=1e-6)


def test_a_completion_that_was_cut_pays_for_it(tokenizer):
    free, fined = make(tokenizer), make(tokenizer, missing_eos_penalty=5.0)
    for stage in (free, fined):
        stage.start(1)
    sequences = free.sequences(list(range(32)))
    assert fined.sequences(list(range(32))) == sequences
    cut = torch.tensor([completion[-1] != EOS for _, completion in sequences])
    assert 0 < cut.sum() < 32
    assert_close(free.rollouts.scores - fined.rollouts.scores, 5.0 * cut)
    assert free.objective()["val/num_eos_tokens"] == 32 - cut.sum()


def test_a_target_kl_moves_beta_once_for_each_iteration(tokenizer):
    stage = make(tokenizer, reference=model(1), target_kl=1e-3, epochs=2)
    betas = []
    for number in range(1, 7):
        stage.start(number)
        betas.append(stage.objective()["objective/kl_coef"])
    # The KL is far above its target: 2 % more for each iteration of two steps
    assert betas == pytest.approx([0.5, 0.5, 0.51, 0.51, 0.5202, 0.5202])


# One minibatch step


@pytest.mark.parametrize("bonus", [0.0, 0.01])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_J3_before_the_first_update_every_ratio_is_exactly_1(tokenizer, temperature, bonus):
    stage = make(tokenizer, temperature=temperature, entropy_coefficient=bonus)
    stage.start(1)
    means = step(stage)
    assert means["policy/approxkl_avg"] == 0 and means["policy/clipfrac_avg"] == 0
    assert means["val/ratio"] == pytest.approx(1, abs=1e-12)
    assert means["ratio/first"] == means["val/ratio"]
    # However the rows are split: what is left is float32's rounding.
    for parts in (2, 8, 32):
        assert step(stage, parts)["policy/approxkl_avg"] < 1e-12
    # And the log-probabilities are those of the distribution that was drawn from.
    rows = plain_logps(stage.policy, stage.sequences([0, 5, 9]), temperature)
    for row, wanted in zip((0, 5, 9), rows, strict=True):
        assert_close(stage.rollouts.logps[row, : len(wanted)], wanted.detach())


def test_J6_dropout_of_the_saved_model_does_not_touch_the_ratio(tokenizer, tmp_path):
    model(dropout=0.5).save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), tokenizer)
    policy.train()
    stage = make(tokenizer, policy=policy)
    stage.start(1)
    assert step(stage)["policy/approxkl_avg"] == 0
    assert torch.equal(stage.values(stage.sequences([0])), stage.values(stage.sequences([0])))


def test_J5_outside_the_clip_on_the_improving_side_the_policy_has_no_gradient(tokenizer):
    stage = make(tokenizer, clip_range=0.2)
    for change, advantage, silent in [(1, 1, True), (1, -1, False), (-1, -1, True), (-1, 1, False)]:
        stage.start(1)
        mask = stage.rollouts.mask()
        stage.rollouts.logps -= change * mask  # the ratio is e or 1/e
        stage.rollouts.advantages.copy_(advantage * mask)
        stage.policy.zero_grad()
        assert step(stage)["policy/clipfrac_avg"] == pytest.approx(float(silent))
        size = sum(p.grad.abs().sum() for p in stage.policy.parameters())
        assert (size == 0) == silent


def test_the_first_gradient_is_that_of_the_advantage_times_log_pi(tokenizer):
    """Chapter 4, exercise 4.1; the mean is over the tokens of the minibatch."""
    stage = make(tokenizer, policy=model(dtype=torch.float64), value_coefficient=0.0)
    stage.start(1)
    got, _ = gradients(stage)
    sequences, total = stage.sequences(list(range(32))), 0.0
    for row, logps in enumerate(plain_logps(stage.policy, sequences)):
        total = total - (stage.rollouts.advantages[row, : len(logps)] * logps).sum()
    stage.policy.zero_grad()
    (total / sum(len(completion) for _, completion in sequences)).backward()
    wanted = torch.cat([p.grad.flatten() for p in stage.policy.parameters()])
    assert_close(got[: len(wanted)], wanted, rtol=1e-10, atol=1e-12)


def test_the_bonus_is_the_gradient_of_the_exact_entropy(tokenizer):
    lm = model(dtype=torch.float64)
    plain = make(tokenizer, policy=lm)
    bonus = make(tokenizer, policy=lm, entropy_coefficient=0.3)
    for stage in (plain, bonus):
        stage.start(1)
    without, estimated = gradients(plain)
    lm.zero_grad()
    with_bonus, exact = gradients(bonus)
    sequences, total = bonus.sequences(list(range(32))), 0.0
    lm.zero_grad()
    for prompt, completion in sequences:
        ids = torch.tensor([prompt + completion[:-1]])
        log_policy = lm(ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
        total = total - (log_policy.exp() * log_policy).sum()
    mean = total / bonus.weight(list(range(32)))
    (-0.3 * mean).backward()
    wanted = torch.cat([p.grad.flatten() for p in lm.parameters()])
    difference = (with_bonus - without)[: len(wanted)]
    assert_close(difference, wanted, rtol=1e-8, atol=1e-10)
    assert exact["policy/entropy_avg"] == pytest.approx(mean.item())
    # The estimate from the drawn tokens, of 32 completions: the same within their noise
    assert estimated["policy/entropy_avg"] == pytest.approx(mean.item(), abs=0.4)


@pytest.mark.parametrize("parts", [2, 4, 32])
def test_G1_micro_batches_change_neither_gradient_nor_log(tokenizer, parts):
    stage = make(tokenizer, policy=model(dtype=torch.float64), reference=model(1))
    stage.start(1)
    noise = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(stage.value.head.linear.weight, generator=noise)
    whole, log = gradients(stage)
    stage.policy.zero_grad()
    stage.value.zero_grad()
    split, split_log = gradients(stage, parts)
    assert_close(split, whole, rtol=1e-10, atol=1e-12)
    assert split_log == pytest.approx(log, rel=1e-10, abs=1e-12)


def test_J4_advantages_are_white_over_the_tokens_of_an_iteration(tokenizer):
    stage = make(tokenizer, reference=model(1))
    stage.start(1)
    drawn = stage.rollouts.advantages[stage.rollouts.mask()]
    assert abs(drawn.mean()) < 1e-6 and drawn.var(correction=0) == pytest.approx(1, abs=1e-5)
    assert (stage.rollouts.advantages[~stage.rollouts.mask()] == 0).all()


# Iterations, order, checkpoints


def test_an_iteration_keeps_its_completions_and_the_next_draws_new_ones(tokenizer):
    stage = make(tokenizer, epochs=2, minibatches=2)
    everything = list(range(stage.items))
    drawn = []
    for number in range(1, 9):
        stage.start(number)
        drawn.append(stage.sequences(everything))
    assert len(everything) == 64
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3] != drawn[4] == drawn[7]


def test_the_same_policy_draws_other_completions_in_the_next_iteration(tokenizer):
    drawn = []
    for seed, number in ((0, 1), (0, 2), (1, 1), (0, 1)):
        stage = make(tokenizer, epochs=1, seed=seed)
        stage.prompts = PROMPTS[:1]
        stage.start(number)
        drawn.append(stage.sequences(list(range(32))))
    assert drawn[0] == drawn[3] and drawn[0] != drawn[1] and drawn[0] != drawn[2]


def test_every_prompt_is_used_once_before_any_is_used_twice(tokenizer):
    stage = make(tokenizer, batch_size=2, epochs=1)
    used = []
    for number in range(1, 7):
        stage.start(number)
        used += stage.rollouts.prompts.tolist()
    assert [sorted(used[k : k + 3]) for k in range(0, 12, 3)] == [[0, 1, 2]] * 4


def test_E3_the_reference_keeps_its_bytes(tokenizer, tmp_path):
    stage = make(tokenizer, tmp_path / "run", steps=3, lr=0.01)
    before = state_hash(stage.reference)
    train(stage)
    assert state_hash(stage.reference) == before != state_hash(stage.policy)
    assert not any(p.requires_grad for p in stage.reference.parameters())


def killed(stage, at):
    """Train until the update of step `at` is about to be taken."""
    backward, start = stage.backward, stage.start
    now = []
    stage.start = lambda number: (now.append(number), start(number))

    def fail(indices, share):
        if now[-1] == at:
            raise RuntimeError("killed")
        return backward(indices, share)

    stage.backward = fail
    with pytest.raises(RuntimeError, match="killed"):
        train(stage)


@pytest.mark.parametrize("ends", [(3,), (5,), (2, 4, 7)])
def test_J7_a_killed_run_ends_with_the_same_bytes(tokenizer, tmp_path, ends):
    """Policy, value, optimiser, completions, KL coefficient and log, in mid-iteration or not."""
    options = dict(steps=8, batch_size=8, epochs=2, minibatches=2, lr=0.01, save_every=1)
    options |= dict(target_kl=0.01, accumulate=2)
    train(make(tokenizer, tmp_path / "whole", **options))
    for number, end in enumerate(ends):
        killed(make(tokenizer, tmp_path / "parts", resume=number > 0, **options), end)
    train(make(tokenizer, tmp_path / "parts", resume=True, **options))
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1] and logs[0].count(b"\n") == 8
    whole, parts = (checkpoint.load(tmp_path / name) for name in ("whole", "parts"))
    assert whole.step == 8 and whole.extras == parts.extras
    assert whole.extras["stage"]["beta"] != 0.5
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.equal(whole.tensors[name], parts.tensors[name]) for name in whole.tensors)
    assert {"rollouts/tokens", "rollouts/advantages", "value/head.linear.weight"} < set(
        whole.tensors
    )


def test_K8_another_reward_is_not_resumed(tokenizer, tmp_path):
    options = dict(steps=2, batch_size=4, save_every=1)
    killed(make(tokenizer, tmp_path / "run", **options), 2)
    other = make(tokenizer, tmp_path / "run", resume=True, **options)
    other.fingerprint["reward"] = "another"
    with pytest.raises(ValueError, match="reward"):
        train(other)


# From the disk


@pytest.mark.parametrize(
    "change, line",
    [
        (dict(epochs=0), "epochs must be at least 1, got 0"),
        (dict(temperature=0.0), "temperature must be positive and finite, got 0.0"),
        (dict(clip_range=-0.1), "clip_range must be positive and finite, got -0.1"),
        (dict(beta=-1.0), "beta must be at least 0 and finite, got -1.0"),
        (dict(beta=math.nan), "beta must be at least 0 and finite, got nan"),
        (dict(lam=1.5), "lam must be between 0 and 1, got 1.5"),
        (dict(max_new_tokens=511), "max_new_tokens must be at most max_length - 2, got 511"),
        (dict(beta=0.0, target_kl=6.0), "beta must be positive for a target_kl, got 0.0"),
        (dict(lr=0.0), "lr must be positive and finite, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(change, line):
    settings = dict(model="-", data="-", out="-", reward="-", steps=1)
    with pytest.raises(TrainingError) as error:
        PPOSettings(**settings | change)
    assert str(error.value) == line


def test_completions_longer_than_the_context_are_refused_before_any_is_drawn(tokenizer):
    with pytest.raises(ValueError, match=r"tokens in a sequence, .* set max_length to 16"):
        make(tokenizer, max_new_tokens=16)


def test_a_score_that_is_not_finite_is_refused(tokenizer):
    stage = make(tokenizer, scores=lambda sequences: torch.full((len(sequences),), torch.nan))
    with pytest.raises(ValueError, match="scores must be finite, got nan at"):
        stage.start(1)


@pytest.fixture
def folders(tmp_path, tokenizer):
    """A policy, a reward model and prompts on the disk."""
    policy = model(dropout=0.1)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    judge = RewardModel(model(5))
    torch.nn.init.normal_(judge.head.linear.weight, generator=torch.Generator().manual_seed(0))
    judge.save(tokenizer, tmp_path / "judge")
    rows = ['{"prompt": "a"}', '{"prompt": "b c"}', '{"prompt": "c"}']
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def from_disk(folder, **changes):
    settings = dict(model=str(folder / "policy"), data=str(folder / "prompts.jsonl"), steps=2)
    settings |= dict(out=str(folder / "run"), reward=str(folder / "judge"), max_new_tokens=2)
    return PPO.from_settings(PPOSettings(**settings | dict(batch_size=8, lr=0.01) | changes))


def test_a_run_from_the_disk_climbs_the_reward_model(folders, tokenizer):
    stage, report = from_disk(folders)
    assert report.used == 3 and stage.prompts == PROMPTS
    judge = RewardModel.load(folders / "judge")
    assert state_hash(stage.value.body) == state_hash(judge.body)  # InstructGPT's start
    stage.start(1)
    wanted = judge.score(stage.sequences(list(range(8)))).detach()
    assert_close(stage.rollouts.scores, wanted)
    train(stage)
    saved = load_policy(str(folders / "run/model"), tokenizer)
    assert state_hash(saved) == state_hash(stage.policy)


def test_a_reward_model_of_another_tokenizer_is_refused(folders):
    words = models.WordLevel({"b": 0, "a": 1, "c": 2, "<eos>": EOS}, unk_token="a")
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="<eos>")
    other.save_pretrained(folders / "judge")
    told = "reward .*judge: its tokenizer is not that of .*: 'a' is token 1, there token 0; "
    with pytest.raises(ValueError, match=told):
        from_disk(folders)


def test_the_true_reward_is_that_of_the_decoded_text(tmp_path):
    """PPO-GT: the built-in world's own reward of the text, without its EOS."""
    write_world(tmp_path / "world", pairs=5, reviews=5, prompts=5, test=5)
    settings = dict(model="tiny", data=str(tmp_path / "world"), out="-", reward="true", steps=1)
    stage, _ = PPO.from_settings(PPOSettings(**settings, batch_size=4, max_new_tokens=8))
    sequences = [
        (stage.prompts[0], tuple(stage.tokenizer(text)["input_ids"]) + end)
        for text in (" wonderful.", " It was a dull film.", "", "\u00e9\u00e9")
        for end in ((stage.tokenizer.eos_token_id,), (5,))
    ]
    texts = [
        (stage.tokenizer.decode(x), stage.tokenizer.decode(y).removesuffix("<|endoftext|>"))
        for x, y in sequences
    ]
    assert stage.score(sequences).tolist() == pytest.approx([reviews.reward(*t) for t in texts])
    stage.start(1)
    assert stage.rollouts.scores.shape == (4,)
    assert state_hash(stage.value.body) == state_hash(stage.policy.base_model)
