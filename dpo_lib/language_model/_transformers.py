"""What of transformers is private, or differs between its versions; nothing else here is either.

`tests/language_model/test_transformers_names.py` says by name what went missing.
"""

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
