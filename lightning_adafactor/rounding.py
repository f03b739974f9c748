"""Stochastic rounding of float32 to bfloat16, with random bits that any implementation can reproduce.

Round-to-nearest loses every update smaller than half a unit in the last place, so a bfloat16 parameter (8 bits of
mantissa) stops learning at small learning rates. Rounding up with a probability equal to the fraction that would be
cut off keeps the expected value right.

The bits come from Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a stateless
function of a key and a counter. bfloat16 is the upper half of float32, so one element needs 16 random bits
and one Philox block serves 8 neighbors in a row:

* key: the seed, 64 bits;
* counter: (column // 8, row, step, parameter), 32 bits each. Rows are counted over all matrices of a batch, a
  vector is one row; rows and columns are those of :class:`lightning_adafactor.entry.Entry`, in memory order;
* column % 8 = 2·word + half picks word 0…3 of the block and its low or high half.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adafactor.tiles import Grid, Region

LANES = 8
"""Elements per Philox block."""

ROUNDS = 10
"""Rounds of Philox."""

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox(seed: int, counter: Sequence[Tensor]) -> list[Tensor]:
    """Philox4x32-10.

    Args:
        seed: The key, 64 bits.
        counter: Four int64 tensors of values below 2³², broadcastable against each other.

    Returns:
        Four int64 tensors of values below 2³², the four words of each block.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(ROUNDS):
        # the int64 product may overflow; its 32 upper bits, masked, are still those of the unsigned product
        left, right = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1 = (right >> 32 & _MASK) ^ c1 ^ k0, right & _MASK
        c2, c3 = (left >> 32 & _MASK) ^ c3 ^ k1, left & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def random_bits(
    seed: int, grid: Grid, number: int, tile: Tensor, *, step: int, parameter: int, region: Region | None = None
) -> Tensor:
    """The 16 random bits of each element of a tile.

    Args:
        seed: The key.
        grid: How the parameter is split into tiles.
        number: The tile's number in the grid.
        tile: The tile, for its shape and device.
        step: t.
        parameter: The parameter's position in the optimizer.
        region: Where the grid's shape lies in the parameter, if it is a shard; rows and columns are the parameter's.

    Returns:
        int32 values below 2¹⁶, the tile's shape.
    """
    starts = grid.starts(number) or [0]
    sizes: Sequence[int] = grid.shape
    if region is not None and region.shape:
        sizes = region.shape
        starts = [start + origin for start, origin in zip(starts, region.starts, strict=True)]
    shape = tile.shape or torch.Size([1])
    rows = torch.zeros((), dtype=torch.int64, device=tile.device)
    for size, start, length in zip(sizes[:-1], starts[:-1], shape[:-1], strict=True):
        rows = rows.unsqueeze(-1) * size + torch.arange(start, start + length, device=tile.device)
    first, lane = divmod(starts[-1], LANES)
    columns = torch.arange(first, first + -(-(lane + shape[-1]) // LANES), device=tile.device)
    last = (torch.tensor(word & _MASK, device=tile.device) for word in (step, parameter))
    words = philox(seed, (columns.expand(*rows.shape, -1), rows.unsqueeze(-1), *last))
    halves = [half for word in words for half in ((word & 0xFFFF).int(), (word >> 16).int())]
    return torch.stack(halves, dim=-1).flatten(-2)[..., lane : lane + shape[-1]].reshape(tile.shape)


def round_stochastically(values: Tensor, bits: Tensor) -> Tensor:
    """Rounds float32 to bfloat16 up or down, with mean ``values`` over uniform ``bits``.

    Args:
        values: float32, any shape; overwritten with the result.
        bits: int32 below 2¹⁶, same shape. A finite value is rounded away from zero where bits + the 16 lowest
            bits of its mantissa carry; infinities and NaN stay unchanged.

    Returns:
        ``values``, each exactly representable in bfloat16.
    """
    rounded = (values.view(torch.int32) + bits).bitwise_and_(-65536).view(torch.float32)
    return values.copy_(torch.where(values.isfinite(), rounded, values))
