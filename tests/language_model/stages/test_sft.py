"""Supervised fine-tuning: transformers' own cross-entropy is the judge, and no kill changes it."""

import json
import random

import pytest
import torch
import torch.nn.functional as F
from faults import ends, in_child, warm_up
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_lib.language_model.data.order import batch_indices
from dpo_lib.language_model.data.tokens import TokenExample
from dpo_lib.language_model.settings import SFTSettings
from dpo_lib.language_model.stages.sft import SFT
from dpo_lib.language_model.training.loop import train

EOS = 0
warm_up()


def examples(n=11) -> list[TokenExample]:
    draw = random.Random(0)
    return [
        TokenExample(
            tuple(draw.randrange(1, 12) for _ in range(1 + i % 4)),
            (*(draw.randrange(1, 12) for _ in range(i % 6)), EOS),
        )
        for i in range(n)
    ]


def tokenizer():
    words = ["<|endoftext|>", *"abcdefghijk"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def model(dtype=torch.float32):
    shape = dict(vocab_size=12, n_layer=2, n_embd=32, n_head=2, n_positions=64)
    off = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = GPT2Config(**shape, **off, bos_token_id=EOS, eos_token_id=EOS)
        return GPT2LMHeadModel(config).to(dtype)


def stage(out, dtype=torch.float32, **changes):
    given = dict(model="tiny", data="none", out=str(out), steps=6, batch_size=4, save_every=2)
    given |= dict(lr=1e-3, warmup_steps=2, optimizer="adamw", log_every=1000, dtype="float32")
    return SFT(SFTSettings(**given | changes), model(dtype), tokenizer(), examples())


def transformers_loss(policy, batch) -> torch.Tensor:
    """Their logits and labels: right padding, prompts at -100, mean over the scored tokens."""
    width = max(len(e.prompt) + len(e.completion) for e in batch)
    ids, labels = torch.zeros(len(batch), width).long(), torch.full((len(batch), width), -100)
    for row, e in enumerate(batch):
        end = len(e.prompt) + len(e.completion)
        ids[row, :end] = torch.tensor(e.prompt + e.completion)
        labels[row, len(e.prompt) : end] = torch.tensor(e.completion)
    out = policy(input_ids=ids, labels=labels)
    loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-6)  # theirs is float32 at the end
    return loss


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_and_its_gradient_are_those_of_transformers_G1(tmp_path, accumulate):
    trained, judged = stage(tmp_path, torch.float64), model(torch.float64)
    batch = batch_indices(0, 1, 7, 11)
    share = 1 / trained.weight(batch)
    pieces = [batch[part::accumulate] for part in range(accumulate)]
    sums = [trained.backward(piece, share) for piece in pieces]
    loss = transformers_loss(judged, [examples()[index] for index in batch])
    loss.backward()
    assert sum(part["loss"].item() for part in sums) * share == pytest.approx(
        loss.item(), rel=1e-12
    )
    for mine, theirs in zip(trained.model.parameters(), judged.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_every_token_weighs_the_same_and_prompts_weigh_nothing(tmp_path):
    trained = stage(tmp_path)
    lengths = [len(e.completion) for e in examples()]
    assert trained.weight([0, 5, 3]) == lengths[0] + lengths[5] + lengths[3]


def test_training_learns_the_completions_and_the_saved_model_is_the_trained_one(tmp_path):
    trained = stage(tmp_path / "run", steps=60, lr=3e-3)
    train(trained)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert rows[0]["loss"] == pytest.approx(torch.tensor(12.0).log().item(), abs=0.3)  # uniform
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name])
    assert saved.lm_head.weight is saved.transformer.wte.weight


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("sft") / "run"
    assert in_child(lambda: train(stage(run))) == 0
    return ends(run)


@pytest.mark.parametrize("kills", [1, 3])
def test_a_gpt2_that_was_killed_ends_with_the_same_bytes_K1_K3(tmp_path, undisturbed, kills):
    times = random.Random(kills)
    for _ in range(kills):
        resumed = lambda: train(stage(tmp_path / "run", resume=True))  # noqa: E731
        in_child(resumed, kill_after=times.uniform(0.1, 0.6))
    assert in_child(resumed) == 0
    assert ends(tmp_path / "run") == undisturbed


def test_another_model_or_tokenizer_is_refused_by_name_K8(tmp_path):
    train(stage(tmp_path / "run", steps=1))
    other = stage(tmp_path / "run", steps=1, resume=True)
    other.fingerprint["tokenizer"] = "another"
    with pytest.raises(ValueError, match=r"other settings: tokenizer \(hash\) \w+ -> another"):
        train(other)


def test_a_row_longer_than_the_context_is_refused_before_the_first_step_L2(tmp_path):
    settings = stage(tmp_path / "run").settings
    long = [*examples(), TokenExample((1,) * 60, (2,) * 5)]
    with pytest.raises(ValueError, match=r"^65 tokens in a sequence, .* set max_length to 64"):
        SFT(settings, model(), tokenizer(), long)


def test_without_steps_a_run_goes_once_through_the_data(tmp_path):
    run = train(stage(tmp_path / "run", steps=None))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]  # 11 examples in batches of 4
    assert rows[-1]["epoch"] == 1.0
