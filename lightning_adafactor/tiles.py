"""Splits tensors into tiles that fit in the cache, and keeps the tile-sized buffers that a step works in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """Where a shard lies in the parameter that it is a part of, dimensions in the order of its memory.

    Attributes:
        shape: The shape of the whole parameter.
        starts: The place of the shard's first element, for each dimension.
    """

    shape: tuple[int, ...]
    starts: tuple[int, ...]

    @property
    def rows_between(self) -> tuple[int, ...]:
        """How many rows of the whole lie between neighbors in each dimension but the last, which has 0."""
        last = len(self.shape) - 1
        return (*(math.prod(self.shape[dim + 1 : last]) for dim in range(last)), 0) if self.shape else ()

    @property
    def first_row(self) -> int:
        """The number of the first row among all rows of the whole; 0 for a vector."""
        return sum(start * rows for start, rows in zip(self.starts, self.rows_between, strict=True))

    @property
    def first_column(self) -> int:
        """The number of the first column, or of a vector's first element."""
        return self.starts[-1] if self.starts else 0


class Grid:
    """How a shape is split into tiles: boxes that fill the last dimensions first.

    Tiles that share matrices and columns are numbered consecutively, from top to bottom. Together they are a strip:
    what a column sum runs over.

    Args:
        shape: The shape to split; a scalar is one tile.
        limit: The most elements that a tile may have, at least 1.

    Attributes:
        shape: The shape.
        extents: The largest size of a tile, for each dimension.
        tiles_per_strip: Number of tiles of a strip.
    """

    def __init__(self, shape: Sequence[int], limit: int) -> None:
        self.shape = tuple(shape)
        self.extents: list[int] = []
        for size in reversed(self.shape):
            self.extents.insert(0, max(1, min(size, limit)))
            limit //= self.extents[0]
        self._counts = [-(-size // extent) for size, extent in zip(self.shape, self.extents, strict=True)]
        self.tiles_per_strip = self._counts[-2] if len(self.shape) > 1 else 1
        # columns are split before rows, so that rows vary fastest
        dims = list(range(len(self.shape)))
        self._order = [*dims[:-2], *dims[:-3:-1]]

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Views of all tiles of a tensor of this shape, by number."""
        views = [tensor]
        for dim in self._order:
            if self._counts[dim] > 1:
                views = [piece for view in views for piece in view.split(self.extents[dim], dim)]
        return views

    def starts(self, number: int) -> list[int]:
        """Index of a tile's first element, in each dimension."""
        starts = [0] * len(self.shape)
        for dim in reversed(self._order):
            number, place = divmod(number, self._counts[dim])
            starts[dim] = place * self.extents[dim]
        return starts


class Scratch:
    """Named buffers of one tile each, allocated on first use and then reused.

    Args:
        dtype: dtype of the buffers, that of the arithmetic.
        device: Device of the buffers.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: torch.Size) -> Tensor:
        """An uninitialized view of buffer ``name``, which any earlier view of it shares memory with."""
        numel = shape.numel()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < numel:
            buffer = self._buffers[name] = torch.empty(numel, dtype=self.dtype, device=self.device)
        return buffer[:numel].view(shape)
