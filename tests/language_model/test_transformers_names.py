"""The names of transformers on which `_transformers` and others lean: which one went missing."""

import ast

import pytest
import transformers
from conftest import ROOT
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from dpo_lib.language_model._transformers import CACHES, attention_of, cache_of

SOURCES = sorted(ROOT.glob("dpo_lib/**/*.py"))
USES = {
    "CONFIG_MAPPING": "the configuration of a folder's model_type",
    "MODEL_FOR_CAUSAL_LM_MAPPING": "policies: concrete classes, which run no code of a folder",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING": "reward models in the hub's format",
    "GradientCheckpointingLayer": "the blocks that are sharded",
    "AttentionInterface": "the stream without padding",
}


def missing(name, use):
    return f"transformers {transformers.__version__} has no {name}: {use}"


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=13, n_layer=1, n_embd=8, n_head=2))


@pytest.mark.parametrize("name", USES)
def test_a_public_name_is_there(name):
    assert hasattr(transformers, name), missing(name, USES[name])


def test_a_models_attention_has_the_name_that_was_set():
    model = gpt2()
    what = missing("config._attn_implementation", "gives a model its own attention back")
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert getattr(model.config, "_attn_implementation", None) == name, what
        assert attention_of(model) == name


@pytest.mark.parametrize(
    "make",
    [gpt2, lambda: MambaForCausalLM(MambaConfig(vocab_size=13, hidden_size=8))],
    ids=["attention", "recurrent"],
)
def test_a_models_cache_has_one_of_the_known_names(make, caplog):
    ids = transformers.BatchEncoding({"input_ids": [[1, 2]]}, tensor_type="pt")["input_ids"]
    output = make().eval()(input_ids=ids, use_cache=True)
    caplog.clear()  # of what a forward pass says
    found = cache_of(output)
    assert len(found) == 1, missing(" or ".join(CACHES), f"sampling; there are {list(output)}")
    assert hasattr(*found.values(), "reorder_cache"), missing("reorder_cache", "rows that ended")
    assert caplog.records == []


def test_gpt2s_blocks_are_what_sharding_looks_for():
    layer = transformers.GradientCheckpointingLayer
    assert all(isinstance(block, layer) for block in gpt2().transformer.h)
    assert sum(isinstance(module, layer) for module in gpt2().modules()) == 1


LIBRARIES = ("accelerate", "tokenizers", "torch", "transformers")
INNER = ("transformers.models", "transformers.activations")  # where names move without notice


def hidden_names(source):
    """What a source file takes of the libraries that is private, or from their inner modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            own = ast.unparse(node.value) in ("self", "cls")
            # names such as __len__ and _repr_html_ are protocols, not somebody's inside
            private = node.attr.startswith("_") and not node.attr.endswith("_")
            yield from [ast.unparse(node)] * (private and not own)
            continue
        else:
            continue
        for name in names:
            if name.split(".")[0] in LIBRARIES and (name.startswith(INNER) or "._" in name):
                yield name


def test_hidden_names_are_found():  # control
    source = "from transformers.models.auto import x\nimport torch._inductor\nmodel._private\n"
    source += "from transformers.activations import y\nself._own\nfrom dpo_lib import _hub\n"
    source += "figure._repr_html_()\n"
    assert set(hidden_names(source)) == {
        "transformers.models.auto.x",
        "torch._inductor",
        "model._private",
        "transformers.activations.y",
    }


def test_private_names_of_libraries_stand_in_one_module():
    found = {path.stem: set(hidden_names(path.read_text())) for path in SOURCES}
    assert found.pop("_transformers") == {
        "model.config._attn_implementation",
        "made_by._saved_self",
        "made_by._saved_approximate",
    }
    assert {stem: names for stem, names in found.items() if names} == {}
