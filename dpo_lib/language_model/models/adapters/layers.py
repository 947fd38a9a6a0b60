"""LoRA adapters in a model: put in, found, taken out.

A targeted layer computes with W + (alpha / r) B A, of which only A, shape (r, in), and B, shape
(out, r), are trained (Hu et al. 2021, arXiv 2106.09685, equation (3)). A is drawn and B zero, so a
new adapter changes nothing. The model stays one of transformers' own. `peft` is an extra, imported
where it is needed.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dpo_lib.language_model._transformers import computed_again
from dpo_lib.language_model.models.hub import ModelError, quiet
from dpo_lib.language_model.settings import Settings, TrainingError

NAME = "default"  # of the one adapter in a model
BEFORE = "base_model.model."  # every name in peft's files


def require_peft() -> None:
    """Raise a ModelError, with the remedy, where peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ModelError("adapters need peft, which is not installed; pip install peft") from None


def add_adapter(model: PreTrainedModel, settings: Settings, base: str = "") -> PreTrainedModel:
    """Put a new adapter into a model, in place; everything else in it is frozen.

    Args:
        model: on any device.
        settings: `lora`, `lora_alpha`, `lora_target_modules`, and the seed that A is drawn from;
            the global generator is left as it was.
        base: what the saved adapter shall name, a hub's name or a folder.

    Raises:
        TrainingError: no such layers, or a rank above the smaller side of the largest.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    layers = _targets(model, settings.lora_target_modules)
    width = max(min(layer.weight.shape) for layer in layers.values())
    if settings.lora > width:
        raise TrainingError(f"lora must be at most the model's width, {width}, got {settings.lora}")
    alpha = settings.lora_alpha or 2 * settings.lora
    config = LoraConfig(
        r=settings.lora,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        target_modules=list(layers),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(devices=[]), quietly():
        torch.default_generator.manual_seed(settings.seed)
        inject_adapter_in_model(config, model, NAME)
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.__class__ = _thrifty(type(layer))
    model.base_model.peft_config = model.peft_config  # a reward model keeps the body alone
    return model


@cache
def _thrifty(kind: type) -> type:
    """peft's layer with a forward pass of our own, of the same numbers, that keeps less.

    It makes one array where peft's makes four, of which three leave holes in a CPU's memory
    between those that wait for the backward pass. And A's input, which no frozen layer keeps, is
    computed again from what the operation before it keeps anyway. Without the two a GPT-2's step
    takes half as much memory again.
    """

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)  # (..., out)
        keep = partial(_keep, x.grad_fn, x.data_ptr())
        with torch.autograd.graph.saved_tensors_hooks(keep, _give_back):
            low = nn.functional.linear(x, self.lora_A[NAME].weight)
        factors = (low * self.scaling[NAME]).flatten(0, -2), self.lora_B[NAME].weight.T
        result.flatten(0, -2).addmm_(*(factor.to(result.dtype) for factor in factors))
        return result

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": __name__})


def _keep(made_by, place: int, tensor: Tensor):
    """What is kept of a tensor that waits for the backward pass: of A's input, how to compute it.

    Args:
        made_by, place: the input's backward step and address. Not the input: autograd keeps this
            function as long as the tensor.
    """
    again = computed_again(made_by)
    if again is None or tensor.data_ptr() != place:
        return tensor
    return again, tensor.shape


def _give_back(kept) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept[0]().view(kept[1])


def is_adapted(model: nn.Module) -> bool:
    """Whether there is an adapter in the model."""
    return hasattr(model, "peft_config")


@torch.no_grad()
def start_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its adapter: a second tree of modules on the same, frozen tensors.

    It costs no memory and never moves, and no adapter can be left on in it: it has none. An
    adapter that was *merged* on loading is part of those tensors, as it must be.
    """
    own = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, own)
    take_out(twin)
    return twin.requires_grad_(False).eval()


def file_names(model: nn.Module, prefix: str = "") -> dict[str, str]:
    """The adapter's parameters: name in peft's files -> in the model; `prefix` is of a body."""
    parts = {name: name.split(".") for name, _ in model.named_parameters() if ".lora_" in name}
    return {
        BEFORE + prefix + ".".join(part for part in split if part != NAME): name
        for name, split in parts.items()
    }


def take_out(model: PreTrainedModel, merge: bool = False) -> None:
    """Leave the targeted layers alone where their adapted ones stood, in place."""
    for own, layer in list(model.named_modules()):
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            if merge:
                layer.merge()
            parent, _, last = own.rpartition(".")
            setattr(model.get_submodule(parent), last, layer.get_base_layer())
    for module in (model, model.base_model):
        vars(module).pop("peft_config", None)


def _targets(model: PreTrainedModel, asked: str | None) -> dict[str, nn.Module]:
    """The linear layers that a comma list names by the ends of their names; by default all.

    Never the output layer: log-probabilities are taken from its weights, past any adapter.
    """
    output = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output
    }
    if asked in (None, "all-linear"):
        return linear
    wanted = [word.strip() for word in asked.split(",")]
    for word in wanted:
        if not any(f".{name}".endswith(f".{word}") for name in linear):
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise TrainingError(
                f"lora_target_modules {word}: no such linear layer; there are {ends}"
            )
    return {n: m for n, m in linear.items() if any(f".{n}".endswith(f".{w}") for w in wanted)}


@contextmanager
def quietly() -> Iterator[None]:
    """Without what peft says of layers whose weights stand the other way round."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        yield
