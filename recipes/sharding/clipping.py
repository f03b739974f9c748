"""Gradient clipping where parameters are sharded in different ways, or some of them not at all.

torch's ``clip_grad_norm_`` takes DTensors of one mesh only: FSDP2 over tensor parallelism has two, and tensor
parallelism alone leaves norms and embeddings as plain tensors.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from lightning_adafactor.sharded.layout import local


@torch.no_grad()
def clip_by_norm(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scales the gradients so that the Euclidean norm of all their elements is at most ``limit``, in place.

    All processes call this. It takes an all-reduce for each way of sharding and mesh dimension that shards.

    Args:
        parameters: The parameters; those without a gradient are left out.
        limit: The largest norm.

    Returns:
        The norm before, that of the whole gradients, in float32.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    groups: dict[tuple[DeviceMesh | None, tuple[int, ...]], list[Tensor]] = {}
    for gradient in gradients:
        groups.setdefault(_sharding(gradient), []).append(local(gradient))
    squares = []
    for (mesh, dims), shards in groups.items():
        square = get_total_norm(shards).float().square()
        for dim in dims:
            assert mesh is not None
            distributed.all_reduce(square, group=mesh.get_group(dim))
        squares.append(square)
    total = torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
    scale = (limit / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(scale)
    return total


@torch.no_grad()
def clip_by_value(parameters: Iterable[Tensor], limit: float) -> None:
    """Clamps each element of the gradients to ``[-limit, limit]``, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            local(parameter.grad).clamp_(-limit, limit)


def _sharding(gradient: Tensor) -> tuple[DeviceMesh | None, tuple[int, ...]]:
    """The mesh of a gradient and its dimensions that shard it; replicas count once."""
    if not isinstance(gradient, DTensor):
        return None, ()
    dims = (dim for dim, placement in enumerate(gradient.placements) if not placement.is_replicate())
    return gradient.device_mesh, tuple(dims)
