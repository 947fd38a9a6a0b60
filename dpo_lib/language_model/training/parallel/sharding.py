"""Weights, gradients and optimiser spread over the processes (FSDP), where that is asked for.

`accelerate launch --use_fsdp` asks for it. torch's `fully_shard` takes every block of the
transformer; embeddings and output layer stay whole in each process, since log-probabilities are
taken from the output layer's weights and not through the model's own forward pass. Whoever
passes through a sharded block waits for all others: they must pass equally often.
"""

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def is_wanted() -> bool:
    """Whether the launcher of this run asks for sharding."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    return asked and int(os.environ.get("WORLD_SIZE", 1)) > 1


def shard(module: nn.Module, processes: int) -> None:
    """Keep one part in `processes` of each block's weights here, in place.

    Raises:
        ValueError: the module has no blocks that transformers calls such.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import GradientCheckpointingLayer  # what blocks are; slow to import

    blocks = [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(f"{type(module).__name__}: transformers does not name its blocks")
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
        # gradients are sums over the processes, as those of the other parameters are
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)


def gather(module: nn.Module) -> None:
    """Give each process the whole weights, to save them: the module cannot be trained on."""
    for owner in list(module.modules()):
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if is_sharded(parameter):
                setattr(owner, name, nn.Parameter(whole(parameter.detach())))


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has only a part of the tensor."""
    return hasattr(tensor, "full_tensor")  # a DTensor, without the import


def whole(tensor: Tensor) -> Tensor:
    """All of it; every process must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole value, spread as the parameter of its shape is; a copy."""
    if not is_sharded(parameter) or value.shape != parameter.shape:
        return value.clone()
    from torch.distributed.tensor import distribute_tensor

    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """torch's `clip_grad_norm_`, of parameters of which some are sharded; returns the norm."""
    parameters = list(parameters)
    kinds = [[p for p in parameters if is_sharded(p) == sharded] for sharded in (False, True)]
    kinds = [kind for kind in kinds if kind]
    if len(kinds) == 1 and not is_sharded(kinds[0][0]):
        return nn.utils.clip_grad_norm_(parameters, most)
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind])) for kind in kinds]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, most, norm)
    return norm
