"""The sharded step in plain torch operations: the passes of ``plain`` on local shards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adafactor import plain
from lightning_adafactor.rule import state_dtype
from lightning_adafactor.shard import Shard
from lightning_adafactor.tiles import Scratch


class PlainStages:
    """Implements ``stages.Stages`` for shards on one device; reads the sums of scalars on the host.

    Args:
        shards: The shards, all with elements.
        squares: The first buffer of sums.
        updates: The second one.
        grad_scale: One element that gradients are divided by before use; None for 1.
    """

    def __init__(self, shards: Sequence[Shard], squares: Tensor, updates: Tensor, grad_scale: Tensor | None) -> None:
        self.squares, self.updates = squares, updates
        unscale = None if grad_scale is None else 1.0 / float(grad_scale)
        dtypes = {state_dtype(shard.entry.param) for shard in shards}
        scratches = {dtype: Scratch(dtype, squares.device) for dtype in dtypes}
        self.work = [
            _Work(shard, scratches[state_dtype(shard.entry.param)], unscale, squares, updates) for shard in shards
        ]

    def sum_squares(self) -> None:
        """First stage."""
        for work in self.work:
            work.sum_squares()

    def sum_updates(self, found_inf: Tensor | None) -> None:
        """Second stage."""
        if found_inf is None or found_inf.item() == 0:
            for work in self.work:
                work.sum_updates()

    def apply_updates(self, found_inf: Tensor | None) -> None:
        """Third stage."""
        if found_inf is not None and found_inf.item() != 0:
            return
        scaled = [place for work in self.work if (place := work.shard.parameter_sum) is not None]
        of_parameters = iter(_read(self.squares, scaled))
        of_updates = _read(self.updates, [work.shard.update_sum for work in self.work])
        for work, of_update in zip(self.work, of_updates, strict=True):
            work.apply_updates(next(of_parameters) if work.shard.parameter_sum is not None else 0.0, of_update)


def _read(buffer: Tensor, places: Sequence[int]) -> list[float]:
    """Numbers of a buffer, read from the device at once."""
    values: list[float] = torch.stack([buffer[place] for place in places]).tolist() if places else []
    return values


class _Work:
    """The passes over one shard; arguments as of :class:`PlainStages`, and buffers in the dtype of the arithmetic."""

    def __init__(self, shard: Shard, scratch: Scratch, unscale: float | None, squares: Tensor, updates: Tensor) -> None:
        self.shard, self.entry, self.updates = shard, shard.entry, updates
        self.t = float(shard.entry.step.item()) + 1.0
        self.passes = plain.passes(shard.entry, scratch, unscale, self.t)
        self.known: list[plain.Known] = []
        self.parameter_sum = None if shard.parameter_sum is None else squares[shard.parameter_sum]
        self.factors = _Factors(shard, squares) if shard.entry.factored else None

    def sum_squares(self) -> None:
        if self.parameter_sum is not None:
            self.parameter_sum.fill_(self.passes.sum_parameter())
        if self.factors is not None:
            self.factors.sum_squares(self.passes, self.t)

    def sum_updates(self) -> None:
        self.entry.step += 1
        mean_of_rows = None
        if self.factors is not None:
            mean_of_rows = self.factors.average_squares(self.t)
        else:
            self.passes.average_squares()
        total, known = self.passes.sum_update(mean_of_rows)
        self.updates[self.shard.update_sum].fill_(total)
        self.known = [each._replace(in_work=False) for each in known]  # other shards have used the buffers since

    def apply_updates(self, parameter_squares: float, update_squares: float) -> None:
        numel = self.shard.numel
        self.passes.apply_update(self.known, math.sqrt(parameter_squares / numel), math.sqrt(update_squares / numel))


class _Factors:
    """R and C of a shard, and views of the sums of G² that they are updated with.

    mean(R) is linear in R, so that it follows from the old R and ΣG², wherever the rows are.
    """

    def __init__(self, shard: Shard, squares: Tensor) -> None:
        entry = shard.entry
        assert entry.row_var is not None
        assert entry.col_var is not None
        assert shard.row_sums is not None
        assert shard.column_sums is not None
        self.shard, self.entry = shard, entry
        self.row_var, self.col_var = entry.row_var, entry.col_var
        self.row_sums = squares[shard.row_sums :][: self.row_var.numel()].view(self.row_var.shape)
        self.column_sums = squares[shard.column_sums :][: self.col_var.numel()].view(self.col_var.shape)
        # those of the parameter itself, whatever its order in memory
        if entry.transposed:
            self.own, self.own_sums, self.own_dim = self.col_var, self.column_sums, -1
        else:
            self.own, self.own_sums, self.own_dim = self.row_var, self.row_sums, -2
        self.mean_sums = None
        if shard.mean_sums is not None:
            shape = (*self.row_var.shape[:-2], 1, 1)
            self.mean_sums = squares[shard.mean_sums :][: math.prod(shape)].view(shape)

    def sum_squares(self, passes: plain.Passes, t: float) -> None:
        """Sums of G² over this shard's columns and rows, and what they and the old R add to ΣR."""
        assert isinstance(passes, plain.MatrixPasses)
        passes.add_squares(passes.split_factors(self.row_sums, self.column_sums), 1.0, 1.0)
        if self.mean_sums is not None:
            rule = self.entry.rule
            omega = rule.omega(t)
            total = self.own_sums.sum(self.own_dim, keepdim=True).mul_(omega / self.shard.other_size)
            if self.shard.holds_factor:
                total += (1.0 - omega) * self.own.sum(self.own_dim, keepdim=True)
                total += omega * rule.added_to_squares(self.entry.param) * self.own.size(self.own_dim)
            self.mean_sums.copy_(total)

    def average_squares(self, t: float) -> Tensor:
        """Updates R and C with the complete sums; returns mean(R) of each matrix, (..., 1, 1)."""
        omega = plain.decay_averages(self.entry, t)
        n, m = self.shard.shape[-2:]
        self.row_var.add_(self.row_sums, alpha=omega / m)
        self.col_var.add_(self.column_sums, alpha=omega / n)
        if self.mean_sums is None:
            return self.entry.mean_of_rows()
        return (self.mean_sums / self.shard.mean_size).to(self.own.dtype)
