"""The cases of ``specs``, sharded over device meshes."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from tests.lightning_adafactor import specs

Placements = tuple[Placement, ...]


def placements_of(dims: int, mesh: DeviceMesh) -> Iterator[Placements]:
    """All placements of a tensor on a mesh; on two dimensions of it, also that of FSDP2 over tensor parallelism."""
    single = [Replicate(), *(Shard(dim) for dim in range(dims))]
    yield from itertools.product(single, repeat=mesh.ndim)
    if mesh.ndim == 2:
        yield from ((_StridedShard(dim, split_factor=mesh.size(1)), Shard(dim)) for dim in range(dims))


def part(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """This process's part of a whole tensor: a view, strides and all."""
    sizes, starts = _place(whole.shape, mesh, tuple(placements))
    for dim, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        whole = whole.narrow(dim, min(start, whole.size(dim)), size)
    return whole


@functools.cache
def _place(shape: torch.Size, mesh: DeviceMesh, placements: Placements) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return compute_local_shape_and_global_offset(shape, mesh, placements)


def shard(whole: Tensor, mesh: DeviceMesh, placements: Placements) -> DTensor:
    """A DTensor of which this process has a view of ``whole``."""
    local = part(whole, mesh, placements)
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())


class Counting:
    """Counts the collectives of optimizer steps.

    Attributes:
        all_reduces: How many all-reduces there were, by process group.
        sent_over: How many numbers they carried, by process group.
        others: How many other collectives there were.
    """

    def __init__(self) -> None:
        self.all_reduces: Counter[str] = Counter()
        self.sent_over: Counter[str] = Counter()
        self.others = 0

    def __enter__(self) -> Counting:
        original = distributed.all_reduce

        def all_reduce(tensor: Tensor, *args: Any, group: Any = None, **kwargs: Any) -> Any:
            name = "world" if group is None else str(group.group_name)
            self.all_reduces[name] += 1
            self.sent_over[name] += tensor.numel()
            return original(tensor, *args, group=group, **kwargs)

        self.patch = mock.patch.object(distributed, "all_reduce", all_reduce)
        self.debug = CommDebugMode()
        self.patch.__enter__()
        self.debug.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.debug.__exit__(*error)
        self.patch.__exit__(*error)
        self.others = self.debug.get_total_counts() - self.all_reduces.total()


def differences(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    reference: specs.Run,
    cases: Sequence[tuple[str, Placements]],
    names: Sequence[str],
    mesh: DeviceMesh,
    dtype: torch.dtype,
    tolerance: float,
    steps: int = specs.STEPS,
    scale: float = 1.0,
) -> list[str]:
    """Takes the steps of ``specs.run`` with sharded cases, and compares this process's parts after each step.

    Args:
        make: Makes the optimizer of all cases.
        reference: The run of one process.
        cases: Which cases, and how each is sharded.
        names: The cases of ``reference``.
        mesh: The device mesh.
        dtype: The dtype of the parameters.
        tolerance: How far a part may be off, relative to the norm of the whole tensor.
        steps: How many steps.
        scale: What the gradients are multiplied by and the optimizer is to divide them by; a power of two.
    """
    params = [shard(specs.start(name, dtype), mesh, own).detach().requires_grad_() for name, own in cases]
    optimizer = make(params)
    if scale != 1:
        optimizer.grad_scale = torch.tensor(scale)  # type: ignore[attr-defined]
    wrong = []
    largest = [0.0] * len(names)
    for step in range(1, steps + 1):
        for (name, own), param in zip(cases, params, strict=True):
            gradient = specs.gradient(name, step, dtype)
            param.grad = None if gradient is None else shard(gradient * scale, mesh, own)
        optimizer.step()
        for (name, own), param in zip(cases, params, strict=True):
            number = names.index(name)
            state = optimizer.state[param]
            wanted = {**reference.states[number][step - 1], "parameter": reference.params[number][step]}
            got = {**state, "parameter": param}
            got.pop("RMS", None)
            assert got.keys() == wanted.keys()
            for key, value in got.items():
                norm = float(torch.linalg.vector_norm(wanted[key].double()))
                if key == "exp_avg":  # updates of either sign cancel in it
                    norm = largest[number] = max(largest[number], norm)
                off = distance(value, wanted[key]) / (norm or 1.0)
                if not off <= tolerance:
                    wrong.append(f"{name} {own}, {key}[{step}]: off by {off:.3g}")
    return wrong


@torch.no_grad()
def distance(value: Tensor, wanted: Tensor) -> float:
    """The norm of the difference between this process's parts."""
    if isinstance(value, DTensor):
        wanted = part(wanted, value.device_mesh, value.placements)
        value = value.to_local()
    return float(torch.linalg.vector_norm((value - wanted).double()))


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
