"""What of a parameter is sharded over which process groups, and where its local shard lies in the whole."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from lightning_adafactor.entry import is_transposed
from lightning_adafactor.tiles import Region


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How a parameter is sharded, dimensions in the order of its memory (see ``Entry``).

    A mesh dimension of size 1 shards nothing.

    Attributes:
        mesh: The device mesh.
        shape: The shape of the whole parameter.
        transposed: Whether the last two dimensions are swapped relative to the parameter's own.
        rows: The mesh dimensions that shard the rows of its matrices.
        columns: Those that shard the columns.
        all: Those that shard anything, batch dimensions and vectors too.
    """

    mesh: DeviceMesh
    shape: tuple[int, ...]
    transposed: bool
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    all: tuple[int, ...]

    def groups(self, mesh_dims: Sequence[int]) -> tuple[ProcessGroup, ...]:
        """The process groups of some mesh dimensions, of which this process is a member."""
        return tuple(self.mesh.get_group(dim) for dim in mesh_dims)

    def is_first(self, mesh_dims: Sequence[int]) -> bool:
        """Whether this process is the first one along each of these mesh dimensions."""
        coordinate = self.mesh.get_coordinate()
        return coordinate is not None and not any(coordinate[dim] for dim in mesh_dims)


def layout_of(param: DTensor) -> Layout:
    """Finds out how a parameter is sharded.

    Raises:
        RuntimeError: The parameter has ``Partial`` placements.
    """
    mesh, transposed = param.device_mesh, is_transposed(param)
    sizes = tuple(mesh.size(mesh_dim) for mesh_dim in range(mesh.ndim))
    return Layout(mesh, *_sharded_dims(sizes, tuple(param.placements), tuple(param.shape), transposed))


@functools.lru_cache(
    maxsize=4096
)  # asked for each parameter in each step; not by mesh, for equal ones differ in groups
def _sharded_dims(
    sizes: tuple[int, ...], placements: tuple[Placement, ...], shape: tuple[int, ...], transposed: bool
) -> tuple[tuple[int, ...], bool, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What of a ``Layout`` follows from the sizes of the mesh's dimensions: all but the mesh."""
    sharding: dict[int, list[int]] = {}
    for mesh_dim, placement in enumerate(placements):
        if placement.is_partial():
            raise RuntimeError(
                f"Adafactor does not support parameters with Partial placements, and one has {placements}: "
                "redistribute it to Replicate() or Shard(dim)"
            )
        if is_shard(placement) and sizes[mesh_dim] > 1:
            sharding.setdefault(placement.dim, []).append(mesh_dim)
    dims = len(shape)
    rows = tuple(sharding.get(dims - 2, ())) if dims > 1 else ()
    columns = tuple(sharding.get(dims - 1, ())) if dims > 1 else ()
    if transposed:
        rows, columns = columns, rows
        shape = (*shape[:-2], shape[-1], shape[-2])
    everything = tuple(sorted(mesh_dim for mesh_dims in sharding.values() for mesh_dim in mesh_dims))
    return shape, transposed, rows, columns, everything


def is_shard(placement: Placement) -> TypeGuard[Shard | _StridedShard]:
    """Whether a placement shards a dimension; that of FSDP2 over tensor parallelism is not always a ``Shard``."""
    return isinstance(placement, (Shard, _StridedShard))


@torch.no_grad()
def sum_partial_gradient(param: Tensor) -> None:
    """Sums a gradient over processes that have a part each (``Partial`` placements), in place; all of them call it.

    Args:
        param: The parameter; any other gradient stays as it is, and so does that of an ordinary tensor.
    """
    grad = param.grad
    if isinstance(grad, DTensor) and any(placement.is_partial() for placement in grad.placements):
        assert isinstance(param, DTensor)
        param.grad = grad.redistribute(placements=param.placements)


def local_gradient(param: DTensor) -> Tensor:
    """The local shard of a parameter's gradient, placed as the parameter is.

    Args:
        param: The parameter, whose placements are supported (see :func:`layout_of`).

    Raises:
        RuntimeError: The gradient is not a DTensor, lies on another mesh, or has ``Partial`` placements.
    """
    grad = param.grad
    if not isinstance(grad, DTensor):
        raise RuntimeError(f"Adafactor needs a DTensor gradient for a DTensor parameter, not a {type(grad).__name__}")
    if grad.device_mesh is param.device_mesh and grad.placements == param.placements:
        return local(grad)
    if any(placement.is_partial() for placement in grad.placements):
        raise RuntimeError(
            f"Adafactor does not support gradients with Partial placements, and one has {grad.placements}: reduce it "
            "before the step with p.grad = p.grad.redistribute(placements=p.placements)"
        )
    if grad.device_mesh != param.device_mesh:
        raise RuntimeError("Adafactor does not support gradients on another device mesh than their parameters'")
    if grad.placements != param.placements:
        grad = grad.redistribute(placements=param.placements)
    return local(grad)


def local(tensor: Tensor) -> Tensor:
    """The local shard of a DTensor, complete even where a collective was still at work on it, or the tensor itself.

    Always the same object: ``to_local()`` of a parameter makes a new view each time (torch 2.13), and without
    ``torch.no_grad()`` a part of a graph.
    """
    shard = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    wait = getattr(shard, "wait", None)
    return shard if wait is None else wait()


def region_of(param: DTensor, *, transposed: bool = False) -> Region:
    """Where the local shard lies in the whole parameter.

    Args:
        param: The parameter.
        transposed: Whether to swap the last two dimensions.

    Raises:
        RuntimeError: The shard is not contiguous in the parameter.
    """
    shape = tuple(param.shape)
    local_shape, starts = _local_shape_and_starts(param.device_mesh, tuple(param.placements), shape)
    own_shape = tuple(param._local_tensor.shape)
    if local_shape != own_shape:
        raise RuntimeError(
            f"Adafactor cannot tell which elements of a parameter of shape {shape} and placements {param.placements} "
            f"lie on this process, because its shard is {own_shape}, not {local_shape}: shard it with "
            "FSDP2 or distribute_tensor, or pass stochastic_rounding=False"
        )
    if transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
        starts = (*starts[:-2], starts[-1], starts[-2])
    return Region(shape, starts)


@functools.lru_cache(maxsize=4096)  # asked for each parameter in each step
def _local_shape_and_starts(
    mesh: DeviceMesh, placements: tuple[Placement, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape and the first element of this process's shard, as FSDP2 and tensor parallelism split a parameter.

    Each splits what is left into chunks of equal size but for the last ones. FSDP2 comes after tensor parallelism,
    though its mesh dimension comes first: that is what ``_StridedShard`` says.
    """
    coordinate = mesh.get_coordinate()
    sizes, starts = list(shape), [0] * len(shape)
    for dim in range(len(shape)):
        sharding = [
            (mesh_dim, getattr(placement, "split_factor", 1))
            for mesh_dim, placement in enumerate(placements)
            if is_shard(placement) and placement.dim == dim
        ]
        for number, (_, split_factor) in enumerate(sharding):
            later = math.prod(mesh.size(mesh_dim) for mesh_dim, _ in sharding[number + 1 :])
            if split_factor not in (1, later):
                raise RuntimeError(
                    f"Adafactor does not support shards that are not contiguous in the parameter: {placements}"
                )
        in_order = [mesh_dim for mesh_dim, split_factor in sharding if split_factor == 1]
        postponed = [mesh_dim for mesh_dim, split_factor in sharding if split_factor != 1]
        for mesh_dim in (*in_order, *reversed(postponed)):
            chunk = -(-sizes[dim] // mesh.size(mesh_dim))
            first = sizes[dim] if coordinate is None else min(coordinate[mesh_dim] * chunk, sizes[dim])
            starts[dim] += first
            sizes[dim] = min(chunk, sizes[dim] - first)
    return tuple(sizes), tuple(starts)
