"""The grid of tiles: a partition of the tensor, and scratch buffers that are reused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adafactor.tiles import Grid, Scratch

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@given(shape=SHAPES, limit=st.integers(1, 200))
def test_tiles_cover_every_element_once_and_none_is_larger_than_the_limit(shape: tuple[int, ...], limit: int) -> None:
    counts = torch.zeros(shape)
    for tile in Grid(shape, limit).split(counts):
        assert tile.numel() <= limit
        tile.add_(1)

    assert (counts == 1).all()


@given(shape=SHAPES.filter(lambda shape: 0 not in shape), limit=st.integers(1, 200))
def test_starts_are_the_indices_of_each_tiles_first_element(shape: tuple[int, ...], limit: int) -> None:
    numbered = torch.arange(math.prod(shape)).view(shape)
    grid = Grid(shape, limit)

    for number, tile in enumerate(grid.split(numbered)):
        assert tile.flatten()[0] == numbered[tuple(grid.starts(number))]


@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple), limit=st.integers(1, 200))
def test_a_strip_is_all_that_shares_matrices_and_columns(shape: tuple[int, ...], limit: int) -> None:
    grid = Grid(shape, limit)
    starts = [grid.starts(number) for number in range(len(grid.split(torch.empty(shape))))]
    strips = [starts[first : first + grid.tiles_per_strip] for first in range(0, len(starts), grid.tiles_per_strip)]

    for strip in strips:
        assert len({(*start[:-2], start[-1]) for start in strip}) == 1
        assert [start[-2] for start in strip] == list(range(0, shape[-2], grid.extents[-2]))
    assert len({(*strip[0][:-2], strip[0][-1]) for strip in strips}) == len(strips)


@pytest.mark.parametrize(
    ("shape", "limit", "extents"),
    [
        ((), 5, []),
        ((10,), 4, [4]),
        ((10, 3), 8, [2, 3]),
        ((10, 30), 8, [1, 8]),
        ((4, 3, 5), 31, [2, 3, 5]),
        ((4, 3, 5), 14, [1, 2, 5]),
    ],
)
def test_last_dimensions_are_filled_first(shape: tuple[int, ...], limit: int, extents: list[int]) -> None:
    assert Grid(shape, limit).extents == extents


def test_tiles_are_views() -> None:
    tensor = torch.zeros(6, 4).mT
    for tile in Grid(tensor.shape, 5).split(tensor):
        tile.fill_(1.0)

    assert (tensor == 1).all()


def test_buffers_are_reused_under_their_name() -> None:
    scratch = Scratch(torch.float32, torch.device("cpu"))
    first = scratch.take("work", torch.Size([4, 5]))

    assert scratch.take("work", torch.Size([2, 3])).data_ptr() == first.data_ptr()
    assert scratch.take("other", torch.Size([4, 5])).data_ptr() != first.data_ptr()
    assert first.dtype == torch.float32
    assert first.is_contiguous()


def test_buffers_grow_to_the_largest_size_taken() -> None:
    scratch = Scratch(torch.float64, torch.device("cpu"))
    scratch.take("work", torch.Size([3]))
    large = scratch.take("work", torch.Size([7, 2]))

    assert large.shape == (7, 2)
    assert scratch.take("work", torch.Size([3])).data_ptr() == large.data_ptr()
