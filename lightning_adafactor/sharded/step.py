"""The step of sharded parameters: the passes of ``plain`` on local shards, and two reductions between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor import plain
from lightning_adafactor.entry import Entry
from lightning_adafactor.rule import Rule, state_dtype
from lightning_adafactor.sharded.layout import Layout, layout_of, local, local_gradient, region_of
from lightning_adafactor.sharded.reduction import Reduction
from lightning_adafactor.tiles import Scratch


@dataclasses.dataclass(frozen=True, slots=True)
class ShardedEntry:
    """A parameter that is sharded over processes.

    Attributes:
        entry: The local shards of the parameter, its gradient and its state. ``row_var`` and ``col_var`` are whole
            along what the parameter is not sharded along.
        layout: How the parameter is sharded.
    """

    entry: Entry
    layout: Layout


def entry_of(param: DTensor, state: dict[str, Tensor], index: int, rule: Rule) -> ShardedEntry:
    """Collects the local shards of a parameter, its gradient and its state.

    Args:
        param: The parameter, with a gradient.
        state: Its state (torch's names).
        index: Its position in the optimizer.
        rule: Its group's options.

    Raises:
        RuntimeError: The placements of the parameter or of its gradient are not supported.
    """
    layout = layout_of(param)
    shards = {name: local(value) for name, value in state.items()}
    gradient = local_gradient(param)
    entry = Entry.of(local(param), gradient, shards, index, rule, transposed=layout.transposed)
    if layout.all and rule.rounds_stochastically(param):
        entry.region = region_of(param, transposed=layout.transposed)
    return ShardedEntry(entry, layout)


def adafactor(
    entries: Iterable[ShardedEntry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
) -> Tensor | None:
    """Takes one step for each entry, in place; every process calls it with its shards of the same parameters.

    Args:
        entries: The parameters of the step, in the same order on every process.
        grad_scale: One element that gradients are divided by before use; None for 1. The same on every process.
        found_inf: One element; where it is not zero on any process that shares a parameter, nothing changes. None for
            0; given on all processes or on none.

    Returns:
        ``found_inf`` of all these processes, or None.
    """
    unscale = None if grad_scale is None else 1.0 / float(grad_scale)
    by_device: dict[torch.device, list[ShardedEntry]] = {}
    for entry in entries:
        by_device.setdefault(entry.entry.param.device, []).append(entry)
    for device, alike in by_device.items():
        found_inf = _step(alike, device, unscale, found_inf)
    return found_inf


def _step(
    entries: Sequence[ShardedEntry], device: torch.device, unscale: float | None, found_inf: Tensor | None
) -> Tensor | None:
    """Takes the step of the parameters on one device; returns ``found_inf`` of all processes that share them."""
    dtypes = {state_dtype(entry.entry.param) for entry in entries}
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32  # of the sums, which travel together
    scratches = {dtype: Scratch(dtype, device) for dtype in dtypes}
    squares, updates = Reduction(dtype, device), Reduction(dtype, device)
    shards = [_Shard(entry, scratches[state_dtype(entry.entry.param)], unscale, squares, updates) for entry in entries]
    inf = None if found_inf is None else squares.reserve_for_all(entries[0].layout, updates)

    squares.allocate()
    if inf is not None and found_inf is not None:
        squares.view(inf).fill_(float(found_inf.item() != 0))
    for shard in shards:
        shard.sum_squares()
    squares.all_reduce()
    if inf is not None and found_inf is not None and squares.scalars([inf]) != [0.0]:
        return torch.ones_like(found_inf)

    updates.allocate()
    for shard in shards:
        shard.sum_update()
    updates.all_reduce()
    sums_of_squares = squares.scalars([shard.parameter for shard in shards if shard.parameter is not None])
    of_parameters = iter(sums_of_squares)
    of_updates = updates.scalars([shard.update for shard in shards])
    for shard, of_update in zip(shards, of_updates, strict=True):
        shard.apply(next(of_parameters) if shard.parameter is not None else 0.0, of_update)
    return found_inf


class _Shard:
    """The three passes over one shard.

    Args:
        sharded: The parameter.
        scratch: Buffers in the dtype of the arithmetic.
        unscale: What the gradient is multiplied by before use, or None.
        squares: Where Σ G² over rows and over columns, ΣR and Σp² are added up.
        updates: Where ΣU² is added up.

    Attributes:
        parameter: The slot of Σp² in ``squares``; None without ``scale_parameter``.
        update: The slot of ΣU² in ``updates``.
    """

    def __init__(
        self,
        sharded: ShardedEntry,
        scratch: Scratch,
        unscale: float | None,
        squares: Reduction,
        updates: Reduction,
    ) -> None:
        self.entry = entry = sharded.entry
        self.layout = layout = sharded.layout
        self.squares, self.updates = squares, updates
        self.t = float(entry.step.item()) + 1.0
        self.numel = math.prod(layout.shape)
        self.passes: plain.Passes | None = None
        if entry.param.numel() > 0:
            self.passes = plain.passes(entry, scratch, unscale, self.t)
        self.known: list[plain.Known] = []
        self.parameter = squares.reserve(1, layout, layout.all) if entry.rule.scale_parameter else None
        self.update = updates.reserve(1, layout, layout.all)
        self.matrix: _Factors | None = None
        if entry.row_var is not None and entry.col_var is not None:
            self.matrix = _Factors(entry, layout, squares)

    def sum_squares(self) -> None:
        """First pass: this shard's part of Σp² and of the sums of G²."""
        if self.parameter is not None and self.passes is not None:
            self.squares.view(self.parameter).fill_(self.passes.sum_parameter())
        if self.matrix is not None:
            self.matrix.sum_squares(self.passes, self.t)

    def sum_update(self) -> None:
        """Second pass: the averages are updated with what all shards have summed; this shard's part of ΣU²."""
        self.entry.step += 1
        mean_of_rows = None
        if self.matrix is not None:
            mean_of_rows = self.matrix.average_squares(self.t)
        elif self.passes is not None:
            self.passes.average_squares()
        if self.passes is not None:
            total, known = self.passes.sum_update(mean_of_rows)
            self.updates.view(self.update).fill_(total)
            self.known = [each._replace(in_work=False) for each in known]  # other shards have used the buffers since

    def apply(self, parameter_squares: float, update_squares: float) -> None:
        """Third pass."""
        rms = math.sqrt(parameter_squares / self.numel)
        rms_of_update = math.sqrt(update_squares / self.numel)
        if self.passes is not None:
            self.passes.apply_update(self.known, rms, rms_of_update)
        elif self.entry.rms is not None and self.entry.rule.scale_parameter:
            self.entry.rms.fill_(rms)


class _Factors:
    """R and C of a shard, and the slots in which their sums of G² are added up.

    mean(R) is linear in R, so that it follows from the old R and ΣG², wherever the rows are.

    Args:
        entry: The shard.
        layout: How the parameter is sharded.
        squares: Where sums are added up.
    """

    def __init__(self, entry: Entry, layout: Layout, squares: Reduction) -> None:
        assert entry.row_var is not None
        assert entry.col_var is not None
        self.entry, self.layout, self.squares = entry, layout, squares
        self.row_var, self.col_var = entry.row_var, entry.col_var
        self.row_sums = squares.reserve(self.row_var.numel(), layout, layout.columns)
        self.column_sums = squares.reserve(self.col_var.numel(), layout, layout.rows)
        # those of the parameter itself, whatever its order in memory
        if entry.transposed:
            self.own, self.own_sums, self.own_dim = self.col_var, self.column_sums, -1
            own_mesh_dims, self.other_mesh_dims, self.other_size = layout.columns, layout.rows, layout.shape[-2]
        else:
            self.own, self.own_sums, self.own_dim = self.row_var, self.row_sums, -2
            own_mesh_dims, self.other_mesh_dims, self.other_size = layout.rows, layout.columns, layout.shape[-1]
        self.mean_shape = (*self.row_var.shape[:-2], 1, 1)
        self.mean: int | None = None
        if own_mesh_dims:
            over = sorted((*own_mesh_dims, *self.other_mesh_dims))
            self.mean = squares.reserve(math.prod(self.mean_shape), layout, over)

    def sum_squares(self, passes: plain.Passes | None, t: float) -> None:
        """Sums of G² over this shard's columns and rows, and what they and the old R add to ΣR."""
        if passes is not None:
            assert isinstance(passes, plain.MatrixPasses)
            rows = self.squares.view(self.row_sums, self.row_var.shape)
            columns = self.squares.view(self.column_sums, self.col_var.shape)
            passes.add_squares(passes.split_factors(rows, columns), 1.0, 1.0)
        if self.mean is not None:
            rule = self.entry.rule
            omega = rule.omega(t)
            sums = self.squares.view(self.own_sums, self.own.shape)
            total = sums.sum(self.own_dim, keepdim=True).mul_(omega / self.other_size)
            if self.layout.is_first(self.other_mesh_dims):  # the others have the same R
                total += (1.0 - omega) * self.own.sum(self.own_dim, keepdim=True)
                total += omega * rule.added_to_squares(self.entry.param) * self.own.size(self.own_dim)
            self.squares.view(self.mean, self.mean_shape).copy_(total)

    def average_squares(self, t: float) -> Tensor:
        """Updates R and C with the complete sums; returns mean(R) of each matrix, (..., 1, 1)."""
        omega = plain.decay_averages(self.entry, t)
        n, m = self.layout.shape[-2:]
        self.row_var.add_(self.squares.view(self.row_sums, self.row_var.shape), alpha=omega / m)
        self.col_var.add_(self.squares.view(self.column_sums, self.col_var.shape), alpha=omega / n)
        if self.mean is None:
            return self.entry.mean_of_rows()
        total = self.squares.view(self.mean, self.mean_shape)
        return (total / self.layout.shape[self.own_dim]).to(self.own.dtype)
