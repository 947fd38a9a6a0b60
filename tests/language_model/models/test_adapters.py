"""Adapters: what they compute, their folders beside plain peft's, and what is refused."""

import copy
import json
import re
import warnings
import weakref
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    PreTrainedTokenizerFast,
)

from dpo_lib.language_model.models import hub
from dpo_lib.language_model.models.adapters import layers
from dpo_lib.language_model.models.adapters.folders import merge
from dpo_lib.language_model.models.adapters.layers import add_adapter, file_names, start_of
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.hub import ModelError
from dpo_lib.language_model.models.policies import load_policy, load_tokenizer, save_policy
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.settings import SFTSettings, TrainingError

# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
torch.set_num_threads(1)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
PAIRS = [((3, 1), (4, 1, 5)), ((9,), (2, 6))]
SETTINGS = SFTSettings(model="base", data="", out="", lora=2, seed=1)
LLAMA = dict(vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3)  # fmt: skip
SHAPES = {  # Conv1D and tied; linear layers of other shapes, untied and tied
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=12, n_layer=2, n_embd=16, n_head=2, n_positions=32,
                   initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "olmo": lambda: OlmoForCausalLM(OlmoConfig(**LLAMA)),  # norms without weights
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: i for i, word in enumerate(["<eos>", *map(str, range(11))])}
    model = Tokenizer(WordLevel(words, unk_token="0"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>")


@pytest.fixture(params=SHAPES)
def base(request, tmp_path, tokenizer):
    """A base model's folder."""
    return make_base(tmp_path / "base", tokenizer, request.param)


def make_base(folder, tokenizer, shape="gpt2", seed=0):
    torch.manual_seed(seed)
    SHAPES[shape]().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(base, tokenizer, settings=SETTINGS):
    """A base with an adapter that is as far from its start as training may bring it."""
    model = add_adapter(load_policy(str(base), tokenizer), settings, str(base))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for own in file_names(model).values():
            model.get_parameter(own).normal_(0, 0.3, generator=generator)
    return model


def saved(folder, base, tokenizer):
    save_policy(trained(base, tokenizer), tokenizer, folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def by_peft(base, folder):
    """Plain peft's own, the adapter beside the weights and not in them."""
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)


def test_a_new_adapter_changes_no_bit_of_the_logits_and_follows_from_the_seed(base, tokenizer):
    plain = logits(load_policy(str(base), tokenizer))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    once, again, other = (
        add_adapter(load_policy(str(base), tokenizer), replace(SETTINGS, seed=seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(once), plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(once), logits(start_of(once)))
    assert state_hash(once) == state_hash(again) != state_hash(other)


def test_what_a_layer_computes_again_for_its_backward_pass_is_kept_nowhere(base, tokenizer):
    """Norms and GELU of a GPT-2; a Llama's are made of operations that keep them themselves."""
    model, kept = trained(base, tokenizer), []
    packed = layers._keep

    def keep(*given):
        kept.append(isinstance(found := packed(*given), tuple))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_keep", keep)
        model(IDS)
    # the first norm has no backward pass: the embeddings before it are frozen
    expected = {"GPT2LMHeadModel": 2 * 3 - 1, "OlmoForCausalLM": 2 * 5 - 3}
    assert sum(kept) == expected.get(type(model).__name__, 0)


def test_the_input_of_an_adapter_is_let_go_after_the_forward_pass(tmp_path, tokenizer):
    model = trained(make_base(tmp_path / "base", tokenizer), tokenizer)
    hidden = torch.ones(1, 3, 64, requires_grad=True)
    for makes, gone in ((nn.functional.gelu, True), (torch.sin, False)):
        x = makes(hidden)
        watched = weakref.ref(x)  # stays as long as autograd has the tensor
        out = model.transformer.h[0].mlp.c_proj(x)
        del x
        assert (watched() is None) is gone
        out.sum().backward()


def test_a_layers_own_forward_pass_is_pefts_and_leaves_one_array_behind(base, tokenizer):
    model = trained(base, tokenizer).double()
    layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
    width = layer.in_features
    x = torch.randn(2, 5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = type(layer).__mro__[1].forward(layer, x)
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    twin = copy.deepcopy(layer)  # bound to its own tensors
    with torch.no_grad():
        layer.lora_B["default"].weight.zero_()
    assert_close(twin(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_every_linear_layer_but_the_output_has_an_adapter_and_nothing_else_is_trained(
    base, tokenizer
):
    model = add_adapter(load_policy(str(base), tokenizer), SETTINGS)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert sorted(names) == sorted(file_names(model).values())
    layers_of_a_block = 4 if "gpt2" in type(model).__name__.lower() else 7
    assert len(names) == 2 * 2 * layers_of_a_block
    assert not any("lm_head" in name or "embed" in name or "wte" in name for name in names)


def test_gradients_of_a_and_b_are_those_of_the_dense_layer_w_plus_alpha_over_r_b_a(base, tokenizer):
    settings = replace(SETTINGS, lora_alpha=3.0)
    model = trained(base, tokenizer, settings).double()
    dense = start_of(model)
    dense = copy.deepcopy(dense).requires_grad_(True)
    factors = {}
    for key, own in file_names(model).items():
        layer, _, letter = key.removeprefix("base_model.model.").rpartition(".lora_")
        factors.setdefault(layer, {})[letter[0]] = model.get_parameter(own)
    for name, layer in factors.items():
        product = layer["B"] @ layer["A"] * 3.0 / 2
        weight = dense.get_submodule(name).weight
        with torch.no_grad():
            weight += product if weight.shape == product.shape != product.T.shape else (
                product.T if "GPT2" in type(dense).__name__ else product
            )  # fmt: skip
    for each in (model, dense):
        each(input_ids=IDS, labels=IDS).loss.backward()
    for name, layer in factors.items():
        slope = dense.get_submodule(name).weight.grad
        slope = slope.T if "GPT2" in type(dense).__name__ else slope  # (out, in)
        assert_close(layer["A"].grad, 1.5 * layer["B"].T @ slope, rtol=1e-9, atol=1e-12)
        assert_close(layer["B"].grad, 1.5 * slope @ layer["A"].T, rtol=1e-9, atol=1e-12)
    base_grads = [p.grad for n, p in model.named_parameters() if "lora_" not in n]
    assert base_grads and not any(grad is not None for grad in base_grads)


def test_the_start_of_an_adapted_model_shares_its_storage_and_never_moves(base, tokenizer):
    plain = logits(load_policy(str(base), tokenizer))
    model = trained(base, tokenizer)
    assert not torch.allclose(logits(model), plain, atol=1e-2)
    start = start_of(model)
    assert torch.equal(logits(start), plain) and not start.training
    theirs = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert {p.data_ptr() for p in (*start.parameters(), *start.buffers())} <= theirs
    assert not any(p.requires_grad for p in start.parameters()) and not file_names(start)
    assert sum(p.requires_grad for p in model.parameters()) == len(file_names(model))
    with torch.no_grad():
        for own in file_names(model).values():
            model.get_parameter(own).add_(1.0)
    assert torch.equal(logits(start), plain)


def test_a_saved_adapter_gives_plain_pefts_logits_when_it_is_read_and_when_it_is_merged(
    base, tokenizer, tmp_path
):
    model = trained(base, tokenizer)
    save_policy(model, tokenizer, tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    expected = logits(by_peft(base, tmp_path / "adapter"))
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    read = load_policy(str(tmp_path / "adapter"), tokenizer)
    for found in (model, auto, plain, read):
        assert_close(logits(found), expected, rtol=0, atol=1e-5)  # logits reach 10 here
        assert (logits(found) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert all(p.requires_grad for p in read.parameters())
    assert load_policy(str(tmp_path / "adapter"), tokenizer).training
    assert load_tokenizer(tmp_path / "merged").get_vocab() == tokenizer.get_vocab()


def test_what_is_saved_is_the_same_bytes_again_and_holds_no_weights_of_the_base(
    tmp_path, tokenizer
):
    base = make_base(tmp_path / "base", tokenizer)
    folders = [saved(tmp_path / name, base, tokenizer) for name in ("once", "again")]
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert len({(folder / file).read_bytes() for folder in folders}) == 1
    assert all("lora_" in name for name in load_file(folders[0] / "adapter_model.safetensors"))
    config = json.loads((folders[0] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base) and config["task_type"] == "CAUSAL_LM"
    assert config["target_modules"] == sorted(config["target_modules"])  # a set has no order
    save_policy(load_policy(str(base), tokenizer), tokenizer, folders[0])  # an adapter is replaced
    assert (folders[0] / "config.json").exists()


KINDS = {
    "rank-stabilised": dict(use_rslora=True),
    "patterns": dict(rank_pattern={"c_fc": 3}, alpha_pattern={"attn.c_proj": 11}),
    "an expression": dict(target_modules=r".*h\.1\.(attn|mlp)\.c_proj"),
    "some layers": dict(layers_to_transform=[1], layers_pattern="h"),
    "dropout": dict(lora_dropout=0.5),
    "without a task": dict(task_type=None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_peft_wrote_is_read_with_pefts_logits(kind, tmp_path, tokenizer):
    base = make_base(tmp_path / "base", tokenizer)
    given = dict(r=4, target_modules=["c_attn", "c_fc", "c_proj"], task_type="CAUSAL_LM",
                 init_lora_weights=False, fan_in_fan_out=True)  # fmt: skip
    config = peft.LoraConfig(**given | KINDS[kind])
    written = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    written.save_pretrained(tmp_path / "adapter")
    expected = logits(written)
    read = load_policy(str(tmp_path / "adapter"), tokenizer)
    assert (logits(read) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert load_tokenizer(tmp_path / "adapter").get_vocab() == tokenizer.get_vocab()  # its base's


def test_an_adapter_on_an_adapter_is_both_and_a_path_may_start_from_the_adapter(
    tmp_path, tokenizer, monkeypatch
):
    base = make_base(tmp_path / "base", tokenizer)
    first = saved(tmp_path / "first", base, tokenizer)
    lower = load_policy(str(first), tokenizer)
    second = add_adapter(lower, replace(SETTINGS, seed=8), "../first")
    with torch.no_grad():
        for own in file_names(second).values():
            second.get_parameter(own).add_(0.2)
    save_policy(second, tokenizer, tmp_path / "second")
    expected = logits(second)
    monkeypatch.chdir("/")
    found = logits(load_policy(str(tmp_path / "second"), tokenizer))
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert not torch.allclose(found, logits(load_policy(str(first), tokenizer)), atol=1e-2)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "llama, tied"])
def test_a_reward_models_adapter_comes_back_with_head_and_shift_and_is_pefts_classifier(
    shape, tmp_path, tokenizer
):
    base = make_base(tmp_path / "base", tokenizer, shape)
    model = RewardModel(trained(base, tokenizer))
    with torch.no_grad():
        model.head.linear.weight.normal_(generator=torch.Generator().manual_seed(2))
        model.normalise(0.37)
        scores = model.score(PAIRS)
        model.save(tokenizer, tmp_path / "reward")
        again = RewardModel.load(tmp_path / "reward")
        assert_close(again.score(PAIRS), scores, rtol=1e-6, atol=2e-6)
        merge(tmp_path / "reward", tmp_path / "merged")
        assert_close(
            RewardModel.load(tmp_path / "merged").score(PAIRS), scores, rtol=1e-6, atol=2e-6
        )
        auto = peft.AutoPeftModelForSequenceClassification
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
        for found in (auto.from_pretrained(tmp_path / "reward", num_labels=1), plain):
            found.eval().config.pad_token_id = 0
            for (prompt, completion), score in zip(PAIRS, scores, strict=True):
                logit = found(torch.tensor([prompt + completion])).logits[0, 0]
                assert_close(logit - 0.37, score, rtol=1e-6, atol=2e-6)


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reweigh(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


A = "transformer.h.0.mlp.c_fc.lora_A.weight"
B = f"base_model.model.{A}"
REFUSED = {
    "a pickle": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "adapter_model.bin can run code; only safetensors are read",
    ),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"
    ),
    "torn weights": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be read"
    ),
    "code": (
        lambda f: edit(f, auto_mapping={"parent_library": "evil", "base_model_class": "x"}),
        "auto_mapping 'evil' is not followed",
    ),
    "another kind": (lambda f: edit(f, peft_type="IA3"), "an adapter of type IA3, not LORA"),
    "dora": (lambda f: edit(f, use_dora=True), "use_dora True is not followed"),
    "a changed base": (
        lambda f: edit(f, init_lora_weights="pissa"), "init_lora_weights 'pissa' is not followed"
    ),
    "biases": (lambda f: edit(f, bias="all"), "bias 'all' is not followed"),
    "something new": (lambda f: edit(f, new_trick={"a": 1}), "new_trick .* is not followed"),
    "a revision": (lambda f: edit(f, revision="v2"), "revision 'v2' is not followed"),
    "no base": (
        lambda f: edit(f, base_model_name_or_path=None), "names no base_model_name_or_path"
    ),
    "a lost base": (
        lambda f: edit(f, base_model_name_or_path="/nowhere/model"),
        "its base model is not there: /nowhere/model: no such folder",
    ),
    "itself": (lambda f: edit(f, base_model_name_or_path=str(f)), "that is its own base model"),
    "another rank": (
        lambda f: edit(f, r=10**9), r"lora_A.weight is \(2, 16\), there \(1000000000, 16\)"
    ),
    "a rank that is none": (lambda f: edit(f, r="two"), "not an adapter of"),
    "a missing tensor": (
        lambda f: reweigh(f, lambda t: t.pop(B)), f"{A} is missing in the adapter"
    ),
    "one too many": (
        lambda f: reweigh(f, lambda t: t.update({B.replace("h.0", "h.7"): t[B].clone()})),
        "h.7.mlp.c_fc.lora_A.weight is missing in that model",
    ),
    "tied": (
        lambda f: edit(f, target_modules=["c_attn", "c_fc", "c_proj", "wte"]) or reweigh(
            f, lambda t: t.update({
                "base_model.model.transformer.wte.lora_embedding_A": torch.zeros(2, 12),
                "base_model.model.transformer.wte.lora_embedding_B": torch.zeros(16, 2),
            })
        ),
        "changes transformer.wte.base_layer.weight, which is tied in",
    ),
    "a reward model": (
        lambda f: edit(f, task_type="SEQ_CLS"), "not a policy but an adapter of kind SEQ_CLS"
    ),
    "damaged": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_no_adapter_of_its_base_is_refused_in_one_line(case, tmp_path, tokenizer):
    folder = saved(tmp_path / "adapter", make_base(tmp_path / "base", tokenizer), tokenizer)
    change, said = REFUSED[case]
    change(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load_policy(str(folder), tokenizer)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "whole", [dict(modules_to_save=["lm_head"]), dict(target_modules=["q_proj", "embed_tokens"])]
)
@pytest.mark.parametrize("tied", [False, True])
def test_whole_layers_and_embeddings_of_an_adapter_are_read_where_they_are_not_tied(
    whole, tied, tmp_path, tokenizer
):
    base = make_base(tmp_path / "base", tokenizer, "llama, tied" if tied else "llama")
    given = dict(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    plain = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied layers, which peft lets pass
        written = peft.get_peft_model(plain, peft.LoraConfig(**given | whole))
        written.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    if tied:
        with pytest.raises(ModelError, match=r"which is tied in|is missing in that model"):
            load_policy(str(tmp_path / "adapter"), tokenizer)
    else:
        read, expected = load_policy(str(tmp_path / "adapter"), tokenizer), logits(written)
        assert (logits(read) - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_an_adapter_of_another_base_names_both(tmp_path, tokenizer):
    folder = saved(tmp_path / "adapter", make_base(tmp_path / "base", tokenizer), tokenizer)
    other = make_base(tmp_path / "other", tokenizer, "llama")
    edit(folder, base_model_name_or_path=str(other))
    with pytest.raises(ModelError, match=f"{folder}: not an adapter of {other}: ") as caught:
        load_policy(str(folder), tokenizer)
    assert "\n" not in str(caught.value)


def test_the_network_is_not_asked_for_a_local_adapter(tmp_path, tokenizer, monkeypatch):
    folder = saved(tmp_path / "adapter", make_base(tmp_path / "base", tokenizer), tokenizer)
    import socket

    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(hub, "snapshot_download", None)
    load_policy(str(folder), tokenizer)


def test_without_peft_a_line_says_how_it_is_installed(tmp_path, tokenizer, monkeypatch):
    folder = saved(tmp_path / "adapter", make_base(tmp_path / "base", tokenizer), tokenizer)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    for call in (layers.require_peft, lambda: load_policy(str(folder), tokenizer)):
        with pytest.raises(ModelError, match="need peft, which is not installed; pip install peft"):
            call()


def test_a_rank_above_the_width_and_a_layer_that_is_none_are_refused(base, tokenizer):
    model = load_policy(str(base), tokenizer)
    with pytest.raises(TrainingError, match="lora must be at most the model's width, 16, got 17"):
        add_adapter(model, replace(SETTINGS, lora=17))
    for name in ("lm_head", "wte", "nothing", "roj"):
        with pytest.raises(
            TrainingError, match=f"lora_target_modules {name}: no such linear layer"
        ):
            add_adapter(model, replace(SETTINGS, lora_target_modules=f"c_proj,q_proj,{name}"
                                       .replace("q_proj," if "GPT2" in type(model).__name__
                                                else "c_proj,", "")))  # fmt: skip
    assert not hasattr(model, "peft_config")
    add_adapter(model, replace(SETTINGS, lora=16))


def test_named_layers_alone_are_adapted(tmp_path, tokenizer):
    model = load_policy(str(make_base(tmp_path / "base", tokenizer)), tokenizer)
    add_adapter(model, replace(SETTINGS, lora_target_modules=" attn.c_proj, c_fc", lora_alpha=5))
    parts = {re.sub(r"h\.\d\.", "", name).split(".lora_")[0] for name in file_names(model)}
    assert parts == {f"base_model.model.transformer.{n}" for n in ("attn.c_proj", "mlp.c_fc")}
    assert model.peft_config["default"].lora_alpha == 5


def test_what_is_no_adapter_is_not_merged_and_nothing_is_overwritten(tmp_path, tokenizer):
    base = make_base(tmp_path / "base", tokenizer)
    with pytest.raises(ModelError, match="not an adapter, so there is nothing to merge"):
        merge(base, tmp_path / "out")
    with pytest.raises(ModelError, match="exists already"):
        merge(saved(tmp_path / "adapter", base, tokenizer), base)
    assert not (tmp_path / "out").exists()
