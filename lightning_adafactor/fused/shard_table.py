"""The work table of shards: that of ``table.py``, with the places of the sums that processes exchange."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_adafactor.fused.fields import Field, Region
from lightning_adafactor.fused.table import Tiling, WorkTable
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
        totals_before: int64 (totals, 3): what is added up for the first exchange, ΣR of each matrix and Σp² of each
            parameter; place of the first partial sum in ``workspace``, their number, place of the total.
        totals_after: int64 (parameters, 3): likewise ΣU² of each parameter, for the second exchange.
    """

    def __init__(self, shards: Sequence[Shard], tiling: Tiling, device: torch.device | None = None) -> None:
        self._shards = list(shards)
        self._places = _places_of(shards)
        self._totals: tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]] = ([], [])
        regions = [shard.entry.region for shard in shards]
        aligned = all(region is None or region.first_column % LANES == 0 for region in regions)
        self.region = Region.ALIGNED if aligned else Region.ANY
        super().__init__([shard.entry for shard in shards], tiling, device)
        before, after = (torch.tensor(totals, dtype=torch.int64).view(-1, 3) for totals in self._totals)
        self.totals_before, self.totals_after = self._on_device(before), self._on_device(after)

    def update_shards(self, shards: Sequence[Shard]) -> bool:
        """Copies what may change from step to step; False where a new table is needed (see ``WorkTable.update``)."""
        return self._places == _places_of(shards) and self.update([shard.entry for shard in shards])

    def _allocate_sums(self, rows: list[list[int]], used: int, tiles: int) -> None:
        """One workspace for all partial sums, so that one launch adds up any of them."""
        of_p = -(-used // _ALIGNED) * _ALIGNED
        of_u = of_p + -(-tiles // _ALIGNED) * _ALIGNED
        self.workspace = torch.empty(of_u + tiles, dtype=torch.float32, device=self.device)
        self.squares_of_p = self.workspace[of_p : of_p + tiles]
        self.squares_of_u = self.workspace[of_u:]
        before, after = self._totals
        for row, shard in zip(rows, self._shards, strict=True):
            first, count = row[Field.P_SUMS], row[Field.SUM_COUNT]
            row[Field.MEAN_SLOTS] = -1
            if shard.row_sums is not None and shard.column_sums is not None:
                row[Field.WHOLE_ROWS], row[Field.WHOLE_COLUMNS] = shard.shape[-2:]
                row[Field.ROW_SLOTS], row[Field.COLUMN_SLOTS] = shard.row_sums, shard.column_sums
                row[Field.MEAN_SIZE], row[Field.HOLDS_FACTOR] = shard.mean_size, shard.holds_factor
            if shard.mean_sums is not None:
                row[Field.MEAN_SLOTS] = shard.mean_sums
                chunks = row[Field.MEAN_CHUNKS]
                for matrix in range(row[Field.MATRICES]):
                    before.append((row[Field.MEAN_SUMS] + matrix * chunks, chunks, shard.mean_sums + matrix))
            if shard.parameter_sum is not None:
                before.append((of_p + first, count, shard.parameter_sum))
            after.append((of_u + first, count, shard.update_sum))
            # the sums of all processes are complete
            row[Field.SUM_COUNT], row[Field.NUMEL] = 1, shard.numel
            row[Field.P_SUMS], row[Field.U_SUMS] = shard.parameter_sum or 0, shard.update_sum
            region = shard.entry.region
            if region is not None:
                row[Field.REGION_ROW], row[Field.REGION_COLUMN] = region.first_row, region.first_column


def _places_of(shards: Sequence[Shard]) -> list[object]:
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
