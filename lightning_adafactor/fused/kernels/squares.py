"""First pass: sums of G² and p² over tiles, then the new R and C."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.averages import average_of_block, load_average_of_vector
from lightning_adafactor.fused.kernels.scalars import find_omega
from lightning_adafactor.fused.kernels.tables import (
    ADDED_TO_SQUARES,
    CHUNK_SIZE,
    COL_VAR,
    COLUMN_SUMS,
    COLUMN_TILES,
    COLUMNS,
    FLAGS,
    GRAD_STRIDES,
    IS_ALIGNED,
    IS_FACTORED,
    MATRICES,
    MEAN_CHUNKS,
    MEAN_OF_COLUMNS,
    MEAN_SUMS,
    PARAM_STRIDES,
    ROW_SUMS,
    ROW_TILES,
    ROW_VAR,
    ROWS,
    SCALE_PARAMETER,
    load_field,
    load_option,
    load_unscale,
    should_step,
)
from lightning_adafactor.fused.kernels.tiles import (
    UNALIGNED_SPLIT,
    load_item,
    matrix_block,
    matrix_bounds,
    matrix_view,
    tile_length,
    tile_rows,
    vector_block,
    vector_bounds,
    vector_view,
)


@triton.jit
def _sum_squares_of_matrix(
    param_table, grads, option_table, workspace, squares_of_p, unscale, place, tile,
    P: tl.constexpr, G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    param, matrix, row_tile, column_tile = place
    n, m, row, column = matrix_bounds(param_table, param, row_tile, column_tile, TILE_ROWS, TILE_COLUMNS, ALIGNED)
    matrices = load_field(param_table, param, MATRICES)
    p_view = matrix_view(param_table, grads, param, PARAM_STRIDES, matrix, row, column, P, ALIGNED)
    g_view = matrix_view(param_table, grads, param, GRAD_STRIDES, matrix, row, column, G, ALIGNED)
    row_sums = workspace + load_field(param_table, param, ROW_SUMS) + (column_tile * matrices + matrix) * n + row
    column_sums = workspace + load_field(param_table, param, COLUMN_SUMS) + (row_tile * matrices + matrix) * m + column
    scales = tl.where(load_option(param_table, param, option_table, SCALE_PARAMETER) != 0, 1, 0)

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    g_squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    p_squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    for block in tl.range(0, tile_rows(n, row, TILE_ROWS, ALIGNED), BLOCK_ROWS, num_stages=STAGES):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        inside = in_rows[:, None] & in_columns[None, :]
        g = tl.load(matrix_block(g_view, rows, columns), mask=inside, other=0.0).to(tl.float32) * unscale
        g_squares += g * g
        tl.store(row_sums + rows, tl.sum(g * g, axis=1), mask=in_rows)
        p = tl.load(matrix_block(p_view, rows, columns), mask=inside & (scales != 0), other=0.0).to(tl.float32)
        p_squares += p * p
    tl.store(column_sums + columns, tl.sum(g_squares, axis=0), mask=in_columns)
    tl.store(squares_of_p + tile, tl.sum(tl.sum(p_squares, axis=1), axis=0))


@triton.jit
def _average_squares_of_vector(
    param_table, grads, option_table, squares_of_p, unscale, place, tile,
    P: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, ALIGNED: tl.constexpr, AVERAGES: tl.constexpr,
):  # fmt: skip
    """Updates V, which needs no sums."""
    param, _, row_tile, _ = place
    m, first = vector_bounds(param_table, param, row_tile, TILE, ALIGNED)
    p_view = vector_view(param_table, grads, param, PARAM_STRIDES, first, P, ALIGNED)
    g_view = vector_view(param_table, grads, param, GRAD_STRIDES, first, G, ALIGNED)
    variance, omega, added = load_average_of_vector(param_table, option_table, param, first)
    scales = tl.where(load_option(param_table, param, option_table, SCALE_PARAMETER) != 0, 1, 0)
    p_squares = tl.zeros((BLOCK,), tl.float32)
    for block in tl.range(0, tile_length(m, first, TILE), BLOCK, num_stages=STAGES):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        if AVERAGES:
            g = tl.load(vector_block(g_view, at), mask=inside, other=0.0).to(tl.float32) * unscale
            v = tl.load(variance + at, mask=inside, other=0.0)
            tl.store(variance + at, average_of_block(v, g, omega, added), mask=inside)
        p = tl.load(vector_block(p_view, at), mask=inside & (scales != 0), other=0.0).to(tl.float32)
        p_squares += p * p
    tl.store(squares_of_p + tile, tl.sum(p_squares, axis=0))


@triton.jit
def sum_squares(
    tiles,  # int32 (tiles, 4): parameter, matrix, row tile, column tile
    param_table,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial row and column sums, written
    squares_of_p,  # float32 (tiles,): partial Σp², written
    grad_scale,  # one float32, or anything without HAS_GRAD_SCALE
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    P: tl.constexpr,  # dtype of the parameters
    G: tl.constexpr,  # dtype of the gradients
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,  # rows held in registers at a time; divides TILE_ROWS
    STAGES: tl.constexpr,  # blocks of a tile that are loaded ahead, that of the moment included; 1 for none
    HAS_GRAD_SCALE: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    AVERAGES_VECTORS: tl.constexpr,  # this pass updates V of vectors; of shards the second one does
):
    """First pass, one tile: sums of G² over its rows and its columns, Σp²; V of a vector."""
    if should_step(found_inf, HAS_FOUND_INF):
        tile = tl.program_id(0)
        place = load_item(tiles, tile)
        unscale = load_unscale(grad_scale, HAS_GRAD_SCALE)
        flags = load_field(param_table, place[0], FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        BLOCK: tl.constexpr = BLOCK_ROWS * TILE_COLUMNS
        if flags & IS_FACTORED != 0:
            if flags & IS_ALIGNED != 0:
                _sum_squares_of_matrix(
                    param_table, grads, option_table, workspace, squares_of_p, unscale, place,
                    tile, P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, STAGES, True,
                )  # fmt: skip
            else:
                _sum_squares_of_matrix(
                    param_table, grads, option_table, workspace, squares_of_p, unscale, place,
                    tile, P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // UNALIGNED_SPLIT, 1, False,
                )  # fmt: skip
        elif flags & IS_ALIGNED != 0:
            _average_squares_of_vector(
                param_table, grads, option_table, squares_of_p, unscale, place,
                tile, P, G, TILE, BLOCK, STAGES, True, AVERAGES_VECTORS,
            )  # fmt: skip
        else:
            _average_squares_of_vector(
                param_table, grads, option_table, squares_of_p, unscale, place,
                tile, P, G, TILE, BLOCK // UNALIGNED_SPLIT, 1, False, AVERAGES_VECTORS,
            )  # fmt: skip


PARTS = tl.constexpr(16)  # partial sums of an element of R or C that are loaded at once


@triton.jit
def add_tiles(workspace, sums, matrices, matrix, size, tiles, at, inside):
    """Sums of G² of a chunk of rows or columns: the tiles' partial sums, added in a fixed order.

    PARTS partial sums of each element are loaded at once: an embedding has hundreds, and one at a time would wait
    for each.
    """
    partial = workspace + sums + matrix * size
    total = tl.zeros((PARTS, CHUNK_SIZE), tl.float32)
    for first in range(0, tiles, PARTS):
        tile = first + tl.arange(0, PARTS)
        places = (tile * matrices * size)[:, None] + at[None, :]
        total += tl.load(partial + places, mask=(tile < tiles)[:, None] & inside[None, :], other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _update_factor(
    param_table, option_table, workspace, param, matrix, chunk,
    size, other_size, tiles, factor, sums, is_mean_axis,
):  # fmt: skip
    """Updates a chunk of R or C with the mean of G² over the other axis."""
    matrices = load_field(param_table, param, MATRICES)
    at = chunk * CHUNK_SIZE + tl.arange(0, CHUNK_SIZE)
    inside = at < size
    total = add_tiles(workspace, sums, matrices, matrix, size, tiles, at, inside)
    omega = find_omega(param_table, param, option_table)
    mean = total / other_size.to(tl.float32) + load_option(param_table, param, option_table, ADDED_TO_SQUARES).to(
        tl.float32
    )
    average = factor + matrix * size + at
    updated = tl.load(average, mask=inside, other=0.0) * (1.0 - omega) + omega * mean
    tl.store(average, updated, mask=inside)
    if is_mean_axis:
        chunks = load_field(param_table, param, MEAN_CHUNKS)
        total_of_mean = tl.sum(tl.where(inside, updated, 0.0), axis=0)
        tl.store(workspace + load_field(param_table, param, MEAN_SUMS) + matrix * chunks + chunk, total_of_mean)


@triton.jit
def update_factors(
    chunks,  # int32 (chunks, 4): parameter, matrix, chunk, 0 for rows or 1 for columns
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial row and column sums, read; partial sums for mean(R), written
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    HAS_FOUND_INF: tl.constexpr,
):
    """Updates R and C with the sums of the first pass."""
    if should_step(found_inf, HAS_FOUND_INF):
        param, matrix, chunk, axis = load_item(chunks, tl.program_id(0))
        is_column = axis != 0
        means_columns = load_field(param_table, param, FLAGS) & MEAN_OF_COLUMNS != 0
        n = load_field(param_table, param, ROWS)
        m = load_field(param_table, param, COLUMNS)
        factor = tl.where(is_column, load_field(param_table, param, COL_VAR), load_field(param_table, param, ROW_VAR))
        _update_factor(
            param_table,
            option_table,
            workspace,
            param,
            matrix,
            chunk,
            tl.where(is_column, m, n),
            tl.where(is_column, n, m),
            tl.where(
                is_column, load_field(param_table, param, ROW_TILES), load_field(param_table, param, COLUMN_TILES)
            ),
            factor.to(tl.pointer_type(tl.float32)),
            tl.where(is_column, load_field(param_table, param, COLUMN_SUMS), load_field(param_table, param, ROW_SUMS)),
            is_column == means_columns,
        )
