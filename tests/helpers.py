"""What the tests of the tables share: random worlds with zeros and extremes, and shorthands."""

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpo_lib.world import World

settings.register_profile(
    "book", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("book")
torch.set_num_threads(1)  # the tables are tiny: threads would only wait for each other

# exp overflows float32 above 88 and float64 above 709; 1e-300 and 1e-45 are nearly 0 in each.
_MAGNITUDES = (0.0, 1e-300, 1e-45, 1.0, 88.0, 89.0, 709.0, 710.0, 1e6)
numbers = st.sampled_from([sign * m for m in _MAGNITUDES for sign in (1, -1)]) | st.floats(
    -1e6, 1e6
)
moderate = st.floats(-5, 5)
betas = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)
_weights = st.just(0.0) | st.floats(1e-300, 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def tables(draw, shape, elements=numbers):
    return torch.from_numpy(draw(arrays(float, shape, elements=elements)))


@st.composite
def log_policies(draw, shape, within=None):
    """Log-distributions with exact zeros, on the support of `within` if it is given."""
    weights = draw(tables(shape, elements=_weights))
    if within is not None:
        weights = weights.masked_fill(within.isneginf(), 0.0)
    empty = (weights.sum(-1, keepdim=True) == 0).expand_as(weights)
    fallback = torch.ones_like(weights) if within is None else within.exp()
    return torch.where(empty, fallback, weights).log().log_softmax(-1)


@st.composite
def worlds(draw, rewards=numbers):
    """1-3 prompts, 2-6 responses, some of them impossible, rewards of up to a million."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 6)))
    return World(draw(tables(shape, rewards)), draw(log_policies(shape)))
