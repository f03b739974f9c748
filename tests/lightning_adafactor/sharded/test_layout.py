"""Which elements of a parameter lie on a process, found from its shape, its placements and the mesh alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from lightning_adafactor.sharded.layout import _local_shape_and_starts


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A device mesh as one of its processes sees it."""

    shape: tuple[int, ...]
    coordinate: tuple[int, ...]

    def size(self, dim: int) -> int:
        return self.shape[dim]

    def get_coordinate(self) -> tuple[int, ...]:
        return self.coordinate


def parts(shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Placement, ...]) -> dict[Any, list[int]]:
    """The elements of each process, numbered in the order of the whole parameter."""
    numbers = torch.arange(math.prod(shape)).view(shape)
    found = {}
    for coordinate in itertools.product(*map(range, mesh)):
        process: Any = Mesh(mesh, coordinate)
        own = numbers
        for dim, (size, start) in enumerate(zip(*_local_shape_and_starts(process, placements, shape), strict=True)):
            own = own.narrow(dim, start, size)
        found[coordinate] = own.flatten().tolist()
    return found


SIZES = st.integers(1, 5)


@given(rows=st.integers(1, 40), columns=st.integers(1, 5), data=SIZES, tensor=SIZES)
def test_fsdp2_splits_what_tensor_parallelism_has_left(rows: int, columns: int, data: int, tensor: int) -> None:
    placements = (_StridedShard(0, split_factor=tensor), Shard(0))
    found = parts((rows, columns), (data, tensor), placements)
    numbers = torch.arange(rows * columns).view(rows, columns)
    empty = numbers[:0]
    for column in range(tensor):
        chunks = numbers.chunk(tensor)
        of_tensor = chunks[column] if column < len(chunks) else empty
        for row in range(data):
            own = of_tensor.chunk(data) if len(of_tensor) else ()
            assert found[row, column] == (own[row] if row < len(own) else empty).flatten().tolist()


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    mesh=st.tuples(SIZES, SIZES),
    placements=st.tuples(*[st.sampled_from([Shard(0), Shard(1)])] * 2),
)
def test_every_element_lies_on_one_process(shape: Any, mesh: Any, placements: Any) -> None:
    found = itertools.chain.from_iterable(parts(shape, mesh, placements).values())
    assert sorted(found) == list(range(math.prod(shape)))


def test_a_replicated_parameter_lies_on_every_process() -> None:
    found = parts((3, 2), (2, 2), (Replicate(), Shard(1)))
    assert found == {(0, 0): [0, 2, 4], (0, 1): [1, 3, 5], (1, 0): [0, 2, 4], (1, 1): [1, 3, 5]}


def test_shards_that_are_not_contiguous_are_refused_on_every_process() -> None:
    for coordinate in itertools.product(range(2), range(2)):
        process: Any = Mesh((2, 2), coordinate)
        with pytest.raises(RuntimeError, match="not contiguous in the parameter"):
            _local_shape_and_starts(process, (Shard(0), _StridedShard(0, split_factor=2)), (8, 3))
