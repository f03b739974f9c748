"""Between the passes over shards: sums into the buffers that processes exchange, and R and C from them.

Each processes what ``update_factors`` does for whole parameters, but with the processes' sums in between. Places are
those of ``fields.ShardField``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.scalars import find_omega, sum_in_order
from lightning_adafactor.fused.kernels.squares import add_tiles
from lightning_adafactor.fused.kernels.tables import (
    ADDED_TO_SQUARES,
    CHUNK_SIZE,
    COL_VAR,
    COLUMN_SLOTS,
    COLUMN_SUMS,
    COLUMN_TILES,
    COLUMNS,
    FLAGS,
    HOLDS_FACTOR,
    MATRICES,
    MEAN_CHUNKS,
    MEAN_OF_COLUMNS,
    MEAN_SLOTS,
    MEAN_SUMS,
    ROW_SLOTS,
    ROW_SUMS,
    ROW_TILES,
    ROW_VAR,
    ROWS,
    WHOLE_COLUMNS,
    WHOLE_ROWS,
    load_field,
    load_option,
    load_shard_field,
    should_step,
)
from lightning_adafactor.fused.kernels.tiles import load_item


@triton.jit
def _load_by_axis(param_table, param, is_column, of_rows: tl.constexpr, of_columns: tl.constexpr):
    return tl.where(is_column, load_field(param_table, param, of_columns), load_field(param_table, param, of_rows))


@triton.jit
def _load_shard_by_axis(param_table, param, is_column, of_rows: tl.constexpr, of_columns: tl.constexpr):
    rows, columns = load_shard_field(param_table, param, of_rows), load_shard_field(param_table, param, of_columns)
    return tl.where(is_column, columns, rows)


@triton.jit
def _load_factor(param_table, option_table, param, matrix, size, at, is_column):
    """What R or C is updated with: (pointers to its chunk, size of the other axis of the whole, ω, added to G²)."""
    factor = _load_by_axis(param_table, param, is_column, ROW_VAR, COL_VAR).to(tl.pointer_type(tl.float32))
    other_size = _load_shard_by_axis(param_table, param, is_column, WHOLE_COLUMNS, WHOLE_ROWS).to(tl.float32)
    omega = find_omega(param_table, param, option_table)
    added = load_option(param_table, param, option_table, ADDED_TO_SQUARES).to(tl.float32)
    return factor + matrix * size + at, other_size, omega, added


@triton.jit
def _is_mean_axis(param_table, param, is_column):
    """Whether mean(R) is taken along this axis."""
    return is_column == (load_field(param_table, param, FLAGS) & MEAN_OF_COLUMNS != 0)


@triton.jit
def _mean_part(param_table, workspace, param, matrix, chunk):
    """Pointer to a chunk's part of what mean(R) is the sum of."""
    chunks = load_field(param_table, param, MEAN_CHUNKS)
    return workspace + load_field(param_table, param, MEAN_SUMS) + matrix * chunks + chunk


@triton.jit
def collect_squares(
    chunks,  # int32 (chunks, 4): parameter, matrix, chunk, 0 for rows or 1 for columns
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial row and column sums, read; parts of ΣR, written
    sums,  # float32 or float64: this process's sums, written
):
    """After the first pass: this process's row or column sums of G², and this chunk's part of the new ΣR."""
    param, matrix, chunk, axis = load_item(chunks, tl.program_id(0))
    is_column = axis != 0
    size = _load_by_axis(param_table, param, is_column, ROWS, COLUMNS)
    at = chunk * CHUNK_SIZE + tl.arange(0, CHUNK_SIZE)
    inside = at < size
    total = add_tiles(
        workspace,
        _load_by_axis(param_table, param, is_column, ROW_SUMS, COLUMN_SUMS),
        load_field(param_table, param, MATRICES),
        matrix,
        size,
        _load_by_axis(param_table, param, is_column, COLUMN_TILES, ROW_TILES),
        at,
        inside,
    )
    slots = sums + _load_shard_by_axis(param_table, param, is_column, ROW_SLOTS, COLUMN_SLOTS) + matrix * size
    tl.store(slots + at, total, mask=inside)
    if _is_mean_axis(param_table, param, is_column):
        average, other_size, omega, added = _load_factor(param_table, option_table, param, matrix, size, at, is_column)
        part = omega * total / other_size
        if load_shard_field(param_table, param, HOLDS_FACTOR) != 0:
            part += (1.0 - omega) * tl.load(average, mask=inside, other=0.0) + omega * added
        part = tl.sum(tl.where(inside, part, 0.0), axis=0)
        tl.store(_mean_part(param_table, workspace, param, matrix, chunk), part)


@triton.jit
def collect_totals(
    totals,  # int64 (totals, 3): place of the first partial sum, their number, place of their total
    partial,  # float32: partial sums, read
    sums,  # float32 or float64: this process's sums, written
):
    """After a pass: one sum, of Σp², ΣU² or ΣR, from its partial sums in a fixed order."""
    item = totals + tl.program_id(0).to(tl.int64) * 3
    total = sum_in_order(partial + tl.load(item), tl.load(item + 1))
    tl.store(sums + tl.load(item + 2), total.to(sums.dtype.element_ty))


@triton.jit
def average_squares(
    chunks,  # int32 (chunks, 4): parameter, matrix, chunk, 0 for rows or 1 for columns
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial sums for mean(R), written
    sums,  # float32 or float64: the sums of all processes, read
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    HAS_FOUND_INF: tl.constexpr,
):
    """Before the second pass: updates a chunk of R or C with the sums of all processes."""
    if should_step(found_inf, HAS_FOUND_INF):
        param, matrix, chunk, axis = load_item(chunks, tl.program_id(0))
        is_column = axis != 0
        size = _load_by_axis(param_table, param, is_column, ROWS, COLUMNS)
        at = chunk * CHUNK_SIZE + tl.arange(0, CHUNK_SIZE)
        inside = at < size
        slots = sums + _load_shard_by_axis(param_table, param, is_column, ROW_SLOTS, COLUMN_SLOTS) + matrix * size
        total = tl.load(slots + at, mask=inside, other=0.0).to(tl.float32)
        average, other_size, omega, added = _load_factor(param_table, option_table, param, matrix, size, at, is_column)
        updated = tl.load(average, mask=inside, other=0.0) * (1.0 - omega) + omega * (total / other_size + added)
        tl.store(average, updated, mask=inside)
        if _is_mean_axis(param_table, param, is_column):
            part = tl.sum(tl.where(inside, updated, 0.0), axis=0)
            mean_slots = load_shard_field(param_table, param, MEAN_SLOTS)
            if mean_slots >= 0:  # other processes have other rows: their sum replaces that of the chunks
                whole = tl.load(sums + mean_slots + matrix).to(tl.float32)
                part = tl.where(chunk == 0, whole, 0.0)
            tl.store(_mean_part(param_table, workspace, param, matrix, chunk), part)
