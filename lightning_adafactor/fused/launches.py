"""Launches of the kernels for one work table."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

from lightning_adafactor.fused import kernels
from lightning_adafactor.fused.shard_table import ShardTable
from lightning_adafactor.fused.table import WorkTable

WARPS = 4
"""Warps of a program."""

_TRITON_DTYPE = {
    torch.float32: triton.language.float32,
    torch.bfloat16: triton.language.bfloat16,
    torch.float16: triton.language.float16,
}


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which kernels are launched on this device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Launches:
    """Launches kernels for all parameters of a table, in a context of its device.

    Args:
        table: The table.
        grad_scale: One element on the table's device that gradients are divided by before use; None for 1.
        found_inf: One element on that device; where it is not zero, nothing changes. None for 0.
    """

    def __init__(self, table: WorkTable, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        self.table = table
        unused = table.scalars
        self.grad_scale = unused if grad_scale is None else grad_scale
        self.found_inf = unused if found_inf is None else found_inf
        self.checks = {"HAS_FOUND_INF": found_inf is not None}
        self.unscales = {"HAS_GRAD_SCALE": grad_scale is not None, **self.checks}
        self.p, self.g = _TRITON_DTYPE[table.param_dtype], _TRITON_DTYPE[table.grad_dtype]
        tiling = table.tiling
        self.tile = {
            "TILE_ROWS": tiling.rows,
            "TILE_COLUMNS": tiling.columns,
            "BLOCK_ROWS": tiling.block_rows,
            "STAGES": tiling.stages,
        }

    def sum_squares(self, *, averages_vectors: bool = True) -> None:
        """First pass."""
        table = self.table
        kernels.sum_squares[(len(table.tiles),)](
            table.tiles,
            table.params,
            table.grads,
            table.options,
            table.workspace,
            table.squares_of_p,
            self.grad_scale,
            self.found_inf,
            P=self.p,
            G=self.g,
            **self.tile,
            **self.unscales,
            AVERAGES_VECTORS=averages_vectors,
            num_warps=WARPS,
        )

    def update_factors(self) -> None:
        """R and C of whole parameters."""
        table = self.table
        if len(table.chunks):
            kernels.update_factors[(len(table.chunks),)](
                table.chunks,
                table.params,
                table.options,
                table.workspace,
                self.found_inf,
                **self.checks,
                num_warps=WARPS,
            )

    def sum_updates(self, *, averages_vectors: bool = False) -> None:
        """Second pass."""
        table = self.table
        kernels.sum_updates[(len(table.tiles),)](
            table.tiles,
            table.params,
            table.grads,
            table.options,
            table.workspace,
            table.squares_of_u,
            self.grad_scale,
            self.found_inf,
            G=self.g,
            **self.tile,
            **self.unscales,
            AVERAGES_VECTORS=averages_vectors,
            num_warps=WARPS,
        )

    def find_scalars(self) -> None:
        """The scalars of the step."""
        self._find_scalars(self.table.squares_of_p, self.table.squares_of_u, shards=False)

    def _find_scalars(self, squares_of_p: Tensor, squares_of_u: Tensor, *, shards: bool) -> None:
        table = self.table
        kernels.find_scalars[(len(table.params),)](
            table.params,
            table.options,
            squares_of_p,
            squares_of_u,
            table.scalars,
            self.found_inf,
            **self.checks,
            SHARDS=shards,
            num_warps=WARPS,
        )

    def apply_updates(self) -> None:
        """Third pass."""
        table = self.table
        kernels.apply_updates[(len(table.tiles),)](
            table.tiles,
            table.params,
            table.grads,
            table.options,
            table.workspace,
            table.scalars,
            self.grad_scale,
            self.found_inf,
            P=self.p,
            G=self.g,
            **self.tile,
            **self.unscales,
            MOMENTUM=table.has_momentum,
            STOCHASTIC=table.is_stochastic,
            REGION=int(table.region),
            num_warps=WARPS,
        )


class ShardLaunches(Launches):
    """Launches kernels for shards too; arguments as of :class:`Launches`."""

    table: ShardTable

    def collect_squares(self, sums: Tensor) -> None:
        """This process's sums of the first pass, and its part of ΣR.

        Args:
            sums: The buffer that processes exchange.
        """
        table = self.table
        if len(table.chunks):
            kernels.collect_squares[(len(table.chunks),)](
                table.chunks, table.params, table.options, table.workspace, sums, num_warps=WARPS
            )
        self._collect_totals(table.totals_before, sums)

    def average_squares(self, sums: Tensor) -> None:
        """R and C from the sums of all processes."""
        table = self.table
        if len(table.chunks):
            kernels.average_squares[(len(table.chunks),)](
                table.chunks,
                table.params,
                table.options,
                table.workspace,
                sums,
                self.found_inf,
                **self.checks,
                num_warps=WARPS,
            )

    def collect_updates(self, sums: Tensor) -> None:
        """This process's ΣU²."""
        self._collect_totals(self.table.totals_after, sums)

    def find_scalars_of_shards(self, squares: Tensor, updates: Tensor) -> None:
        """The scalars of the step from the sums of all processes."""
        self._find_scalars(squares, updates, shards=True)

    def _collect_totals(self, totals: Tensor, sums: Tensor) -> None:
        if len(totals):
            kernels.collect_totals[(len(totals),)](totals, self.table.workspace, sums, num_warps=WARPS)
