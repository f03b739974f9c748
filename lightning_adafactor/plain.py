"""The step in plain torch operations: the reference that every other implementation is tested against.

One parameter at a time, three passes over its gradient, each in tiles that stay in the cache:

1. ``average_squares``: R and C (or V) are updated with G²;
2. ``measure_update``: RMS(U), U = G/√V̂, which clipping needs before anything can be applied;
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
            step = _MatrixStep if entry.factored else _VectorStep
            step(entry, scratch, unscale).run()


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


class _Known(NamedTuple):
    """What the second pass finds out about U on a tile, for the third pass to compute U again.

    Attributes:
        row_mean: mean(R) of the tile's matrices, (..., 1, 1), not below its floor; None for a vector.
        separable: Whether V̂ = r·C on the whole tile, no floor being active; False for a vector.
        in_work: Whether the left factor of U is still in the buffer ``work``, which is true of one tile at most.
    """

    row_mean: Tensor | None = None
    separable: bool = False
    in_work: bool = False


class _Step(ABC):
    """The three passes over one parameter.

    A pass leaves its results in the averages (the first) or returns them (the second); nothing else is handed on but
    the buffer ``work``, and only where :class:`_Known` says so. Taking a buffer overwrites it, and of each only one
    tile is in use at a time: ``gradient`` and ``parameter`` hold a tile's G and p where these need conversion, ``work``
    is for the squares of the first pass and for the factors of U. No pass writes to G.

    Args:
        entry: The parameter; not empty, its step already counted.
        scratch: Buffers in the dtype of the arithmetic.
        unscale: What the gradient is multiplied by before use, or None.
    """

    def __init__(self, entry: Entry, scratch: Scratch, unscale: float | None) -> None:
        self.entry = entry
        self.rule = entry.rule
        self.scratch = scratch
        self.unscale = unscale
        self.t = float(entry.step.item())
        self.numel = entry.param.numel()
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
        rms = 0.0
        if self.rule.scale_parameter:
            rms = self.measure_parameter()
            if self.entry.rms is not None:
                self.entry.rms.fill_(rms)
        self.average_squares()
        rms_of_update, known = self.measure_update()
        alpha = self.rule.alpha(self.t, rms)
        scale = self.rule.update_scale(alpha, rms_of_update)
        self.apply_update(known, scale, decay_factor=self.rule.decay_factor(alpha))

    # What differs between matrices and vectors

    @abstractmethod
    def split_averages(self) -> list[tuple[Tensor, ...]]:
        """The averages of G² that belong to each tile."""

    @abstractmethod
    def average_squares(self) -> None:
        """First pass: A ← (1-ω)·A + ω·mean(G² + ε₁) for each average A, with or without ε₁ by dialect."""

    @abstractmethod
    def measure_update(self) -> tuple[float, list[_Known]]:
        """Second pass: RMS(U), and for each tile what the third pass needs to know."""

    @abstractmethod
    def update(self, tile: _Tile, known: _Known) -> tuple[Tensor, Tensor | None]:
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

    def measure_parameter(self) -> float:
        """RMS(p) before the step."""
        return math.sqrt(sum(_sum_of_squares(self.parameter(tile)) for tile in self.tiles) / self.numel)

    def decay_averages(self) -> float:
        """The part of the first pass that does not need G; returns ω."""
        omega = self.rule.omega(self.t)
        added = omega * self.rule.added_to_squares(self.entry.param)
        for average in (self.entry.row_var, self.entry.col_var, self.entry.variance):
            if average is not None:
                average.mul_(1.0 - omega)
                if added:
                    average.add_(added)
        return omega

    def apply_update(self, known: Sequence[_Known], scale: float, *, decay_factor: float) -> None:
        """Third pass: p ← decay_factor·p - scale·U; with momentum, minus the average of these updates.

        It begins with the last tile, which may be in ``work``.
        """
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
            key = {"step": int(self.t), "parameter": self.entry.index}
            values = round_stochastically(values, random_bits(self.rule.seed, self.grid, number, tile, **key))
        tile.copy_(values)


class _VectorStep(_Step):
    """A parameter that is not factored: V̂ = max(V, ε₁²)."""

    def split_averages(self) -> list[tuple[Tensor, ...]]:
        assert self.entry.variance is not None
        return [(variance,) for variance in self.grid.split(self.entry.variance)]

    def average_squares(self) -> None:
        omega = self.decay_averages()
        for tile in self.tiles:
            (variance,) = tile.averages
            gradient = self.gradient(tile)
            variance.addcmul_(gradient, gradient, value=omega)

    def measure_update(self) -> tuple[float, list[_Known]]:
        total = sum(_sum_of_squares(self.update(tile, _Known())[0]) for tile in self.tiles)
        known = [_Known()] * (len(self.tiles) - 1) + [_Known(in_work=True)]
        return math.sqrt(total / self.numel), known

    def update(self, tile: _Tile, known: _Known) -> tuple[Tensor, None]:
        (variance,) = tile.averages
        work = self.scratch.take("work", variance.shape)
        if known.in_work:
            return work, None
        return torch.clamp(variance, min=self.floor, out=work).rsqrt_().mul_(self.gradient(tile)), None


class _MatrixStep(_Step):
    """A factored parameter, its matrices in the last two dimensions: V̂ = max(R·C / mean(R), ε₁²)."""

    def split_averages(self) -> list[tuple[Tensor, ...]]:
        assert self.entry.row_var is not None
        assert self.entry.col_var is not None
        rows = [view.narrow(-1, 0, 1) for view in self.split_broadcast(self.entry.row_var)]
        columns = [view.narrow(-2, 0, 1) for view in self.split_broadcast(self.entry.col_var)]
        return list(zip(rows, columns, strict=True))

    def split_broadcast(self, factor: Tensor) -> list[Tensor]:
        return self.grid.split(factor.expand(self.entry.param.shape))

    def average_squares(self) -> None:
        omega = self.decay_averages()
        n, m = self.entry.param.shape[-2:]
        for first in range(0, len(self.tiles), self.grid.tiles_per_strip):
            top, *others = self.tiles[first : first + self.grid.tiles_per_strip]
            gradient = self.gradient(top)
            squares = torch.mul(gradient, gradient, out=self.scratch.take("work", gradient.shape))
            _add_row_sums(top, gradient, omega / m)
            for tile in others:
                gradient = self.gradient(tile)
                squares.narrow(-2, 0, gradient.size(-2)).addcmul_(gradient, gradient)
                _add_row_sums(tile, gradient, omega / m)
            top.averages[1].add_(_column_sums_(squares), alpha=omega / n)

    def measure_update(self) -> tuple[float, list[_Known]]:
        total = 0.0
        known: list[_Known] = []
        for tile, row_mean in zip(self.tiles, self.row_means(), strict=True):
            squares, separable = self.measure_tile(tile, row_mean)
            total += squares
            known.append(_Known(row_mean, separable, in_work=separable and tile is self.tiles[-1]))
        return math.sqrt(total / self.numel), known

    def row_means(self) -> list[Tensor]:
        """mean(R) of each tile's matrices, not below its floor."""
        floor = max(self.rule.mean_floor(self.entry.param), self.tiny)
        mean = self.entry.mean_of_rows().clamp_(min=floor)
        means = [mean] if mean.numel() == 1 else [view[..., :1, :1] for view in self.split_broadcast(mean)]
        return means * len(self.tiles) if len(means) == 1 else means

    def measure_tile(self, tile: _Tile, row_mean: Tensor) -> tuple[float, bool]:
        """ΣU² over a tile, and whether V̂ is separable there; G·C^-½ is in ``work`` then."""
        r, c = tile.averages[0] / row_mean, tile.averages[1]
        sums = torch.linalg.vector_norm(self.weigh_columns(tile), dim=-1, keepdim=True).square_()
        if self.floor == 0 or (r.amin() * c.amin()).item() >= self.floor:
            return sums.div_(r).sum().item(), True
        # rows without any gradient, most of an embedding's, may fall below the floor: U is 0 there in any case
        live = sums != 0
        if (torch.where(live, r, torch.inf).amin() * c.amin()).item() >= self.floor:
            return torch.where(live, sums.div_(r), 0.0).sum().item(), True
        left, right = self.update(tile, _Known(row_mean))
        return _sum_of_squares(torch.mul(left, right, out=right)), False  # not separable: right is ``work``

    def weigh_columns(self, tile: _Tile) -> Tensor:
        """G·C^-½, in the buffer ``work``."""
        gradient = self.gradient(tile)
        weights = tile.averages[1].clamp(min=self.tiny).rsqrt_()
        return torch.mul(gradient, weights, out=self.scratch.take("work", gradient.shape))

    def update(self, tile: _Tile, known: _Known) -> tuple[Tensor, Tensor]:
        assert known.row_mean is not None
        r, c = tile.averages[0] / known.row_mean, tile.averages[1]
        work = self.scratch.take("work", tile.gradient.shape)
        if not known.separable:
            return self.gradient(tile), torch.mul(r, c, out=work).clamp_(min=self.floor).rsqrt_()
        weighted = work if known.in_work else self.weigh_columns(tile)
        return weighted, r.clamp_(min=self.tiny).rsqrt_()


def _add_row_sums(tile: _Tile, gradient: Tensor, weight: float) -> None:
    """R ← R + weight·Σ_columns G²."""
    sums = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).square_()
    tile.averages[0].add_(sums, alpha=weight)


def _column_sums_(squares: Tensor) -> Tensor:
    """Sums over the next to last dimension, kept as 1; ``squares`` is used up.

    Rows are first added to each other by halves, for torch's own sum over rows runs on one thread.
    """
    rows = squares.size(-2)
    while rows > 16:
        half = rows // 2
        squares.narrow(-2, 0, half).add_(squares.narrow(-2, rows - half, half))
        rows -= half
    return squares.narrow(-2, 0, rows).sum(dim=-2, keepdim=True)


def _sum_of_squares(values: Tensor) -> float:
    """Σ values², by a dot product: torch's norm of a whole tensor runs on one thread and loses more digits."""
    if values.is_contiguous():
        flat = values.view(-1)
        return torch.dot(flat, flat).item()
    return torch.linalg.vector_norm(values).item() ** 2
