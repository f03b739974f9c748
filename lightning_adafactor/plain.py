"""The step in plain torch operations: the statement of the rule that every other implementation is tested against.

One parameter at a time, three passes over its gradient, each in tiles that stay in cache:

1. ``average_squares``: R and C (or V) take in this step's G²;
2. ``measure_update``: RMS(U), U = G/√V̂, which clipping needs before anything can be applied;
3. ``apply_update``: weight decay, U clipped and scaled, momentum, one write-back.

Nothing as large as a parameter is ever allocated. Two identities make it fast. Where no floor is active,
V̂ = r·C with r = R/mean(R) is separable, so U = (G·r^-½)·C^-½ needs no matrix V̂. And the column sums of G² are
gathered by adding the squares of one tile after the other, elementwise, into a single tile that is summed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.rounding import random_bits, round_stochastically
from lightning_adafactor.rule import state_dtype
from lightning_adafactor.tiles import Index, Scratch, strips, tiles

TILE_BYTES = 2 << 20
"""Bytes of a tile in the dtype of the arithmetic: small enough for the cache, large enough to wake all cores."""

_ROUNDED_TILE_BYTES = TILE_BYTES >> 2  # stochastic rounding needs several integers for each element


def adafactor(
    entries: Iterable[Entry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
) -> None:
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
            _step_parameter(entry, scratch, unscale)


def _step_parameter(entry: Entry, scratch: Scratch, unscale: float | None) -> None:
    rule, step = entry.rule, _ParameterStep(entry, scratch, unscale)
    rms = step.measure_parameter() if rule.scale_parameter else 0.0
    if entry.rms is not None:
        entry.rms.fill_(rms)
    step.average_squares()
    clip = max(1.0, step.measure_update() / rule.d)
    alpha = rule.alpha(step.t, rms)
    step.apply_update(alpha / clip, retained=rule.retained(alpha))


class _ParameterStep:
    """The passes over one parameter, and what the later ones know from the earlier.

    Args:
        entry: The parameter; not empty, its step already counted.
        scratch: Buffers in the dtype of the arithmetic.
        unscale: What the gradient is multiplied with before use, or None.
    """

    def __init__(self, entry: Entry, scratch: Scratch, unscale: float | None) -> None:
        self.entry = entry
        self.scratch = scratch
        self.unscale = unscale
        self.t = float(entry.step.item())
        self.numel = entry.param.numel()
        self.rounds_stochastically = entry.rule.rounds_stochastically(entry.param)
        tile_bytes = _ROUNDED_TILE_BYTES if self.rounds_stochastically else TILE_BYTES
        self.tile_numel = tile_bytes // scratch.dtype.itemsize
        self.tiny = torch.finfo(scratch.dtype).tiny
        floor = entry.rule.variance_floor(entry.param)
        # ε₁² may underflow; U of a gradient that was always zero is to be 0 then, not 0·∞
        self.floor = max(floor, self.tiny) if entry.rule.dialect == "torch" else 0.0
        self.row_mean: Tensor | None = None
        self.separable: list[bool] = []  # for each tile: is V̂ = r·C there, no floor being active?

    # What a tile holds, in the dtype of the arithmetic --------------------------------------------------------

    def gradient(self, index: Index) -> Tensor:
        """G on a tile, unscaled; a view of the gradient itself where nothing is to be converted."""
        tile = self.entry.grad[index]
        if tile.dtype == self.scratch.dtype and self.unscale is None:
            return tile
        converted = self.scratch.take("gradient", tile.shape).copy_(tile)
        return converted if self.unscale is None else converted.mul_(self.unscale)

    def parameter(self, index: Index) -> Tensor:
        """p on a tile; a view of the parameter itself where nothing is to be converted."""
        tile = self.entry.param[index]
        if tile.dtype == self.scratch.dtype:
            return tile
        return self.scratch.take("parameter", tile.shape).copy_(tile)

    def write_back(self, index: Index, values: Tensor) -> None:
        """The single rounding of a step: p on a tile becomes ``values``."""
        tile = self.entry.param[index]
        if tile.dtype == values.dtype:
            return  # the parameter itself was worked on
        if self.rounds_stochastically:
            bits = random_bits(
                self.entry.rule.seed,
                self.row_numbers(index),
                index[-1] if index else slice(0, 1),
                step=int(self.t),
                parameter=self.entry.index,
            )
            values = round_stochastically(values, bits.view(values.shape))
        tile.copy_(values)

    def row_numbers(self, index: Index) -> Tensor:
        """The numbers of a tile's rows, counted over all matrices; shape of the tile without its last dimension."""
        rows = torch.zeros((), dtype=torch.int64)
        for size, cut in zip(self.entry.param.shape[:-1], index[:-1], strict=True):
            rows = rows.unsqueeze(-1) * size + torch.arange(cut.start, cut.stop)
        return rows.to(self.entry.param.device)

    def row_factor(self, index: Index) -> Tensor:
        """r = R/mean(R) for a tile's rows, shape (..., rows, 1)."""
        assert self.entry.row_var is not None
        if self.row_mean is None:
            floor = self.entry.rule.mean_floor(self.entry.param)
            self.row_mean = self.entry.mean_of_rows().clamp_(min=max(floor, self.tiny))
        *batch, rows, _ = index
        return self.entry.row_var[(*batch, rows)] / self.row_mean[tuple(batch)]

    def column_factor(self, index: Index) -> Tensor:
        """C for a tile's columns, shape (..., 1, columns)."""
        assert self.entry.col_var is not None
        *batch, _, columns = index
        return self.entry.col_var[(*batch, slice(None), columns)]

    def update_factors(self, index: Index, *, separable: bool) -> tuple[Tensor, Tensor]:
        """Two tensors whose product is U on a tile; at least the first has the tile's shape."""
        gradient = self.gradient(index)
        work = self.scratch.take("work", gradient.shape)
        if self.entry.variance is not None:
            return gradient, torch.clamp(self.entry.variance[index], min=self.floor, out=work).rsqrt_()
        r, c = self.row_factor(index), self.column_factor(index)
        if separable:
            # rows and columns of zero gradients may have no variance at all: 0·finite is the right U there
            r, c = r.clamp_(min=self.tiny).rsqrt_(), c.clamp(min=self.tiny).rsqrt_()
            return torch.mul(gradient, r, out=work), c
        return gradient, torch.mul(r, c, out=work).clamp_(min=self.floor).rsqrt_()

    # The passes --------------------------------------------------------------------------------------------------

    def measure_parameter(self) -> float:
        """RMS(p) before the step."""
        norms = (torch.linalg.vector_norm(self.parameter(index)).item() for index in self.tiles())
        return math.sqrt(sum(norm * norm for norm in norms) / self.numel)

    def average_squares(self) -> None:
        """First pass: A ← (1-ω)·A + ω·mean(G² + ε₁) for the averages A of the dialect."""
        entry = self.entry
        omega = entry.rule.omega(self.t)
        added = omega * entry.rule.added_to_squares(entry.param)
        averages = [a for a in (entry.row_var, entry.col_var, entry.variance) if a is not None]
        for average in averages:
            average.mul_(1.0 - omega)
            if added:
                average.add_(added)
        if entry.variance is not None:
            for index in self.tiles():
                gradient = self.gradient(index)
                entry.variance[index].addcmul_(gradient, gradient, value=omega)
            return
        assert entry.row_var is not None and entry.col_var is not None
        n, m = entry.param.shape[-2:]
        for strip in strips(entry.param.shape, self.tile_numel):
            for place, index in enumerate(strip):
                gradient = self.gradient(index)
                rows = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).square_()
                entry.row_var[index[:-1]].add_(rows, alpha=omega / m)
                if place == 0:
                    squares = torch.mul(gradient, gradient, out=self.scratch.take("work", gradient.shape))
                else:
                    squares.narrow(-2, 0, gradient.size(-2)).addcmul_(gradient, gradient)
            self.column_factor(strip[0]).add_(_column_sums_(squares), alpha=omega / n)

    def measure_update(self) -> float:
        """Second pass: RMS(U)."""
        total = 0.0
        for index in self.tiles():
            separable = False
            if self.entry.factored:
                separable, squares = self._separable_update(index)
                self.separable.append(separable)
                if separable:
                    total += squares.item()
                    continue
            left, right = self.update_factors(index, separable=False)
            norm = torch.linalg.vector_norm(torch.mul(left, right, out=right)).item()
            total += norm * norm
        return math.sqrt(total / self.numel)

    def _separable_update(self, index: Index) -> tuple[bool, Tensor]:
        """Whether V̂ = r·C on a tile, and if so ΣU² = Σᵢ (1/rᵢ)·Σⱼ G²ᵢⱼ/Cⱼ; rows without gradient do not matter."""
        gradient = self.gradient(index)
        r, c = self.row_factor(index), self.column_factor(index)
        weighted = torch.mul(
            gradient, c.clamp(min=self.tiny).rsqrt_(), out=self.scratch.take("work", gradient.shape)
        )
        sums = torch.linalg.vector_norm(weighted, dim=-1, keepdim=True).square_()
        live = sums != 0
        separable = self.floor == 0 or bool(
            torch.where(live, r, torch.inf).amin() * c.amin() >= self.floor
        )
        return separable, torch.where(live, sums / r, 0.0).sum()

    def apply_update(self, scale: float, *, retained: float) -> None:
        """Third pass: p ← retained·p - scale·U, or minus the average of these updates with momentum."""
        rule, exp_avg = self.entry.rule, self.entry.exp_avg
        scale = -scale if rule.maximize else scale
        for index, separable in itertools.zip_longest(self.tiles(), self.separable, fillvalue=False):
            parameter = self.parameter(index)
            if retained != 1.0:
                parameter.mul_(retained)
            left, right = self.update_factors(index, separable=separable)
            if exp_avg is None or rule.beta1 is None:
                parameter.addcmul_(left, right, value=-scale)
            else:
                average = exp_avg[index].mul_(rule.beta1)
                parameter.sub_(average.addcmul_(left, right, value=(1.0 - rule.beta1) * scale))
            self.write_back(index, parameter)

    def tiles(self) -> Iterable[Index]:
        """The parameter's tiles, in the same order in each pass."""
        return tiles(self.entry.param.shape, self.tile_numel)


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
