"""The sharded step in Triton kernels: sums stay on the device, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adafactor.fused.launches import ShardLaunches, on_device
from lightning_adafactor.fused.shard_table import ShardTable
from lightning_adafactor.fused.table import Tiling
from lightning_adafactor.shard import Shard

Kind = tuple[torch.device, torch.dtype, torch.dtype]
"""What shards of one table have in common: device, dtype of the parameters, dtype of the gradients."""

Tables = dict[Kind, ShardTable]
"""Tables that are kept from step to step; they belong to no state and no checkpoint."""


class FusedStages:
    """Implements ``stages.Stages`` for shards on one device.

    A bucket of shards takes eight launches: ``sum_squares``, ``collect_squares``, ``collect_totals``; after the first
    all-reduce ``average_squares``, ``sum_updates``, ``collect_totals``; after the second one ``find_scalars`` and
    ``apply_updates``. Those of all buckets come before an all-reduce together.

    Args:
        shards: The shards, all with elements.
        squares: The first buffer of sums.
        updates: The second one.
        grad_scale: One element that gradients are divided by before use; None for 1.
        tables: Tables of the last step, updated here.
        tilings: Tile sizes by parameter dtype, in place of ``Tiling.of``.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        squares: Tensor,
        updates: Tensor,
        grad_scale: Tensor | None,
        *,
        tables: Tables,
        tilings: dict[torch.dtype, Tiling],
    ) -> None:
        self.device, self.squares, self.updates = squares.device, squares, updates
        self.grad_scale = None if grad_scale is None else grad_scale.to(self.device, non_blocking=True)
        self.tables: list[ShardTable] = []
        buckets: dict[Kind, list[Shard]] = {}
        for shard in shards:
            kind = (self.device, shard.entry.param.dtype, shard.entry.grad.dtype)
            buckets.setdefault(kind, []).append(shard)
        for kind, bucket in buckets.items():
            table = tables.get(kind)
            if table is None or not table.update_shards(bucket):
                table = tables[kind] = ShardTable(bucket, tilings.get(kind[1], Tiling.of(kind[1])))
            self.tables.append(table)

    def sum_squares(self) -> None:
        """First stage."""
        with on_device(self.device):
            for table in self.tables:
                launch = ShardLaunches(table, self.grad_scale, None)
                launch.sum_squares(averages_vectors=False)
                launch.collect_squares(self.squares)

    def sum_updates(self, found_inf: Tensor | None) -> None:
        """Second stage."""
        with on_device(self.device):
            for table in self.tables:
                launch = ShardLaunches(table, self.grad_scale, found_inf)
                launch.average_squares(self.squares)
                launch.sum_updates(averages_vectors=True)
                launch.collect_updates(self.updates)

    def apply_updates(self, found_inf: Tensor | None) -> None:
        """Third stage."""
        with on_device(self.device):
            for table in self.tables:
                launch = ShardLaunches(table, self.grad_scale, found_inf)
                launch.find_scalars_of_shards(self.squares, self.updates)
                launch.apply_updates()
