"""What of transformers and torch is private, or differs between versions; nothing else here is.

`tests/language_model/test_transformers_names.py` says by name what went missing.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.functional import gelu
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput

CACHES = ("cache", "past_key_values", "cache_params")  # one name from 5.24 on; two before it


def cache_of(output: ModelOutput) -> dict[str, Cache]:
    """What a model remembers of the tokens before, under the name by which it is given back.

    Empty if there is nothing. Only the names that an output has are looked at: asking it for an
    old name gives the new one's value and a notice on stderr.
    """
    return {name: value for name, value in output.items() if name in CACHES}


def attention_of(model: PreTrainedModel) -> str:
    """The name of the model's attention function: what `set_attn_implementation` sets."""
    return model.config._attn_implementation


def computed_again(made_by) -> Callable[[], Tensor] | None:
    """How to compute an operation's result again from what it keeps for its backward pass.

    Args:
        made_by: the result's `grad_fn`.

    Returns:
        None for an operation that is not known here, or keeps its parts under other names.
    """
    try:
        if type(made_by).__name__ == "GeluBackward0":
            return partial(gelu, made_by._saved_self, approximate=made_by._saved_approximate)
        if type(made_by).__name__ == "NativeLayerNormBackward0":
            names = ("input", "result1", "result2", "weight", "bias")
            return partial(_normed, *(getattr(made_by, f"_saved_{name}") for name in names))
    except AttributeError:
        return None
    return None


def _normed(x: Tensor, mean: Tensor, spread: Tensor, weight, bias) -> Tensor:
    """A layer norm, `spread` being 1 over the standard deviation."""
    normed = (x - mean) * spread
    normed = normed if weight is None else normed * weight
    return (normed if bias is None else normed + bias).to(x.dtype)
