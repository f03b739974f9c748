"""The random bits of a shard whose columns begin anywhere are those of the same elements of the whole parameter."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.apply import _random_bits_of_each
from lightning_adafactor.rounding import random_bits
from lightning_adafactor.tiles import Grid


@triton.jit
def _write_bits(out, seed, first, t, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Writes the bits of ROWS × COLUMNS elements from column ``first`` on; ``out`` is int32 (ROWS, COLUMNS)."""
    columns, rows = tl.broadcast(
        (first + tl.arange(0, COLUMNS)).to(tl.int64)[None, :], tl.arange(0, ROWS).to(tl.int32)[:, None]
    )
    bits = _random_bits_of_each(seed, columns, rows, t, index)
    tl.store(out + rows * COLUMNS + (columns - first), bits)


@pytest.mark.parametrize("first", [0, 3, 8, 13])
def test_bits_of_columns_that_begin_anywhere_are_those_of_the_whole(first: int, device: str) -> None:
    rows, columns = 4, 32
    found = torch.zeros(rows, columns, dtype=torch.int32, device=device)
    _write_bits[(1,)](found, 2**40 + 7, first, 5, 2, rows, columns)

    whole = torch.zeros(rows, first + columns)
    expected = random_bits(2**40 + 7, Grid(tuple(whole.shape), whole.numel()), 0, whole, step=5, parameter=2)
    assert torch.equal(found.cpu(), expected[:, first:].int())
