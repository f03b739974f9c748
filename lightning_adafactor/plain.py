"""The step in plain torch operations: the reference that every other implementation is tested against.

One parameter at a time, three passes over its gradient, each in tiles that stay in the cache:

1. ``average_squares``: R and C (or V) are updated with G²;
2. ``sum_update``: RMS(U), U = G/√V̂, which clipping needs before anything can be applied;
3. ``apply_update``: weight decay, U clipped and scaled, momentum, one rounding.

No temporary is as large as a parameter. What makes it fast:

* Where no floor is active, V̂ = r·C with r = R/mean(R) is separable, so U = (G·C^-½)·r^-½ needs no matrix V̂, and
  ΣU² = Σᵢ (1/rᵢ)·Σⱼ (G·C^-½)²ᵢⱼ.
* For the column sums of G², the squares of all tiles of a strip are added elementwise into one tile, which is summed
  once.
* The third pass runs backwards: it starts with the tile that the second pass left in the cache and in ``work``.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.rounding import random_bits, round_stochastically
from lightning_adafactor.rule import state_dtype
from lightning_adafactor.tiles import Grid, Scratch

TILE_BYTES = 3 << 20
"""Bytes of a tile in the dtype of the arithmetic: small enough for the cache, large enough to use all cores."""

_NARROW = 8  # rows or columns
_SUMMED_AT_ONCE = 4096  # numbers


def adafactor(entries: Iterable[Entry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
    """Takes one step for each entry, in place.

    Args:
        entries: The parameters of the step, of any device and dtype.
        grad_scale: One element that gradients are divided by before use; None for 1.
        found_inf: One element; where it is not zero, nothing changes. None for 0.
    """
    if found_inf is not None and found_inf.item() != 0:
        return
    unscale = None if grad_scale is None else 1.0 / float(grad_scale)
    buffers: dict[tuple[torch.dtype, torch.device], Scratch] = {}
    for entry in entries:
        entry.step += 1
        if entry.param.numel() > 0:
            kind = (state_dtype(entry.param), entry.param.device)
            scratch = buffers.setdefault(kind, Scratch(*kind))
            passes(entry, scratch, unscale, float(entry.step.item())).run()


@dataclasses.dataclass(slots=True, eq=False)
class _Tile:
    """Views of what belongs to one tile.

    Attributes:
        gradient: G.
        parameter: p.
        averages: (R, C) as (..., rows, 1) and (..., 1, columns), or (V,).
        exp_avg: The average of updates, or None.
    """

    gradient: Tensor
    parameter: Tensor
    averages: tuple[Tensor, ...]
    exp_avg: Tensor | None


class Known(NamedTuple):
    """What the second pass finds out about U on a tile, for the third pass to compute U again.

    Attributes:
        row_mean: mean(R) of the tile's matrices, (..., 1, 1), not below its floor; None for a vector.
        separable: Whether V̂ = r·C on the whole tile, no floor being active; False for a vector.
        in_work: Whether the left factor of U is still in the buffer ``work``, which is true of one tile at most.
    """

    row_mean: Tensor | None = None
    separable: bool = False
    in_work: bool = False


class Passes(ABC):
    """The three passes over one parameter, or over a shard of one.

    :meth:`run` takes the step of a whole parameter. For a shard, each pass is called by itself, because the sums of
    other shards are added in between (``sharded/``): hence the sums that passes return or take.

    A pass leaves its results in the averages (the first) or returns them (the second); nothing else is handed on but
    the buffer ``work``, and only where :class:`Known` says so. Taking a buffer overwrites it, and of each only one
    tile is in use at a time: ``gradient`` and ``parameter`` hold a tile's G and p where these need conversion, ``work``
    is for the squares of the first pass and for the factors of U. No pass writes to G.

    Args:
        entry: The parameter; not empty.
        scratch: Buffers in the dtype of the arithmetic.
        unscale: What the gradient is multiplied by before use, or None.
        t: The number of the step, from 1.
    """

    def __init__(self, entry: Entry, scratch: Scratch, unscale: float | None, t: float) -> None:
        self.entry = entry
        self.rule = entry.rule
        self.scratch = scratch
        self.unscale = unscale
        self.t = t
        self.tiny = torch.finfo(scratch.dtype).tiny
        # ε₁² may underflow; where the gradient was always zero, U is to be 0 then, not 0·∞
        floor = self.rule.variance_floor(entry.param)
        self.floor = max(floor, self.tiny) if self.rule.dialect == "torch" else 0.0
        self.rounds_stochastically = self.rule.rounds_stochastically(entry.param)
        self.grid = Grid(entry.param.shape, self.tile_bytes() // scratch.dtype.itemsize)
        gradients = self.grid.split(entry.grad)
        exp_avgs = [None] * len(gradients) if entry.exp_avg is None else self.grid.split(entry.exp_avg)
        views = zip(gradients, self.grid.split(entry.param), self.split_averages(), exp_avgs, strict=True)
        self.tiles = [_Tile(*view) for view in views]

    def tile_bytes(self) -> int:
        """Smaller tiles where more buffers are needed, so that all of them together stay below 8 MiB."""
        if self.rounds_stochastically:
            return TILE_BYTES // 8  # the random bits take several integers for each element
        if self.entry.factored and min(self.entry.param.shape[-2:]) < _NARROW:
            return TILE_BYTES // 8  # R or C of a tile is nearly as large as the tile, and so are temporaries made of it
        dtypes = {self.entry.param.dtype, self.entry.grad.dtype, self.scratch.dtype}
        return TILE_BYTES if len(dtypes) == 1 and self.unscale is None else TILE_BYTES // 2

    def run(self) -> None:
        """Takes the step of a whole parameter."""
        numel = self.entry.param.numel()
        rms = math.sqrt(self.sum_parameter() / numel) if self.rule.scale_parameter else 0.0
        self.average_squares()
        total, known = self.sum_update(self.entry.mean_of_rows() if self.entry.factored else None)
        self.apply_update(known, rms, math.sqrt(total / numel))

    # What differs between matrices and vectors

    @abstractmethod
    def split_averages(self) -> list[tuple[Tensor, ...]]:
        """The averages of G² that belong to each tile."""

    @abstractmethod
    def average_squares(self) -> None:
        """First pass: A ← (1-ω)·A + ω·mean(G² + ε₁) for each average A, with or without ε₁ by dialect."""

    @abstractmethod
    def sum_update(self, mean_of_rows: Tensor | None) -> tuple[float, list[Known]]:
        """Second pass: ΣU², and for each tile what the third pass needs to know.

        Args:
            mean_of_rows: mean(R) of each matrix, (..., 1, 1); None for a vector.
        """

    @abstractmethod
    def update(self, tile: _Tile, known: Known) -> tuple[Tensor, Tensor | None]:
        """U on a tile, as (left, right) with U = left·right, or as (U, None).

        Left may be G itself, which must not be written to, or lie in ``gradient`` or ``work``. Right is new memory, no
        larger than R, or lies in ``work``. Both are valid until ``gradient`` or ``work`` is taken again.
        """

    # What is the same

    def gradient(self, tile: _Tile) -> Tensor:
        """G, unscaled and in the dtype of the arithmetic; the gradient itself where it is that already."""
        if tile.gradient.dtype == self.scratch.dtype and self.unscale is None:
            return tile.gradient
        converted = self.scratch.take("gradient", tile.gradient.shape).copy_(tile.gradient)
        return converted if self.unscale is None else converted.mul_(self.unscale)

    def parameter(self, tile: _Tile) -> Tensor:
        """A tile of p in the dtype of the arithmetic; the parameter itself where that is its own."""
        if tile.parameter.dtype == self.scratch.dtype:
            return tile.parameter
        return self.scratch.take("parameter", tile.parameter.shape).copy_(tile.parameter)

    def sum_parameter(self) -> float:
        """Σp² before the step."""
        return sum(_sum_of_squares(self.parameter(tile)) for tile in self.tiles)

    def apply_update(self, known: Sequence[Known], rms: float, rms_of_update: float) -> None:
        """Third pass: p ← decay_factor·p - update_scale·U; with momentum, minus the average of these updates.

        It begins with the last tile, which may be in ``work``.

        Args:
            known: What the second pass returned.
            rms: RMS(p) before the step, of the whole parameter; ignored without ``scale_parameter``.
            rms_of_update: RMS(U), of the whole parameter.
        """
        if self.entry.rms is not None and self.rule.scale_parameter:
            self.entry.rms.fill_(rms)
        alpha = self.rule.alpha(self.t, rms)
        scale = self.rule.update_scale(alpha, rms_of_update)
        decay_factor = self.rule.decay_factor(alpha)
        beta1 = self.rule.beta1 or 0.0
        for number in reversed(range(len(self.tiles))):
            tile = self.tiles[number]
            left, right = self.update(tile, known[number])
            parameter = self.parameter(tile)
            if decay_factor != 1.0:
                parameter.mul_(decay_factor)
            target, value = parameter, -scale
            if tile.exp_avg is not None:
                target, value = tile.exp_avg.mul_(beta1), (1.0 - beta1) * scale
            if right is None:
                target.add_(left, alpha=value)
            else:
                target.addcmul_(left, right, value=value)
            if tile.exp_avg is not None:
                parameter.sub_(tile.exp_avg)
            if parameter is not tile.parameter:
                self.write_back(number, parameter)

    def write_back(self, number: int, values: Tensor) -> None:
        """Rounds p on a tile to the parameter's dtype; overwrites ``values``."""
        tile = self.tiles[number].parameter
        if self.rounds_stochastically:
            bits = random_bits(
                self.rule.seed,
                self.grid,
                number,
                tile,
                step=int(self.t),
                parameter=self.entry.index,
                region=self.entry.region,
            )
            values = round_stochastically(values, bits)
        tile.copy_(values)


class _VectorPasses(Passes):
    """A parameter that is not factored: V̂ = max(V, ε₁²)."""

    def split_averages(self) -> list[tuple[Tensor, ...]]:
        assert self.entry.variance is not None
        return [(variance,) for variance in self.grid.split(self.entry.variance)]

    def average_squares(self) -> None:
        omega = decay_averages(self.entry, self.t)
        for tile in self.tiles:
            (variance,) = tile.averages
            gradient = self.gradient(tile)
            variance.addcmul_(gradient, gradient, value=omega)

    def sum_update(self, mean_of_rows: Tensor | None) -> tuple[float, list[Known]]:
        total = sum(_sum_of_squares(self.update(tile, Known())[0]) for tile in self.tiles)
        return total, [Known()] * (len(self.tiles) - 1) + [Known(in_work=True)]

    def update(self, tile: _Tile, known: Known) -> tuple[Tensor, None]:
        (variance,) = tile.averages
        work = self.scratch.take("work", variance.shape)
        if known.in_work:
            return work, None
        return torch.clamp(variance, min=self.floor, out=work).rsqrt_().mul_(self.gradient(tile)), None


class MatrixPasses(Passes):
    """A factored parameter, its matrices in the last two dimensions: V̂ = max(R·C / mean(R), ε₁²)."""

    def split_averages(self) -> list[tuple[Tensor, ...]]:
        """R and C of each tile."""
        assert self.entry.row_var is not None
        assert self.entry.col_var is not None
        return self.split_factors(self.entry.row_var, self.entry.col_var)

    def split_factors(self, rows: Tensor, columns: Tensor) -> list[tuple[Tensor, ...]]:
        """The parts of (..., n, 1) and (..., 1, m) that belong to each tile."""
        return [
            (row.narrow(-1, 0, 1), column.narrow(-2, 0, 1))
            for row, column in zip(self.split_broadcast(rows), self.split_broadcast(columns), strict=True)
        ]

    def split_broadcast(self, factor: Tensor) -> list[Tensor]:
        """A factor of size 1 along some dimensions, expanded to the parameter's shape and split."""
        return self.grid.split(factor.expand(self.entry.param.shape))

    def average_squares(self) -> None:
        """First pass: R and C; the sums of G² are added to them tile by tile."""
        omega = decay_averages(self.entry, self.t)
        n, m = self.entry.param.shape[-2:]
        self.add_squares([tile.averages for tile in self.tiles], omega / m, omega / n)

    def add_squares(self, factors: Sequence[tuple[Tensor, ...]], row_weight: float, column_weight: float) -> None:
        """Adds the sums of G² over columns and over rows.

        Args:
            factors: For each tile, what is added to: (..., rows, 1) and (..., 1, columns).
            row_weight: What sums over columns are multiplied by.
            column_weight: What sums over rows are multiplied by.
        """
        for first in range(0, len(self.tiles), self.grid.tiles_per_strip):
            strip = range(first, first + self.grid.tiles_per_strip)
            gradient = self.gradient(self.tiles[first])
            squares = torch.mul(gradient, gradient, out=self.scratch.take("work", gradient.shape))
            _add_row_sums(factors[first][0], gradient, row_weight)
            for number in strip[1:]:
                gradient = self.gradient(self.tiles[number])
                squares.narrow(-2, 0, gradient.size(-2)).addcmul_(gradient, gradient)
                _add_row_sums(factors[number][0], gradient, row_weight)
            factors[first][1].add_(_column_sums_(squares), alpha=column_weight)

    def sum_update(self, mean_of_rows: Tensor | None) -> tuple[float, list[Known]]:
        """Second pass: ΣU², from row sums of (G·C^-½)² where V̂ is separable."""
        assert mean_of_rows is not None
        total = 0.0
        known: list[Known] = []
        for tile, row_mean in zip(self.tiles, self.row_means(mean_of_rows), strict=True):
            squares, separable = self.measure_tile(tile, row_mean)
            total += squares
            known.append(Known(row_mean, separable, in_work=separable and tile is self.tiles[-1]))
        return total, known

    def row_means(self, mean: Tensor) -> list[Tensor]:
        """mean(R) of each tile's matrices, not below its floor."""
        mean = mean.clamp(min=max(self.rule.mean_floor(self.entry.param), self.tiny))
        means = [mean] if mean.numel() == 1 else [view[..., :1, :1] for view in self.split_broadcast(mean)]
        return means * len(self.tiles) if len(means) == 1 else means

    def measure_tile(self, tile: _Tile, row_mean: Tensor) -> tuple[float, bool]:
        """ΣU² over a tile, and whether V̂ is separable there; G·C^-½ is in ``work`` then."""
        r, c = tile.averages[0] / row_mean, tile.averages[1]
        sums = torch.linalg.vector_norm(self.weigh_columns(tile), dim=-1, keepdim=True).square_()
        if self.floor == 0 or (r.amin() * c.amin()).item() >= self.floor:
            # R of a row without any gradient may be 0, as its sum is
            return sums.div_(r.clamp(min=self.tiny)).sum().item(), True
        # rows without any gradient, most of an embedding's, may fall below the floor: U is 0 there in any case
        live = sums != 0
        if (torch.where(live, r, torch.inf).amin() * c.amin()).item() >= self.floor:
            return torch.where(live, sums.div_(r), 0.0).sum().item(), True
        left, right = self.update(tile, Known(row_mean))
        return _sum_of_squares(torch.mul(left, right, out=right)), False  # not separable: right is ``work``

    def weigh_columns(self, tile: _Tile) -> Tensor:
        """G·C^-½, in the buffer ``work``."""
        gradient = self.gradient(tile)
        weights = tile.averages[1].clamp(min=self.tiny).rsqrt_()
        return torch.mul(gradient, weights, out=self.scratch.take("work", gradient.shape))

    def update(self, tile: _Tile, known: Known) -> tuple[Tensor, Tensor]:
        """U on a tile: G·C^-½ and r^-½, or G and V̂^-½ where a floor is active."""
        assert known.row_mean is not None
        r, c = tile.averages[0] / known.row_mean, tile.averages[1]
        work = self.scratch.take("work", tile.gradient.shape)
        if not known.separable:
            return self.gradient(tile), torch.mul(r, c, out=work).clamp_(min=self.floor).rsqrt_()
        weighted = work if known.in_work else self.weigh_columns(tile)
        return weighted, r.clamp_(min=self.tiny).rsqrt_()


def passes(entry: Entry, scratch: Scratch, unscale: float | None, t: float) -> Passes:
    """The passes of step t over an entry that is not empty."""
    return (MatrixPasses if entry.factored else _VectorPasses)(entry, scratch, unscale, t)


def decay_averages(entry: Entry, t: float) -> float:
    """The part of the first pass that does not need G; returns ω."""
    omega = entry.rule.omega(t)
    added = omega * entry.rule.added_to_squares(entry.param)
    for average in (entry.row_var, entry.col_var, entry.variance):
        if average is not None:
            average.mul_(1.0 - omega)
            if added:
                average.add_(added)
    return omega


def _add_row_sums(rows: Tensor, gradient: Tensor, weight: float) -> None:
    """R ← R + weight·Σ_columns G²."""
    rows.add_(torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).square_(), alpha=weight)


def _column_sums_(squares: Tensor) -> Tensor:
    """Sums over the next to last dimension, kept as 1; ``squares`` is used up.

    Rows are first added to each other by halves, because torch's own sum over rows runs on one thread.
    """
    rows = squares.size(-2)
    while rows > 16:
        half = rows // 2
        squares.narrow(-2, 0, half).add_(squares.narrow(-2, rows - half, half))
        rows -= half
    return squares.narrow(-2, 0, rows).sum(dim=-2, keepdim=True)


def _sum_of_squares(values: Tensor) -> float:
    """Σ values², by rows: over all of a tile at once, torch's norm and its dot product lose digits.

    A dot product may also be taken in bfloat16 (``torch.set_float32_matmul_precision``), and the norm of a whole tensor
    runs on one thread.
    """
    if not values.is_contiguous():
        return _sum_of_squared_norms(values).item()
    flat = values.view(-1)
    whole = flat.numel() - flat.numel() % _SUMMED_AT_ONCE
    total = _sum_of_squared_norms(flat[:whole].view(-1, _SUMMED_AT_ONCE))
    if whole < flat.numel():
        total += _sum_of_squared_norms(flat[whole:])
    return total.item()


def _sum_of_squared_norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1).square_().sum()
