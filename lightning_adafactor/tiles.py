"""Cutting a tensor into tiles that stay in cache, and the few tile-sized buffers that a step works in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Index = tuple[slice, ...]


def tile_shape(shape: Sequence[int], limit: int) -> list[int]:
    """The largest box of at most ``limit`` elements that fills the last dimensions of ``shape`` first."""
    extents: list[int] = []
    room = limit
    for size in reversed(shape):
        extents.append(max(1, min(size, room)))
        room //= extents[-1]
    return extents[::-1]


def strips(shape: Sequence[int], limit: int) -> Iterator[list[Index]]:
    """Cuts a shape of two or more dimensions into tiles, one strip at a time.

    A strip holds, from top to bottom, all the tiles that share their matrices and their columns: what is needed
    to finish a column's sum.
    """
    extents = tile_shape(shape, limit)
    cuts = [
        [slice(start, min(start + extent, size)) for start in range(0, size, extent)]
        for size, extent in zip(shape, extents, strict=True)
    ]
    *batch, rows, columns = cuts
    for *outer, column in itertools.product(*batch, columns):
        yield [(*outer, row, column) for row in rows]


def tiles(shape: Sequence[int], limit: int) -> Iterator[Index]:
    """Cuts any shape into tiles of at most ``limit`` elements; a scalar is one tile, an empty tensor none."""
    extents = tile_shape(shape, limit)
    return itertools.product(
        *(
            [slice(start, min(start + extent, size)) for start in range(0, size, extent)]
            for size, extent in zip(shape, extents, strict=True)
        )
    )


class Scratch:
    """Named buffers of one tile each, allocated when first asked for and reused from then on.

    Args:
        dtype: dtype of the buffers, that of the arithmetic.
        device: Where they live.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """An uninitialised view of buffer ``name``; whatever was taken under this name before is overwritten."""
        numel = 1
        for size in shape:
            numel *= size
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < numel:
            buffer = self._buffers[name] = torch.empty(numel, dtype=self.dtype, device=self.device)
        return buffer[:numel].view(shape)
