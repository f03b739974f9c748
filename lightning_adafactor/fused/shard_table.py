"""The work table of shards: that of ``table.py``, with the places of the sums that processes exchange."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_adafactor.fused.fields import SHARD_FIELDS, Field, Region, ShardField
from lightning_adafactor.fused.table import MAX_BATCH_STRIDES, REGION, Tiling, WorkTable, layout
from lightning_adafactor.rounding import LANES
from lightning_adafactor.shard import Shard

_ALIGNED = 4  # numbers in 16 bytes, which the kernels' pointers are multiples of


class ShardTable(WorkTable):
    """The tables and the workspace of one bucket of shards.

    Args:
        shards: The shards, none of them empty: one device, parameter dtype and gradient dtype.
        tiling: Tile sizes.
        device: As of :class:`WorkTable`.

    Attributes:
        shards: int64 (parameters, SHARD_FIELDS).
        totals_before: int64 (totals, 3): what is added up for the first exchange, ΣR of each matrix and Σp² of each
            parameter; place of the first partial sum in ``workspace``, their number, place of the total.
        totals_after: int64 (parameters, 3): likewise ΣU² of each parameter, for the second exchange.
    """

    def __init__(self, shards: Sequence[Shard], tiling: Tiling, device: torch.device | None = None) -> None:
        self._shards = list(shards)
        self._exchanged = _exchanged(shards)
        self._totals: tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]] = ([], [])
        regions = [shard.entry.region for shard in shards]
        aligned = all(region is None or region.first_column % LANES == 0 for region in regions)
        self.region = Region.ALIGNED if aligned else Region.ANY
        super().__init__([shard.entry for shard in shards], tiling, device)
        before, after = (torch.tensor(totals, dtype=torch.int64, device="cpu").view(-1, 3) for totals in self._totals)
        self.totals_before, self.totals_after = self._on_device(before), self._on_device(after)

    def update_shards(self, shards: Sequence[Shard]) -> bool:
        """Copies what may change from step to step; False where a new table is needed (see ``WorkTable.update``)."""
        return self._exchanged == _exchanged(shards) and self.update([shard.entry for shard in shards])

    def _allocate_sums(self, rows: list[list[int]], used: int, tiles: int) -> None:
        """One workspace for all partial sums, so that one launch adds up any of them."""
        of_p = -(-used // _ALIGNED) * _ALIGNED
        of_u = of_p + -(-tiles // _ALIGNED) * _ALIGNED
        self.workspace = torch.empty(of_u + tiles, dtype=torch.float32, device=self.device)
        self.squares_of_p = self.workspace[of_p : of_p + tiles]
        self.squares_of_u = self.workspace[of_u:]
        self.shards = torch.empty(len(rows), SHARD_FIELDS, dtype=torch.int64, device=self.device)
        described = []
        before, after = self._totals
        for number, (row, shard) in enumerate(zip(rows, self._shards, strict=True)):
            described.append(_describe(shard))
            row[Field.SHARD] = self.shards[number].data_ptr()
            if shard.entry.factored:
                row[Field.MEAN_SIZE] = shard.mean_size
            if shard.mean_sums is not None:
                chunks = row[Field.MEAN_CHUNKS]
                for matrix in range(row[Field.MATRICES]):
                    before.append((row[Field.MEAN_SUMS] + matrix * chunks, chunks, shard.mean_sums + matrix))
            first, count = row[Field.FIRST_TILE], row[Field.MATRICES] * row[Field.ROW_TILES] * row[Field.COLUMN_TILES]
            if shard.parameter_sum is not None:
                before.append((of_p + first, count, shard.parameter_sum))
            after.append((of_u + first, count, shard.update_sum))
        self._copy(torch.tensor(described, dtype=torch.int64, device="cpu"), self.shards)


def _describe(shard: Shard) -> list[int]:
    """A row of the table of shards."""
    row = [0] * SHARD_FIELDS
    row[ShardField.NUMEL] = shard.numel
    if shard.row_sums is not None and shard.column_sums is not None:
        row[ShardField.WHOLE_ROWS], row[ShardField.WHOLE_COLUMNS] = shard.shape[-2:]
        row[ShardField.ROW_SLOTS], row[ShardField.COLUMN_SLOTS] = shard.row_sums, shard.column_sums
    row[ShardField.MEAN_SLOTS] = -1 if shard.mean_sums is None else shard.mean_sums
    row[ShardField.PARAM_SLOT] = shard.parameter_sum or 0
    row[ShardField.UPDATE_SLOT] = shard.update_sum
    row[ShardField.HOLDS_FACTOR] = shard.holds_factor
    region = shard.entry.region
    if region is not None:
        row[ShardField.FIRST_ROW], row[ShardField.FIRST_COLUMN] = region.first_row, region.first_column
        between = layout(shard.entry).strides.get(REGION, ())[:MAX_BATCH_STRIDES]
        row[ShardField.ROWS_BETWEEN : ShardField.ROWS_BETWEEN + len(between)] = between
    return row


def _exchanged(shards: Sequence[Shard]) -> list[object]:
    """All that a table of shards depends on beyond their entries."""
    return [
        (
            shard.shape,
            shard.holds_factor,
            shard.row_sums,
            shard.column_sums,
            shard.mean_sums,
            shard.parameter_sum,
            shard.update_sum,
            shard.entry.region,
        )
        for shard in shards
    ]
