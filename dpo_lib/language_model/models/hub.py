"""Folders in the hub's format: read without running what they hold, written whole or not at all.

Weights are read from safetensors only, and a model is built from transformers' own classes, never
from code or kernels that a folder names. In what is built dropout is off and GELU is one kernel.
"""

import copy
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    logging,
)

from dpo_lib.language_model.files import standing, whole

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
ADAPTER, _INDEX = "adapter_config.json", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FETCHED = ("*.json", "*.txt", "*.model", "*.safetensors")
# What a configuration may say and we do not follow: code, kernels and files from elsewhere.
_NOT_FOLLOWED = (
    "auto_map",
    "attn_implementation",
    "experts_implementation",
    "transformers_weights",
)


class ModelError(ValueError):
    """Why a model or tokenizer cannot be used or saved, in one line."""


def find_folder(name: str | Path) -> Path:
    """The local folder of a model: the one named, or the hub's, fetched without its pickles."""
    path = Path(name).expanduser()
    folder = standing(path) if path.name else path
    if folder.is_dir():
        if _is_model(folder / "model") and not _is_model(folder):
            raise ModelError(f"{name}: the folder of a run; its model is {folder / 'model'}")
        return folder
    if not _HUB_NAME.fullmatch(str(name)) or Path(path.parts[0]).exists():
        raise ModelError(f"{name}: no such folder")
    try:
        wanted = dict(allow_patterns=_FETCHED, ignore_patterns="*/*")
        return Path(snapshot_download(str(name), **wanted))
    except Exception as error:  # of many kinds, and of many lines
        reason = first_line(error)
        raise ModelError(f"{name}: no such folder, and no hub model: {reason}") from None


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter's configuration, and no weights of a whole model."""
    whole = any((folder / file).exists() for file in ("model.safetensors", _INDEX))
    return (folder / ADAPTER).is_file() and not whole


def read_tokenizer(name: str | Path, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder of a name."""
    if "auto_map" in read_json(folder, "tokenizer_config.json", missing_ok=True):
        raise ModelError(f"{name}: its tokenizer is code, which is never run")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of many kinds, and of many lines
        raise ModelError(f"{name}: no tokenizer: {first_line(error)}") from None
    if len(tokenizer) < 2:  # what transformers makes of a folder that has no tokenizer files
        raise ModelError(f"{name}: no tokenizer files")
    return tokenizer


def read_model(
    name: str | Path,
    folder: Path,
    classes,
    ending: str,
    dtype: torch.dtype,
    given: Collection[str] = (),
) -> PreTrainedModel:
    """The model in the folder of a name.

    Args:
        classes: transformers' mapping from configurations to models of the kind wanted.
        ending: of the name of the class that wrote the folder; "" for all but classifiers.
        dtype: of the weights.
        given: weights that an adapter brings; a policy is read as a classifier for their sake.
    """
    settings = read_json(folder, "config.json")
    if not given:
        _check_kind(name, settings, ending)
    _check_weights(name, folder)
    settings = {key: value for key, value in settings.items() if key not in _NOT_FOLLOWED}
    try:
        config = CONFIG_MAPPING[settings.get("model_type")].from_dict(settings)
        # a concrete class, not an Auto class: those may run code that comes with the weights
        read = classes[type(config)].from_pretrained
        config.num_labels = 1 if given else config.num_labels
    except (KeyError, TypeError, ValueError) as error:
        kind = settings.get("model_type")
        raise ModelError(f"{name}: no model of type {kind}: {first_line(error)}") from None
    options = dict(use_safetensors=True, local_files_only=True, output_loading_info=True)
    try:
        model, found = build(lambda c: read(folder, config=c, dtype=dtype, **options), config)
    except Exception as error:  # of many kinds, and of many lines
        raise ModelError(f"{name}: cannot be loaded: {first_line(error)}") from None
    if missing := {*found["missing_keys"]} - {*given}:  # transformers makes random numbers of them
        raise ModelError(f"{name}: no weights for {min(missing)}")
    return model


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model with the configuration that it came with, and its tokenizer."""
    with quiet():
        model.save_pretrained(folder)
        config_to_save(model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def build(make: Callable, config: PreTrainedConfig, seed: int = 0):
    """`make(config)` with noise off and GELU fused, the global generator left as it was.

    The configuration's own values are kept aside, for `config_to_save`.
    """
    ours = {key: v for key, value in vars(config).items() if (v := _ours(key, value)) is not None}
    theirs = {key: getattr(config, key) for key in ours}
    config.update(ours)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.default_generator.manual_seed(seed)
        made = make(config)
    model = made[0] if isinstance(made, tuple) else made
    model.config_replaced = model.base_model.config_replaced = theirs
    return made


def config_to_save(model: PreTrainedModel) -> PreTrainedConfig:
    """A copy of the configuration, with the values it had before ours."""
    config = copy.deepcopy(model.config)
    config.update(getattr(model, "config_replaced", {}))
    return config


@contextmanager
def whole_folder(directory: str | Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `directory` when the block ends well.

    A process killed at any moment leaves the old model or the new one: `find_folder` finds it.

    Raises:
        ModelError: `directory` holds something that is no model; it would be lost.
    """
    directory = Path(os.path.abspath(directory))
    _refuse_to_replace(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with whole(directory) as [scratch]:
        scratch.mkdir()
        yield scratch


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and tables from transformers; what is wrong comes as one line from here."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _refuse_to_replace(directory: Path) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ModelError(f"{directory}: not a plain folder, so no model is saved there")
    entries = list(directory.iterdir()) if directory.exists() else []
    model = _is_model(directory) and all(path.is_file() for path in entries)
    if entries and not model:
        raise ModelError(f"{directory}: holds other files, so no model is saved there")


def _is_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("config.json", ADAPTER))


def _ours(key: str, value) -> float | str | None:
    """What is built in place of a configuration's value; None where that stays."""
    noise = "drop" in key or "jitter" in key  # jitter: a mixture's router, while it trains
    if noise and isinstance(value, int | float) and not isinstance(value, bool):
        return 0.0
    # transformers writes `gelu_new` as eight operations, whose results all wait for the backward
    # pass: in a small model they are most of its memory and a third of its time.
    return "gelu_pytorch_tanh" if value == "gelu_new" else None


def _check_kind(name: str | Path, settings: dict, ending: str) -> None:
    classifier = "ForSequenceClassification"
    made = ", ".join(settings.get("architectures") or ["unknown"])
    if ending and not made.endswith(ending):
        raise ModelError(f"{name}: not a reward model but {made}")
    if not ending and made.endswith(classifier):
        raise ModelError(f"{name}: not a policy but a reward model ({made})")


def _check_weights(name: str | Path, folder: Path) -> None:
    if (folder / ADAPTER).exists():
        raise ModelError(f"{name}: an adapter and a model in one folder; take one of them out")
    if (folder / "model.safetensors").is_file():
        return
    index = read_json(folder, _INDEX, missing_ok=True)
    shards = list(map(str, index.get("weight_map", {}).values()))
    pickles = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
    pickles += [shard for shard in shards if not shard.endswith(".safetensors")]
    if pickles:
        raise ModelError(f"{name}: {min(pickles)} can run code; only safetensors are read")
    if not shards:
        raise ModelError(f"{name}: no model.safetensors")


def read_json(folder: Path, file: str, missing_ok: bool = False) -> dict:
    try:
        value = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise ModelError(f"{folder}: no {file}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / file}: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{folder / file}: not a JSON object")
    return value


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
