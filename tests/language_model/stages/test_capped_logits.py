"""Models whose logits are capped (Gemma 2) or scaled (Cohere): every stage trains them."""

import json
import shutil

import pytest
import torch
import transformers
from small_world import small_run, small_world

from dpo_lib.language_model.models.policies import load_policy, load_tokenizer, save_policy
from dpo_lib.language_model.scoring import plain_logps
from dpo_lib.language_model.settings import (
    DPOSettings,
    KTOSettings,
    OnlineDPOSettings,
    PPOSettings,
    RewardSettings,
    SFTSettings,
)
from dpo_lib.language_model.stages import DPO, KTO, PPO, SFT, OnlineDPO, Reward

STAGES = {
    "sft": (SFT, SFTSettings, {}),
    "reward": (Reward, RewardSettings, {}),
    "dpo": (DPO, DPOSettings, {}),
    "kto": (KTO, KTOSettings, {}),
    "online": (OnlineDPO, OnlineDPOSettings, dict(reward="true", max_new_tokens=8)),
    "ppo": (PPO, PPOSettings, dict(reward="true", max_new_tokens=8, entropy_coefficient=0.01)),
}
KINDS = {
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "cohere": (transformers.CohereConfig, transformers.CohereForCausalLM),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small world, and beside it a folder of each kind in the hub's format, random weights."""
    folder = tmp_path_factory.mktemp("capped")
    torch.set_num_threads(1)
    given = small_world(folder, pairs=12, reviews=12, prompts=8, test=4)
    tokenizer = load_tokenizer(given["model"])
    eos = tokenizer.eos_token_id
    for name, (config, cls) in KINDS.items():
        own = dict(head_dim=8, final_logit_softcapping=5.0) if name == "gemma2" else {}
        torch.manual_seed(0)
        model = cls(
            config(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, **own,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=128, bos_token_id=eos, eos_token_id=eos, pad_token_id=eos,
            )
        )  # fmt: skip
        save_policy(model, tokenizer, folder / name)
    return folder


def trained(folder, kind, name, out, **changes):
    stage, settings, own = STAGES[name]
    given = dict(model=str(folder / kind), data=str(folder / "world"), out=str(folder / out))
    return small_run(stage, settings, **given | own | dict(steps=4, lr=1e-3) | changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STAGES)
def test_it_trains_resumes_to_the_byte_and_its_model_loads_in_plain_transformers(
    folder, kind, name
):
    if (kind, name) == ("cohere", "reward"):
        with pytest.raises(ValueError, match=r"^no reward models of type cohere in the hub's"):
            trained(folder, kind, name, f"{kind}-{name}")
        return
    path, lines = trained(folder, kind, name, f"{kind}-{name}")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    again = path.with_name(f"{path.name}-again")
    shutil.copytree(path, again)
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints/step-000004")
    trained(folder, kind, name, again.name, resume=True)
    for file in ("metrics.jsonl", "model/model.safetensors", "model/config.json"):
        assert (again / file).read_bytes() == (path / file).read_bytes()
    config = transformers.AutoConfig.from_pretrained(path / "model")
    assert config.model_type == kind
    assert getattr(config, "final_logit_softcapping", 5.0) == 5.0


@pytest.mark.parametrize("kind", KINDS)
def test_dpo_starts_at_the_logarithm_of_two_and_its_first_log_probabilities_are_the_model_s_own(
    folder, kind
):
    _, lines = trained(folder, kind, "dpo", f"{kind}-start", steps=1, batch_size=12)
    assert lines[0]["loss"] == pytest.approx(0.6931471805599453, abs=1e-7)
    assert lines[0]["rewards/margins"] == 0
    tokenizer = load_tokenizer(str(folder / kind))
    stage = DPO.from_settings(
        DPOSettings(model=str(folder / kind), data=str(folder / "world"), out="", max_length=100)
    )[0]
    policy = load_policy(str(folder / kind), tokenizer)
    chosen = [(pair.prompt, pair.chosen) for pair in stage.pairs]
    with torch.no_grad():
        mean = sum(logps.sum().item() for logps in plain_logps(policy, chosen)) / len(chosen)
    assert lines[0]["logps/chosen"] == pytest.approx(mean, rel=1e-5)


def test_a_run_says_that_it_goes_one_sequence_at_a_time(folder):
    path, _ = trained(folder, "gemma2", "sft", "said", steps=1)
    about = json.loads((path / "settings.json").read_text())["about"]
    assert about["layout"].startswith("one sequence at a time (its logits are no multiple")
    path, _ = trained(folder, "cohere", "sft", "said-not", steps=1)
    about = json.loads((path / "settings.json").read_text())["about"]
    assert "one sequence" not in about["layout"]
