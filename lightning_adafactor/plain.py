"""The step in plain torch operations: the statement of the rule that every other implementation is tested against.

One parameter at a time, three passes over its gradient, each in tiles that stay in cache:

1. ``average_squares``: R and C (or V) take in this step's G²;
2. ``measure_update``: RMS(U), U = G/√V̂, which clipping needs before anything can be applied;
3. ``apply_update``: weight decay, U clipped and scaled, momentum, one write-back.

Nothing as large as a parameter is ever allocated. What makes it fast:

* Where no floor is active, V̂ = r·C with r = R/mean(R) is separable, so U = (G·C^-½)·r^-½ needs no matrix V̂, and
  ΣU² = Σᵢ (1/rᵢ)·Σⱼ (G·C^-½)²ᵢⱼ.
* The column sums of G² are gathered by adding the squares of one tile after the other, elementwise, into a single
  tile that is summed once.
* The third pass runs backwards: it starts with the tile that the second pass left in the cache and in a buffer.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.rounding import random_bits, round_stochastically
from lightning_adafactor.rule import state_dtype
from lightning_adafactor.tiles import Grid, Scratch

TILE_BYTES = 3 << 20
"""Bytes of a tile in the dtype of the arithmetic: small enough for the cache, large enough to wake all cores."""

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
        separable: Whether V̂ = r·C on the whole tile; found out by the second pass.
    """

    gradient: Tensor
    parameter: Tensor
    averages: tuple[Tensor, ...]
    exp_avg: Tensor | None
    separable: bool = False


class _Step(ABC):
    """The passes over one parameter, and what the later ones know from the earlier.

    Args:
        entry: The parameter; not empty, its step already counted.
        scratch: Buffers in the dtype of the arithmetic.
        unscale: What the gradient is multiplied with before use, or None.
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
        gradients = self.grid.cut(entry.grad)
        exp_avgs = [None] * len(gradients) if entry.exp_avg is None else self.grid.cut(entry.exp_avg)
        views = zip(gradients, self.grid.cut(entry.param), self.cut_averages(), exp_avgs, strict=True)
        self.tiles = [_Tile(*view) for view in views]
        self.left_in_work: _Tile | None = None

    def tile_bytes(self) -> int:
        """Smaller tiles where more buffers are needed, so that all of them together stay below 8 MiB."""
        if self.rounds_stochastically:
            return TILE_BYTES // 8  # the random bits take several integers for each element
        if self.entry.factored and min(self.entry.param.shape[-2:]) < _NARROW:
            return TILE_BYTES // 8  # R or C of a tile is nearly as large as the tile, and so is what is made of it
        dtypes = {self.entry.param.dtype, self.entry.grad.dtype, self.scratch.dtype}
        return TILE_BYTES if len(dtypes) == 1 and self.unscale is None else TILE_BYTES // 2

    def run(self) -> None:
        rms = 0.0
        if self.rule.scale_parameter:
            rms = self.measure_parameter()
            if self.entry.rms is not None:
                self.entry.rms.fill_(rms)
        self.average_squares()
        clip = max(1.0, self.measure_update() / self.rule.d)
        alpha = self.rule.alpha(self.t, rms)
        self.apply_update(alpha / clip, retained=self.rule.retained(alpha))

    # What differs between matrices and vectors

    @abstractmethod
    def cut_averages(self) -> list[tuple[Tensor, ...]]:
        """The averages of G² that belong to each tile."""

    @abstractmethod
    def average_squares(self) -> None:
        """First pass: A ← (1-ω)·A + ω·mean(G² + ε₁) for each average A, with or without ε₁ by dialect."""

    @abstractmethod
    def measure_update(self) -> float:
        """Second pass: RMS(U). Leaves the last tile's left factor of U in the buffer ``work``."""

    @abstractmethod
    def update(self, tile: _Tile) -> tuple[Tensor, Tensor | None]:
        """U as a product of two factors, or U itself; may lie in the buffer ``work``."""

    # What is the same

    def gradient(self, tile: _Tile) -> Tensor:
        """G, unscaled and in the dtype of the arithmetic; the gradient itself where nothing is to be done."""
        if tile.gradient.dtype == self.scratch.dtype and self.unscale is None:
            return tile.gradient
        converted = self.scratch.take("gradient", tile.gradient.shape).copy_(tile.gradient)
        return converted if self.unscale is None else converted.mul_(self.unscale)

    def parameter(self, tile: _Tile) -> Tensor:
        """P in the dtype of the arithmetic; the parameter itself where that is its own."""
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

    def apply_update(self, scale: float, *, retained: float) -> None:
        """Third pass: p ← retained·p - scale·U; with momentum, minus the average of these updates."""
        beta1 = self.rule.beta1 or 0.0
        scale = -scale if self.rule.maximize else scale
        for number in reversed(range(len(self.tiles))):
            tile = self.tiles[number]
            left, right = self.update(tile)
            self.left_in_work = None
            parameter = self.parameter(tile)
            if retained != 1.0:
                parameter.mul_(retained)
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
        """Rounds p on a tile to the parameter's dtype; ``values`` are used up."""
        tile = self.tiles[number].parameter
        if self.rounds_stochastically:
            key = {"step": int(self.t), "parameter": self.entry.index}
            values = round_stochastically(values, random_bits(self.rule.seed, self.grid, number, tile, **key))
        tile.copy_(values)


class _VectorStep(_Step):
    """A vector or scalar: V̂ is the average of G² itself."""

    def cut_averages(self) -> list[tuple[Tensor, ...]]:
        assert self.entry.variance is not None
        return [(variance,) for variance in self.grid.cut(self.entry.variance)]

    def average_squares(self) -> None:
        omega = self.decay_averages()
        for tile in self.tiles:
            (variance,) = tile.averages
            gradient = self.gradient(tile)
            variance.addcmul_(gradient, gradient, value=omega)

    def measure_update(self) -> float:
        total = 0.0
        for tile in self.tiles:
            total += _sum_of_squares(self.update(tile)[0])
            self.left_in_work = tile
        return math.sqrt(total / self.numel)

    def update(self, tile: _Tile) -> tuple[Tensor, Tensor | None]:
        (variance,) = tile.averages
        work = self.scratch.take("work", variance.shape)
        if tile is self.left_in_work:
            return work, None
        return torch.clamp(variance, min=self.floor, out=work).rsqrt_().mul_(self.gradient(tile)), None


class _MatrixStep(_Step):
    """A factored parameter, its matrices in the last two dimensions: V̂ = max(R·C / mean(R), ε₁²)."""

    def cut_averages(self) -> list[tuple[Tensor, ...]]:
        assert self.entry.row_var is not None
        assert self.entry.col_var is not None
        rows = [view.narrow(-1, 0, 1) for view in self.cut_broadcast(self.entry.row_var)]
        columns = [view.narrow(-2, 0, 1) for view in self.cut_broadcast(self.entry.col_var)]
        return list(zip(rows, columns, strict=True))

    def cut_broadcast(self, factor: Tensor) -> list[Tensor]:
        return self.grid.cut(factor.expand(self.entry.param.shape))

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

    def measure_update(self) -> float:
        floor = max(self.rule.mean_floor(self.entry.param), self.tiny)
        mean = self.entry.mean_of_rows().clamp_(min=floor)
        means = [mean] if mean.numel() == 1 else [v[..., :1, :1] for v in self.cut_broadcast(mean)]
        if len(means) == 1:
            means *= len(self.tiles)
        self.row_means = dict(zip(map(id, self.tiles), means, strict=True))
        total = 0.0
        for tile in self.tiles:
            total += self.measure_tile(tile)
            self.left_in_work = tile if tile.separable else None
        return math.sqrt(total / self.numel)

    def row_factor(self, tile: _Tile) -> Tensor:
        """R = R/mean(R)."""
        return tile.averages[0] / self.row_means[id(tile)]

    def measure_tile(self, tile: _Tile) -> float:
        """ΣU² over a tile, and whether V̂ is separable there."""
        r, c = self.row_factor(tile), tile.averages[1]
        sums = torch.linalg.vector_norm(self.weigh_columns(tile), dim=-1, keepdim=True).square_()
        tile.separable = self.floor == 0 or (r.amin() * c.amin()).item() >= self.floor
        if tile.separable:
            return sums.div_(r).sum().item()
        # rows without any gradient, most of an embedding's, may fall below the floor: U is 0 there in any case
        live = sums != 0
        tile.separable = (torch.where(live, r, torch.inf).amin() * c.amin()).item() >= self.floor
        if tile.separable:
            return torch.where(live, sums.div_(r), 0.0).sum().item()
        left, right = self.update(tile)
        return _sum_of_squares(torch.mul(left, right, out=right))

    def weigh_columns(self, tile: _Tile) -> Tensor:
        """G·C^-½, in the buffer ``work``."""
        gradient = self.gradient(tile)
        weights = tile.averages[1].clamp(min=self.tiny).rsqrt_()
        return torch.mul(gradient, weights, out=self.scratch.take("work", gradient.shape))

    def update(self, tile: _Tile) -> tuple[Tensor, Tensor]:
        r, c = self.row_factor(tile), tile.averages[1]
        work = self.scratch.take("work", tile.gradient.shape)
        if not tile.separable:
            return self.gradient(tile), torch.mul(r, c, out=work).clamp_(min=self.floor).rsqrt_()
        weighted = work if tile is self.left_in_work else self.weigh_columns(tile)
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
