"""A finite world: a few prompts, a few responses, a known reward and a reference policy.

Everything that the paper writes as an expectation over responses is a finite sum here, so every
claim can be computed exactly. Tensors may carry any leading batch axes (worlds, seeds):
the last two axes are always prompts and responses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lib._checks import check_finite, check_log_policy, check_positive, check_same_shape


@dataclass(frozen=True)
class World:
    """A true reward and a reference policy on the same prompts and responses (section 3)."""

    true_reward: Tensor  # r*(x, y), shape (..., prompts, responses), reward units
    log_ref: Tensor  # log pi_ref(y | x), same shape, nats; -inf where impossible

    def __post_init__(self):
        check_same_shape(true_reward=self.true_reward, log_ref=self.log_ref)
        if self.true_reward.dim() < 2:
            shape = tuple(self.true_reward.shape)
            raise ValueError(f"true_reward needs axes (prompts, responses), got shape {shape}")
        check_finite("true_reward", self.true_reward)
        check_log_policy("log_ref", self.log_ref)

    @property
    def prompts(self) -> int:
        return self.true_reward.shape[-2]

    @property
    def responses(self) -> int:
        return self.true_reward.shape[-1]


def three_answers() -> World:
    """The book's smallest world: one prompt, three responses, a reference that likes the worst.

    The best response has reward 2 and reference probability 0.2; a policy is a point of a
    triangle, so this world can be drawn whole.
    """
    return World(
        true_reward=torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64),
        log_ref=torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log(),
    )


def random_world(
    generator: torch.Generator,
    prompts: int = 1,
    responses: int = 6,
    batch: tuple[int, ...] = (),
    impossible: int = 0,
    reward_scale: float = 1.0,
) -> World:
    """Draw worlds: rewards from N(0, reward_scale^2), references from Dirichlet(1, ..., 1).

    Args:
        generator: the only source of randomness.
        prompts, responses: sizes of the last two axes.
        batch: leading axes, one world for each entry.
        impossible: how many responses of each prompt have reference probability exactly 0.
        reward_scale: standard deviation of the rewards, in reward units.

    Raises:
        ValueError: if fewer than one response stays possible, or the scale is not positive.
    """
    if not 0 <= impossible < responses:
        raise ValueError(f"impossible must lie in [0, {responses}), got {impossible}")
    check_positive("reward_scale", reward_scale)
    shape = (*batch, prompts, responses)
    reward = reward_scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    # A Dirichlet(1, ..., 1) draw is a normalised vector of exponential variables.
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    weights = -torch.log1p(-uniform)
    if impossible:
        order = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(-1)
        weights = weights.masked_fill(order < impossible, 0.0)
    return World(reward, (weights / weights.sum(-1, keepdim=True)).log())


def sample_responses(log_policy: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Draw responses from a policy table.

    Args:
        log_policy: log pi(y | x), shape (..., prompts, responses).
        draws: number of draws for each prompt.

    Returns:
        indices of responses, shape (..., prompts, draws), int64.
    """
    check_log_policy("log_policy", log_policy)
    rows = log_policy.detach().exp().reshape(-1, log_policy.shape[-1])
    drawn = torch.multinomial(rows, draws, replacement=True, generator=generator)
    return drawn.reshape(*log_policy.shape[:-1], draws)
