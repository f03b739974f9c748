"""What a fused step moves between the kernels and memory, counted from its work table.

No byte is taken to be found in a cache: a pass that reads what an earlier one has read pays again. So this is an upper
bound, and what a GPU with a large L2 moves is less. The tables themselves (which every program of a parameter reads,
and which stay in the cache) are counted in full too.
"""

from __future__ import annotations

import dataclasses

import torch

from lightning_adafactor.fused.fields import FIELDS, OPTIONS, SCALARS, Field, Flag, Option
from lightning_adafactor.fused.table import WorkTable

_STATE = 4  # bytes of an element of the state and of a partial sum: float32
_ITEM = 16  # bytes of a row of ``tiles`` or ``chunks``
_TABLES = 8 * (FIELDS + 1 + OPTIONS)  # of a parameter's row, the address of its gradient and its group's options


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that one step reads and writes.

    Attributes:
        elements: Elements of all parameters.
        gradients: Bytes of gradients read.
        parameters: Bytes of parameters read and written.
        state: Bytes of R, C, V, averages of updates and t, read and written.
        partial_sums: Bytes of partial sums, written and read.
        tables: Bytes of work tables and scalars.
    """

    elements: int
    gradients: int
    parameters: int
    state: int
    partial_sums: int
    tables: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.gradients + self.parameters + self.state + self.partial_sums + self.tables

    @property
    def bytes_per_element(self) -> float:
        """All bytes, for each element of the parameters."""
        return self.total / self.elements

    def __add__(self, other: Traffic) -> Traffic:
        """The traffic of two buckets, or of two passes over one."""
        sums = (one + two for one, two in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        return Traffic(*sums)


def passes(table: WorkTable) -> dict[str, Traffic]:
    """The traffic of each kernel, by its name.

    Args:
        table: The table of a bucket; its parameters need no memory (see :class:`WorkTable`).

    Returns:
        Five entries. ``elements`` is counted in the last one alone, so that their sum is a step's traffic.
    """
    column = table.params.cpu().unbind(dim=1)
    flags = column[Field.FLAGS]
    matrices, rows, columns = column[Field.MATRICES], column[Field.ROWS], column[Field.COLUMNS]
    row_tiles, column_tiles = column[Field.ROW_TILES], column[Field.COLUMN_TILES]
    factored = (flags & Flag.FACTORED) != 0
    scaled = table.options.cpu()[column[Field.GROUP], Option.SCALE_PARAMETER] != 0
    elements = matrices * rows * columns
    tiles, chunks, params = len(table.tiles), len(table.chunks), len(table.params)
    param_size, grad_size = table.param_dtype.itemsize, table.grad_dtype.itemsize

    def total(numbers: torch.Tensor, where: torch.Tensor | None = None) -> int:
        return int((numbers if where is None else numbers[where]).sum())

    vectors = total(elements, ~factored)
    sums = total(matrices * (column_tiles * rows + row_tiles * columns), factored)  # for R and C, of all tiles
    factors = total(matrices * (rows + columns), factored)
    means = total(matrices * column[Field.MEAN_CHUNKS], factored)
    means_of_tiles = total(matrices * row_tiles * column_tiles * column[Field.MEAN_CHUNKS], factored)
    averages = total(elements, column[Field.EXP_AVG] != 0)
    recorded = int((column[Field.RMS] != 0).sum())
    gradients = total(elements) * grad_size
    # what a pass over U reads: each tile its rows of R and its columns of C, vectors V
    second_moments = _STATE * (sums + vectors)
    tables_of_tiles = tiles * (_ITEM + _TABLES)
    return {
        "sum_squares": Traffic(
            elements=0,
            gradients=gradients,
            parameters=total(elements, scaled) * param_size,
            state=2 * _STATE * vectors + _STATE * total(row_tiles, ~factored),
            partial_sums=_STATE * (sums + tiles),
            tables=tables_of_tiles,
        ),
        "update_factors": Traffic(
            elements=0,
            gradients=0,
            parameters=0,
            state=2 * _STATE * factors + _STATE * chunks,
            partial_sums=_STATE * (sums + means),
            tables=chunks * (_ITEM + _TABLES),
        ),
        "sum_updates": Traffic(
            elements=0,
            gradients=gradients,
            parameters=0,
            state=second_moments,
            partial_sums=_STATE * (means_of_tiles + tiles),
            tables=tables_of_tiles,
        ),
        "find_scalars": Traffic(
            elements=0,
            gradients=0,
            parameters=0,
            state=_STATE * (2 * params + recorded),
            partial_sums=2 * _STATE * tiles,
            tables=params * (_TABLES + 8 + _STATE * SCALARS),
        ),
        "apply_updates": Traffic(
            elements=total(elements),
            gradients=gradients,
            parameters=2 * total(elements) * param_size,
            state=second_moments + 2 * _STATE * averages,
            partial_sums=_STATE * means_of_tiles,
            tables=tables_of_tiles + tiles * _STATE * SCALARS,
        ),
    }


def traffic(table: WorkTable) -> Traffic:
    """The traffic of a whole step of one bucket; see :func:`passes`."""
    return sum(passes(table).values(), start=Traffic(0, 0, 0, 0, 0, 0))
