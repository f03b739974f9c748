"""What a sharded step needs of one shard beyond its entry: the whole parameter's size, and where its sums lie."""

from __future__ import annotations

import dataclasses
import math

from lightning_adafactor.entry import Entry


@dataclasses.dataclass(slots=True, eq=False)  # compared by identity
class Shard:
    """One process's part of a parameter, dimensions in the order of its memory (see ``Entry``).

    Sums of all parameters travel in two buffers of numbers: one before R, C and V are updated, one after. A place is
    the number of a sum in its buffer, or of the first one where there are several.

    Attributes:
        entry: The local shards of the parameter, its gradient and its state. ``row_var`` and ``col_var`` are whole
            along what the parameter is not sharded along.
        shape: The shape of the whole parameter.
        holds_factor: Whether this process adds the old average to ΣR; others may have the same rows.
        row_sums: Place of ΣG² over columns, (matrices, rows) of the shard, in the first buffer; None for a vector.
        column_sums: Place of ΣG² over rows, (matrices, columns), in the first buffer; None for a vector.
        mean_sums: Place of the new ΣR of each matrix, (matrices,), in the first buffer; None where this process has
            all rows of the parameter's own R, so that mean(R) follows from it.
        parameter_sum: Place of Σp² in the first buffer; None without ``scale_parameter``.
        update_sum: Place of ΣU² in the second buffer.
    """

    entry: Entry
    shape: tuple[int, ...]
    holds_factor: bool
    row_sums: int | None
    column_sums: int | None
    mean_sums: int | None
    parameter_sum: int | None
    update_sum: int

    @property
    def numel(self) -> int:
        """Elements of the whole parameter."""
        return math.prod(self.shape)

    @property
    def mean_size(self) -> int:
        """How many averages mean(R) is the mean of, on all processes: the rows of the parameter itself."""
        return self.shape[-1] if self.entry.transposed else self.shape[-2]

    @property
    def other_size(self) -> int:
        """How many squares one of these averages is the mean of: the columns of the parameter itself."""
        return self.shape[-2] if self.entry.transposed else self.shape[-1]
