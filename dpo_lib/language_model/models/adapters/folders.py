"""Folders of adapters, in the format of `peft`: saved, read, merged.

A folder is read as the model that its base is *with* the adapter: the adapter is merged, and no
switch can be forgotten. An adapter that asks for more than LoRA's matrices is refused.
"""

import json
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpo_lib.language_model.models import hub
from dpo_lib.language_model.models.adapters.layers import (
    BEFORE,
    NAME,
    file_names,
    quietly,
    require_peft,
    take_out,
)
from dpo_lib.language_model.models.hub import (
    ADAPTER,
    ModelError,
    find_folder,
    first_line,
    is_adapter,
)

WEIGHTS, SHIFT = "adapter_model.safetensors", "reward_shift.json"
POLICY, REWARD = "CAUSAL_LM", "SEQ_CLS"  # peft's words
CLASSIFIER = "ForSequenceClassification"  # what the hub calls a reward model
_FOLLOWED = {
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
}  # fmt: skip
_CHECKED = {
    "base_model_name_or_path", "modules_to_save", "peft_type", "task_type", "auto_mapping",
    "init_lora_weights", "revision",
}  # fmt: skip
_OF_NO_CONSEQUENCE = {"inference_mode", "lora_dropout", "peft_version"}
_INITIAL = (True, False, None, "gaussian", "eva")  # the others change the base's weights
_ELSEWHERE = "merge it with peft's merge_and_unload, and name the folder that this is saved in"


def save_adapter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    head: Tensor | None = None,
) -> None:
    """Write a model's adapter as peft does, with the head of a reward model if it is one's body.

    Not by peft: it would ask the hub for the base, and write a set in the order of the day.
    """
    tokenizer.save_pretrained(folder)
    config, prefix = model.peft_config[NAME].to_dict(), ""
    config |= {"task_type": POLICY, "inference_mode": True}
    if head is not None:
        prefix = f"{model.base_model_prefix}."
        config |= {"task_type": REWARD, "modules_to_save": ["score"]}
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {key: model.get_parameter(own) for key, own in file_names(model, prefix).items()}
    if head is not None:
        tensors[f"{BEFORE}score.weight"] = head
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub model; of an adapter's base, if it has none beside it."""
    folder = find_folder(name)
    own = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    if own or not is_adapter(folder):
        return hub.read_tokenizer(name, folder)
    return read_tokenizer(_base_of(name, folder, _read_config(name, folder))[1])


def read_model(name: str | Path, classes, ending: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder or hub name; of an adapter, its base with the adapter merged.

    Args:
        classes, ending, dtype: as `hub.read_model` has them.
    """
    folder = find_folder(name)
    if is_adapter(folder):
        kind = _read_config(name, folder).get("task_type")
        if bool(ending) != (kind == REWARD):
            wanted = "a reward model" if ending else "a policy"
            raise ModelError(f"{name}: not {wanted} but an adapter of kind {kind}")
    return _read(name, folder, (classes, ending, dtype), ())


def _read(name, folder: Path, kind: tuple, above: tuple[Path, ...]) -> PreTrainedModel:
    """A model, or an adapter's base with it; `above` are the adapters whose base it is."""
    given = {"score.weight"} if kind[1] and above else ()  # an adapter brings the head
    if not is_adapter(folder):
        return hub.read_model(name, folder, *kind, given)
    if folder.resolve() in above:
        raise ModelError(f"{name}: an adapter that is its own base model")
    config, tensors = _read_config(name, folder), _read_tensors(name, folder)
    base, where = _base_of(name, folder, config)
    model = _read(base, where, kind, (*above, folder.resolve()))
    _merge(name, base, model, config, tensors)
    if (folder / SHIFT).is_file():
        model.config.reward_shift = hub.read_json(folder, SHIFT).get("reward_shift", 0.0)
    return model


def merge(name: str | Path, out: str | Path) -> None:
    """Write an adapter and its base as one plain folder; a reward model's with its head."""
    folder = find_folder(name)
    if not is_adapter(folder):
        raise ModelError(f"{name}: not an adapter, so there is nothing to merge")
    if Path(out).exists():
        raise ModelError(f"{out} exists already: choose another --out")
    kinds = {False: (MODEL_FOR_CAUSAL_LM_MAPPING, ""),
             True: (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, CLASSIFIER)}  # fmt: skip
    kind = kinds[_read_config(name, folder).get("task_type") == REWARD]
    tokenizer, model = read_tokenizer(name), read_model(name, *kind, torch.float32)
    with hub.whole_folder(out) as scratch:
        hub.write_model(model, tokenizer, scratch)


@torch.no_grad()
def _merge(name, base, model: PreTrainedModel, config: dict, tensors: dict[str, Tensor]) -> None:
    """Put an adapter that was read into its base, refuse what does not fit, and merge it."""
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    wrong = f"{name}: not an adapter of {base}"
    try:
        followed = {key: config[key] for key in _FOLLOWED & config.keys()}
        with quietly(), torch.device("meta"):  # a rank of a billion allocates nothing
            given = LoraConfig(**followed)
            inject_adapter_in_model(given, model, NAME, low_cpu_mem_usage=True)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{wrong}: {first_line(error)}") from None
    kept = [f".{module}." for module in config.get("modules_to_save") or ()]
    brought = {
        f"{BEFORE}{own}": own
        for own, _ in model.named_parameters()
        if any(module in f".{own}" for module in kept) and ".lora_" not in own
    }
    known = file_names(model) | brought
    for key in sorted(known.keys() ^ tensors.keys()):
        where = "the adapter" if key in known else "that model"
        raise ModelError(f"{wrong}: {key.removeprefix(BEFORE)} is missing in {where}")
    for key, own in known.items():
        have, need = tuple(tensors[key].shape), tuple(model.get_parameter(own).shape)
        if have != need:
            raise ModelError(f"{wrong}: {key.removeprefix(BEFORE)} is {have}, there {need}")
    _refuse_tied(name, base, model, brought.values())
    state = {own: tensors[key].float() for key, own in known.items()}
    model.load_state_dict(state, strict=False, assign=True)
    take_out(model, merge=True)
    model.requires_grad_(True)


def _refuse_tied(name, base, model: PreTrainedModel, brought: Collection[str]) -> None:
    """Merged, a change of one of two tied layers would be one of both."""
    owners = [(id(p), own) for own, p in model.named_parameters(remove_duplicate=False)]
    ids = [number for number, _ in owners]
    for number, own in owners:
        if ids.count(number) > 1 and (own in brought or own.endswith(".base_layer.weight")):
            raise ModelError(f"{name}: changes {own}, which is tied in {base}; {_ELSEWHERE}")


def _read_config(name: str | Path, folder: Path) -> dict:
    """An adapter's configuration, refused where it asks for more than can be merged exactly."""
    config = hub.read_json(folder, ADAPTER)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{name}: an adapter of type {config.get('peft_type')}, not LORA")
    usual = {"megatron_core": "megatron.core", "qalora_group_size": 16, "bias": "none"}
    mapping, revision = config.get("auto_mapping") or {}, config.get("revision")
    library = str(mapping.get("parent_library", "")) if isinstance(mapping, dict) else "no name"
    asked = {
        key: value
        for key, value in config.items()
        if key not in _FOLLOWED | _CHECKED | _OF_NO_CONSEQUENCE and value != usual.get(key)
    }
    asked |= {"init_lora_weights": config.get("init_lora_weights"), "auto_mapping": library}
    asked["revision"] = revision if revision != "main" else None
    if asked["init_lora_weights"] in _INITIAL:
        del asked["init_lora_weights"]
    if library.partition(".")[0] == "transformers":  # the base's class, which is not asked for
        del asked["auto_mapping"]
    for key in sorted(key for key, value in asked.items() if value):
        raise ModelError(f"{name}: {key} {asked[key]!r} is not followed here; {_ELSEWHERE}")
    return config


def _base_of(name: str | Path, folder: Path, config: dict) -> tuple[str, Path]:
    """The base model that an adapter names and its folder, from here, from the adapter, or a hub's.

    A path is looked for here first, as peft does.
    """
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(f"{name}: an adapter that names no base_model_name_or_path")
    here = Path(base).expanduser().exists()
    try:
        return base, find_folder(base if here or not (folder / base).is_dir() else folder / base)
    except ModelError as error:
        raise ModelError(f"{name}: its base model is not there: {error}") from None


def _read_tensors(name: str | Path, folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in hub.PICKLES)
        reason = f"{pickles[0]} can run code; only safetensors are read" if pickles else None
        raise ModelError(f"{name}: {reason or f'no {WEIGHTS}'}")
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{name}: {WEIGHTS} cannot be read: {first_line(error)}") from None
