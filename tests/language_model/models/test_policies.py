"""Models of transformers: loaded safely, copied, saved whole, named by their bytes."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedTokenizerFast,
)

from dpo_lib.language_model.models import hub as _hub
from dpo_lib.language_model.models import reward_model as reward_model_module
from dpo_lib.language_model.models.devices import pick_device, pick_dtype
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.hub import ModelError
from dpo_lib.language_model.models.lengths import by_length
from dpo_lib.language_model.models.policies import (
    frozen_copy,
    load_policy,
    load_tokenizer,
    save_policy,
)
from dpo_lib.language_model.models.reward_model import RewardModel, ValueHead

EOS = 0
SHAPE = dict(vocab_size=12, n_layer=2, n_embd=16, n_head=2, n_positions=24, bos_token_id=0)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
PAIRS = [((3, 1), (4, 1, 5, EOS)), ((2,), (7, EOS)), ((5, EOS, 5), (8, 9, EOS, 7, 3, EOS))]


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<|endoftext|>", *"abcdefghijk"]
    vocabulary = {word: i for i, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


@pytest.fixture
def model(tokenizer, folder):
    return load_policy(folder, tokenizer)


@pytest.fixture
def folder(tmp_path, tokenizer):
    """What transformers itself writes, with more dropout than anyone uses."""
    config = GPT2Config(**SHAPE, attn_pdrop=0.5, embd_pdrop=0.5, resid_pdrop=0.5, eos_token_id=EOS)
    torch.manual_seed(7)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "hub")
    tokenizer.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def equal(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(words, call, *args):
    with pytest.raises(ModelError, match=words) as caught:
        call(*args)
    assert "\n" not in str(caught.value)


# loading


def test_random_weights_follow_from_the_seed_and_leave_the_global_generator_alone(tokenizer):
    before = torch.get_rng_state()
    one, same, other = (load_policy("tiny", tokenizer, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert state_hash(one) == state_hash(same) != state_hash(other)
    assert one.config.vocab_size == len(tokenizer) == 12
    assert (one.config.eos_token_id, one.config.pad_token_id) == (EOS, None)


def test_gpt2_random_has_the_published_shape(tokenizer):
    model = load_policy("gpt2-random", tokenizer)
    outside_words = 124_439_808 - 50257 * 768  # GPT-2's number of parameters, minus its vocabulary
    assert model.num_parameters() == outside_words + 12 * 768


def test_a_folder_gives_what_transformers_gives(folder, tokenizer):
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    before = torch.get_rng_state()
    ours = load_policy(folder, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(ours(IDS).logits, theirs(IDS).logits)
    assert load_policy(folder, tokenizer, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_e1_dropout_of_a_half_is_off_in_train_mode(folder, tokenizer, attention):
    model = load_policy(folder, tokenizer).train()
    model.set_attn_implementation(attention)
    assert model.training
    assert equal(model(IDS).logits, model(IDS).logits)
    assert not equal(*(GPT2LMHeadModel.from_pretrained(folder).train()(IDS).logits for _ in "ab"))


def backward_steps(mlp):
    """Operations whose gradients autograd must take, parameters aside."""
    hidden = torch.ones(1, 1, mlp.c_proj.nf, requires_grad=True)
    waiting, seen = [mlp(hidden).grad_fn], set()
    while waiting:
        step = waiting.pop()
        if step is not None and step not in seen:
            seen.add(step)
            waiting += [function for function, _ in step.next_functions]
    return sum("AccumulateGrad" not in step.name() for step in seen)


def test_one_kernel_gives_gpt2s_gelu_and_its_gradient(folder, tokenizer):
    plain, ours = GPT2LMHeadModel.from_pretrained(folder).eval(), load_policy(folder, tokenizer)
    eight, one = (backward_steps(model.transformer.h[0].mlp) for model in (plain, ours))
    assert one == eight - 7
    for model in (plain, ours):
        model.double()
        model(input_ids=IDS, labels=IDS).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-14, msg=name)


def test_e1_dropout_is_off_in_another_architecture_too(tmp_path, tokenizer):
    small = dict(vocab_size=12, hidden_size=16, intermediate_size=16, num_attention_heads=2)
    config = LlamaConfig(num_hidden_layers=1, attention_dropout=0.5, **small)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = load_policy(tmp_path, tokenizer)
    assert equal(model(IDS).logits, model(IDS).logits)


def test_e1_the_router_of_a_mixture_draws_no_noise(tmp_path, tokenizer):
    small = dict(vocab_size=12, hidden_size=16, intermediate_size=16, num_attention_heads=2)
    small |= dict(num_hidden_layers=1, num_key_value_heads=2, num_local_experts=4)
    config = PhimoeConfig(**small, initializer_range=1.0, router_jitter_noise=0.5)
    PhimoeForCausalLM(config).save_pretrained(tmp_path)
    model, ids = load_policy(tmp_path, tokenizer), torch.arange(11)[None]
    assert all(equal(model(ids).logits, model(ids).logits) for _ in range(5))


def test_e1_the_saved_configuration_keeps_the_dropout_it_came_with(tmp_path, folder, tokenizer):
    save_policy(load_policy(folder, tokenizer), tokenizer, tmp_path / "out")
    again = load_policy(tmp_path / "out", tokenizer)
    save_policy(again, tokenizer, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["attn_pdrop"] == 0.5
    save_policy(load_policy("tiny", tokenizer), tokenizer, tmp_path / "tiny")
    assert json.loads((tmp_path / "tiny/config.json").read_text())["resid_pdrop"] == 0.1


def test_the_tokenizer_of_random_weights_stands_beside_the_data(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "preferences.jsonl").touch()
    for data in (tmp_path, tmp_path / "preferences.jsonl"):
        found = load_tokenizer("tiny", data)
        assert (found.get_vocab(), found.eos_token_id) == (tokenizer.get_vocab(), EOS)
    refused("'tiny' needs data", load_tokenizer, "tiny")


def test_rows_without_a_tokenizer_beside_them_do_not_ask_the_hub_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").touch()
    for data in ("rows.jsonl", "hub:rows"):
        refused("'tiny' needs data", load_tokenizer, "tiny", data)


def test_only_a_hub_name_asks_the_network_and_never_for_pickles(
    tmp_path, folder, tokenizer, monkeypatch
):
    calls = []

    def fetched(name, **wanted):
        calls.append((name, wanted))
        return folder

    monkeypatch.setattr(_hub, "snapshot_download", fetched)
    monkeypatch.chdir(tmp_path)
    load_policy("tiny", tokenizer)
    load_policy(folder, tokenizer)
    (tmp_path / "runs").mkdir()
    for name in ("runs/gpt2", "../gpt2", "/gpt2", "./gpt2", "a/b/c"):  # slips, no hub names
        refused("no such folder", load_policy, name, tokenizer)
    assert calls == []
    assert state_hash(load_policy("somebody/gpt2", tokenizer)) == state_hash(
        load_policy(folder, tokenizer)
    )
    [(name, wanted)] = calls
    assert name == "somebody/gpt2"
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "evil.py", "onnx/a.json"]
    kept = filter_repo_objects(files, **wanted)
    assert list(kept) == ["config.json", "model.safetensors"]

    def unreachable(name, **_):
        raise ConnectionError("no network\nand a page of advice")

    monkeypatch.setattr(_hub, "snapshot_download", unreachable)
    refused(
        "somebody/gpt2: no such folder, and no hub model: no network",
        load_policy,
        "somebody/gpt2",
        tokenizer,
    )


def test_what_cannot_be_a_model_is_refused_in_one_line(tmp_path, folder, tokenizer):
    refused("no such folder", load_policy, tmp_path / "none", tokenizer)
    (tmp_path / "empty").mkdir()
    refused("no config.json", load_policy, tmp_path / "empty", tokenizer)
    refused("no tokenizer", load_tokenizer, tmp_path / "empty")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    refused("no tokenizer files", load_tokenizer, folder)
    edit(folder / "config.json", model_type="nothing")
    refused("no model of type nothing", load_policy, folder, tokenizer)
    (folder / "config.json").write_text("{")
    refused("config.json", load_policy, folder, tokenizer)


def test_the_folder_of_a_run_is_refused_and_its_model_named(tmp_path, model, tokenizer):
    save_policy(model, tokenizer, tmp_path / "run/model")
    for load in (load_tokenizer, lambda name: load_policy(name, tokenizer)):
        refused(f"its model is {tmp_path / 'run/model'}", load, tmp_path / "run")


def test_a_tokenizer_with_more_words_than_the_model_is_refused(folder, tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["l"])
    refused("12 words, but the tokenizer has 13", load_policy, folder, tokenizer)


def test_a_tokenizer_without_an_end_is_refused(tmp_path, tokenizer):
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    refused("no end-of-sequence", load_tokenizer, tmp_path)


def test_missing_weights_are_never_made_up(folder, tokenizer):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused("no weights for transformer.h.1.ln_1.weight", load_policy, folder, tokenizer)


def test_a_damaged_weight_file_is_refused_in_one_line(folder, tokenizer):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    refused("cannot be loaded", load_policy, folder, tokenizer)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-1-of-2.bin"])
def test_m1_pickled_weights_are_never_opened(tmp_path, folder, tokenizer, name):
    (folder / "model.safetensors").unlink()
    bomb = f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR."  # a pickle that runs a command
    (folder / name).write_text(bomb)
    refused(f"{name} can run code; only safetensors", load_policy, folder, tokenizer)
    refused("not a reward model", RewardModel.load, folder)
    assert not (tmp_path / "ran").exists()


def test_m1_an_index_cannot_lead_to_pickled_weights(tmp_path, folder, tokenizer):
    (folder / "model.safetensors").unlink()
    weights = {"transformer.wte.weight": "weights.bin"}
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "weights.bin").write_text(f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR.")
    refused("weights.bin can run code", load_policy, folder, tokenizer)
    assert not (tmp_path / "ran").exists()


def test_m1_code_kernels_and_adapters_beside_the_weights_are_not_followed(
    tmp_path, folder, tokenizer
):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
        attn_implementation="somebody/kernel",
    )
    assert load_policy(folder, tokenizer).config._attn_implementation == "sdpa"
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    refused("tokenizer is code", load_tokenizer, folder)
    edit(folder / "config.json", model_type="evil")
    refused("no model of type evil", load_policy, folder, tokenizer)
    (folder / "adapter_config.json").write_text("{}")
    refused("adapter", load_policy, folder, tokenizer)
    assert not (tmp_path / "ran").exists()


# copies and hashes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_e3_e4_the_reference_shares_no_storage_and_never_moves(folder, tokenizer, dtype):
    policy = load_policy(folder, tokenizer, dtype)
    reference = frozen_copy(policy)
    before = state_hash(reference)
    assert before == state_hash(policy)
    assert {t.dtype for t in reference.parameters()} == {dtype}
    assert not reference.training and not any(p.requires_grad for p in reference.parameters())
    own, copied = ({t.data_ptr() for t in m.state_dict().values()} for m in (policy, reference))
    assert not own & copied
    assert equal(reference(IDS).logits, policy(IDS).logits)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    policy(IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert state_hash(reference) == before != state_hash(policy)
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_the_hash_sees_one_bit_a_name_a_shape_and_a_dtype():
    base = torch.nn.Linear(2, 2, bias=False, dtype=torch.float32)
    torch.nn.init.zeros_(base.weight)
    hashes = [state_hash(base)]
    base.weight.data.view(torch.int32)[0, 0] ^= 1
    hashes.append(state_hash(base))
    others = [torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(2, 2, False, dtype=torch.float16)]
    others.append(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)))
    for other in others:
        for parameter in other.parameters():
            torch.nn.init.zeros_(parameter)
        hashes.append(state_hash(other))
    assert len(set(hashes)) == len(hashes)


# saving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_k9_tied_weights_come_back_bit_equal_and_tied(tmp_path, folder, tokenizer, dtype):
    model = load_policy(folder, tokenizer, dtype)
    save_policy(model, tokenizer, tmp_path / "out")
    again = load_policy(tmp_path / "out", tokenizer, dtype)
    assert state_hash(again) == state_hash(model)
    assert again.lm_head.weight is again.transformer.wte.weight
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")


def test_what_is_saved_loads_and_generates_in_plain_transformers(tmp_path, model, tokenizer):
    save_policy(model, tokenizer, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words("a b k").input_ids == tokenizer("a b k").input_ids == [1, 2, 11]
    found = plain.generate(
        torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2), max_new_tokens=4, do_sample=False
    )
    greedy = [1, 2]
    while len(greedy) < found.shape[1]:
        greedy.append(model(torch.tensor([greedy])).logits[0, -1].argmax().item())
    assert found[0].tolist() == greedy
    assert plain.generation_config.eos_token_id == EOS


def test_a_model_that_is_saved_again_is_replaced_whole(tmp_path, model, tokenizer):
    out = tmp_path / "out"
    save_policy(model, tokenizer, out)
    (out / "stale.json").write_text("{}")
    save_policy(model, tokenizer, out)
    assert not (out / "stale.json").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_with_other_files_is_not_replaced(tmp_path, model, tokenizer):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    refused("holds other files", save_policy, model, tokenizer, tmp_path / "thesis")
    refused("not a plain folder", save_policy, model, tokenizer, tmp_path / "thesis/chapter.tex")
    os.symlink(tmp_path / "thesis", tmp_path / "link")
    refused("not a plain folder", save_policy, model, tokenizer, tmp_path / "link")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


class Killed(BaseException):
    pass


def test_k5_a_save_killed_at_any_step_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch):
    out, seen, fatal, steps = tmp_path / "out", [], None, 0

    def mortal(function):
        def step(*args, **kwargs):
            nonlocal steps
            steps += 1
            if fatal is not None and steps >= fatal:  # who is dead does nothing more, not tidy up
                raise Killed
            return function(*args, **kwargs)

        return step

    def save(text):
        with _hub.whole_folder(out) as scratch:
            (scratch / "config.json").write_text(text)
            (scratch / "model.safetensors").write_text(text)

    for place, name in (
        (os, "fsync"),
        (os, "rename"),
        (os, "replace"),
        (Path, "mkdir"),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(place, name, mortal(getattr(place, name)))
    for death in range(1, 50):
        fatal, steps = None, 0
        save("old")  # also takes up what the last death left
        fatal, steps = death, 0
        with contextlib.suppress(Killed):
            save("new")
        files = {path.name: path.read_text() for path in _hub.find_folder(out).iterdir()}
        assert set(files) == {"config.json", "model.safetensors"}
        assert len(set(files.values())) == 1, "old and new mixed"
        seen.append(files["config.json"])
        if steps < death:
            break
    assert len(seen) > 8 and seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


def test_k6_a_save_that_fails_leaves_the_model_there_and_no_litter(
    tmp_path, model, tokenizer, monkeypatch
):
    save_policy(model, tokenizer, tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        save_policy(load_policy("tiny", tokenizer), tokenizer, tmp_path / "out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# devices and dtypes


def test_the_dtype_to_compute_in_is_named_or_follows_the_device():
    cpu = torch.device("cpu")
    assert pick_dtype(cpu, "auto") == pick_dtype(cpu, "float32") == torch.float32
    assert pick_dtype(cpu, "bfloat16") == torch.bfloat16
    with pytest.raises(ValueError, match="got float16"):
        pick_dtype(cpu, "float16")
    assert pick_dtype(pick_device()) in (torch.float32, torch.bfloat16)


def test_a_step_of_the_papers_learning_rate_is_lost_in_a_bfloat16_weight():
    weight = torch.tensor(0.02)
    assert weight - 1e-6 != weight
    assert weight.bfloat16() - 1e-6 == weight.bfloat16()


# heads


def plain_scores(model, sequences):
    """The slow obvious way: each row alone, no padding, the head by hand."""
    scores = []
    for prompt, completion in sequences:
        hidden = model.body(torch.tensor([[*prompt, *completion]])).last_hidden_state
        scores.append(hidden[0, -1] @ model.head.linear.weight[0] - model.shift)
    return torch.stack(scores)


@pytest.fixture
def reward_model(model):
    reward_model = RewardModel(model)
    torch.nn.init.normal_(
        reward_model.head.linear.weight, generator=torch.Generator().manual_seed(1)
    )
    return reward_model


def test_a_new_reward_model_and_a_new_value_head_say_zero(model):
    before = torch.get_rng_state()
    assert equal(RewardModel(model).score(PAIRS), torch.zeros(3))
    assert equal(ValueHead(16)(torch.ones(2, 5, 16, dtype=torch.bfloat16)), torch.zeros(2, 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_i1_the_score_is_read_at_the_last_token_of_each_row(reward_model):
    # rows with EOS inside the text, at the end, and none at all; of equal and unequal lengths
    sequences = [*PAIRS, ((1,), (2, 3)), ((1,), ()), ((EOS, EOS), (EOS,))]
    wanted = plain_scores(reward_model, sequences)
    torch.testing.assert_close(reward_model.score(sequences), wanted, rtol=1e-5, atol=1e-6)
    alone = torch.cat([reward_model.score([sequence]) for sequence in sequences])
    torch.testing.assert_close(alone, wanted, rtol=1e-6, atol=1e-6)
    order = [3, 0, 5, 2, 4, 1]
    mixed = reward_model.score([sequences[i] for i in order])
    torch.testing.assert_close(mixed, wanted[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 10, 16, 2048])
def test_i1_how_rows_are_grouped_changes_neither_scores_nor_gradients(
    reward_model, monkeypatch, tokens
):
    sequences = [*PAIRS, ((1,), (2, 3)), ((1,), ()), ((EOS, EOS), (EOS,))]
    weights = list(reward_model.parameters())
    wanted = plain_scores(reward_model, sequences)
    gradients = torch.autograd.grad(wanted.square().sum(), weights)
    monkeypatch.setitem(reward_model_module.PADDED_TOKENS, "cpu", tokens)
    scores = reward_model.score(sequences)
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(scores.square().sum(), weights)
    torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-4)


def test_rows_are_grouped_by_length_within_the_tokens_allowed():
    groups = list(by_length([5, 1, 9, 2, 5, 1, 30], tokens=10))
    assert groups == [[1, 5, 3], [0, 4], [2], [6]]  # 3 x 2, 2 x 5, 1 x 9, one that is too long
    assert list(by_length([], tokens=10)) == []


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pads", [1, 9])
def test_i1_left_or_right_padding_with_eos_by_hand_gives_the_same(reward_model, side, pads):
    for prompt, completion in PAIRS:
        row, fill = [*prompt, *completion], [EOS] * pads
        ids = torch.tensor([fill + row if side == "left" else row + fill])
        mask = torch.tensor([[0] * pads + [1] * len(row)])
        mask = mask if side == "left" else mask.flip(1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = reward_model.body(ids, attention_mask=mask, position_ids=positions)
        last = hidden.last_hidden_state[0, -1 if side == "left" else len(row) - 1]
        by_hand = last @ reward_model.head.linear.weight[0]
        torch.testing.assert_close(
            reward_model.score([(prompt, completion)])[0], by_hand, rtol=1e-5, atol=1e-5
        )


def test_i2_nothing_after_the_end_changes_a_score(reward_model):
    row = PAIRS[1]
    alone = reward_model.score([row, ((1,) * 9, (EOS,))])[0]
    for other in range(12):  # what stands beside it decides how far it is padded, never its score
        beside = reward_model.score([row, ((other,) * 9, (EOS,))])[0]
        assert torch.equal(beside, alone)
    reward_model.body(torch.tensor([[*row[0], *row[1], 4]]))
    states = [
        reward_model.body(torch.tensor([[*row[0], *row[1], *rest]])).last_hidden_state[0, 2]
        for rest in ((4, 4, 4), (9, EOS, 1))
    ]
    assert torch.equal(*states)


def test_normalise_makes_the_mean_zero_and_keeps_every_difference(reward_model):
    before = reward_model.score(PAIRS)
    reward_model.normalise(before.mean())
    after = reward_model.score(PAIRS)
    assert after.mean().abs() < 1e-6
    torch.testing.assert_close(after.diff(), before.diff())
    torch.testing.assert_close(reward_model.shift, before.mean().detach())
    refused("finite", reward_model.normalise, float("nan"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reward_model_comes_back_bit_equal(tmp_path, folder, tokenizer, dtype):
    model = RewardModel(load_policy(folder, tokenizer, dtype))
    torch.nn.init.normal_(model.head.linear.weight)
    model.normalise(0.1)
    assert model.score(PAIRS).dtype == torch.float32
    model.save(tokenizer, tmp_path / "out")
    again = RewardModel.load(tmp_path / "out", dtype)
    assert state_hash(again) == state_hash(model)
    assert equal(again.score(PAIRS), model.score(PAIRS))
    assert json.loads((tmp_path / "out/config.json").read_text())["attn_pdrop"] == 0.5
    again.save(tokenizer, tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").get_vocab() == tokenizer.get_vocab()


def test_a_saved_reward_model_is_a_classifier_of_plain_transformers(
    tmp_path, reward_model, tokenizer
):
    reward_model.normalise(0.25)
    reward_model.save(tokenizer, tmp_path / "out")
    theirs, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for prompt, completion in PAIRS:
        logit = theirs(torch.tensor([[*prompt, *completion]])).logits[0, 0]
        score = reward_model.score([(prompt, completion)])[0]
        torch.testing.assert_close(score, logit - theirs.config.reward_shift)


def test_a_policy_is_no_reward_model_and_a_reward_model_no_policy(
    tmp_path, folder, reward_model, tokenizer
):
    reward_model.save(tokenizer, tmp_path / "out")
    refused("not a policy but a reward model", load_policy, tmp_path / "out", tokenizer)
    refused("not a reward model but GPT2LMHeadModel", RewardModel.load, folder)
    edit(tmp_path / "out/config.json", num_labels=2, id2label={0: "a", 1: "b"})
    refused("out", RewardModel.load, tmp_path / "out")


def test_a_row_that_cannot_be_scored_is_named(reward_model):
    assert reward_model.score([]).shape == (0,)
    refused("sequence 1 has 0 tokens", reward_model.score, [PAIRS[0], ((), ())])
    refused("sequence 0 has 25 tokens, allowed are 1 to 24", reward_model.score, [((1,) * 25, ())])


def test_scores_are_float32_under_autocast(reward_model):
    with torch.autocast("cpu", torch.bfloat16):
        scores = reward_model.score(PAIRS)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float()), "rounded to 8 bits on the way"
