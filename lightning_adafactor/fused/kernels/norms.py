"""Second pass: sums of U² over tiles, which RMS(U) is computed from."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.averages import average_of_block, load_average_of_vector
from lightning_adafactor.fused.kernels.tables import (
    FLAGS,
    GRAD_STRIDES,
    IS_ALIGNED,
    IS_FACTORED,
    load_field,
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
from lightning_adafactor.fused.kernels.update import (
    load_factors,
    load_variance,
    update_of_block,
    update_of_vector_block,
)


@triton.jit
def _sum_updates_of_matrix(
    param_table, grads, option_table, workspace, squares_of_u, unscale, place, tile,
    G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    STAGES: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    param, matrix, row_tile, column_tile = place
    n, m, row, column = matrix_bounds(param_table, param, row_tile, column_tile, TILE_ROWS, TILE_COLUMNS, ALIGNED)
    g_view = matrix_view(param_table, grads, param, GRAD_STRIDES, matrix, row, column, G, ALIGNED)
    row_var, col_var, row_scale, cap = load_factors(
        param_table, option_table, workspace, param, matrix, n, m, row, column
    )

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    c = tl.load(col_var + columns, mask=in_columns, other=1.0)
    squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    for block in tl.range(0, tile_rows(n, row, TILE_ROWS, ALIGNED), BLOCK_ROWS, num_stages=STAGES):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        g_at = matrix_block(g_view, rows, columns)
        g = tl.load(g_at, mask=in_rows[:, None] & in_columns[None, :], other=0.0).to(tl.float32) * unscale
        r = tl.load(row_var + rows, mask=in_rows, other=1.0)
        u = update_of_block(g, r, c, row_scale, cap)
        squares += u * u
    tl.store(squares_of_u + tile, tl.sum(tl.sum(squares, axis=1), axis=0))


@triton.jit
def _sum_updates_of_vector(
    param_table, grads, option_table, squares_of_u, unscale, place, tile,
    G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
    AVERAGES: tl.constexpr,
):  # fmt: skip
    param, _, row_tile, _ = place
    m, first = vector_bounds(param_table, param, row_tile, TILE, ALIGNED)
    g_view = vector_view(param_table, grads, param, GRAD_STRIDES, first, G, ALIGNED)
    variance, cap = load_variance(param_table, option_table, param, first)
    if AVERAGES:
        _, omega, added = load_average_of_vector(param_table, option_table, param, first)
    squares = tl.zeros((BLOCK,), tl.float32)
    for block in tl.range(0, tile_length(m, first, TILE), BLOCK, num_stages=STAGES):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        g = tl.load(vector_block(g_view, at), mask=inside, other=0.0).to(tl.float32) * unscale
        v = tl.load(variance + at, mask=inside, other=1.0)
        if AVERAGES:
            v = average_of_block(v, g, omega, added)
            tl.store(variance + at, v, mask=inside)
        u = update_of_vector_block(g, v, cap)
        squares += u * u
    tl.store(squares_of_u + tile, tl.sum(squares, axis=0))


@triton.jit
def sum_updates(
    tiles,  # int32 (tiles, 4): parameter, matrix, row tile, column tile
    param_table,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial sums for mean(R), read
    squares_of_u,  # float32 (tiles,): partial ΣU², written
    grad_scale,  # one float32, or anything without HAS_GRAD_SCALE
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    G: tl.constexpr,  # dtype of the gradients
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,  # rows held in registers at a time; divides TILE_ROWS
    STAGES: tl.constexpr,  # blocks of a tile that are loaded ahead, that of the moment included; 1 for none
    HAS_GRAD_SCALE: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    AVERAGES_VECTORS: tl.constexpr,  # this pass updates V of vectors, which the first one has not
):
    """Second pass, one tile: ΣU². Visits the tiles in the opposite order of the first pass."""
    if should_step(found_inf, HAS_FOUND_INF):
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        place = load_item(tiles, tile)
        unscale = load_unscale(grad_scale, HAS_GRAD_SCALE)
        flags = load_field(param_table, place[0], FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        # to hold old and new V takes registers
        BLOCK: tl.constexpr = BLOCK_ROWS * TILE_COLUMNS // (UNALIGNED_SPLIT if AVERAGES_VECTORS else 1)
        if flags & IS_FACTORED != 0:
            if flags & IS_ALIGNED != 0:
                _sum_updates_of_matrix(
                    param_table, grads, option_table, workspace, squares_of_u, unscale, place,
                    tile, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, STAGES, True,
                )  # fmt: skip
            else:
                _sum_updates_of_matrix(
                    param_table, grads, option_table, workspace, squares_of_u, unscale, place,
                    tile, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // UNALIGNED_SPLIT, 1, False,
                )  # fmt: skip
        elif flags & IS_ALIGNED != 0:
            _sum_updates_of_vector(
                param_table, grads, option_table, squares_of_u, unscale, place,
                tile, G, TILE, BLOCK, STAGES, True, AVERAGES_VECTORS,
            )  # fmt: skip
        else:
            _sum_updates_of_vector(
                param_table, grads, option_table, squares_of_u, unscale, place,
                tile, G, TILE, BLOCK_ROWS * TILE_COLUMNS // UNALIGNED_SPLIT, 1, False, AVERAGES_VECTORS,
            )  # fmt: skip
