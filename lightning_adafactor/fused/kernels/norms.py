"""Second pass: sums of U² over tiles, then the scalars of the step."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    CAP,
    CHUNK_SIZE,
    COL_VAR,
    COLUMN_TILES,
    COLUMNS,
    DECAY_BY_ALPHA,
    EPS2,
    FIRST_TILE,
    FLAGS,
    GRAD_STRIDES,
    GROUP,
    IS_ALIGNED,
    IS_FACTORED,
    LR,
    LR_IS_DOUBLE,
    MATRICES,
    OPTION_COUNT,
    RELATIVE_STEP,
    RETAINED,
    RMS,
    ROW_TILES,
    ROW_VAR,
    ROWS,
    SCALAR_COUNT,
    SCALAR_STEP,
    SCALE,
    SCALE_PARAMETER,
    SCATTERED,
    SIGN,
    STEP,
    VARIANCE,
    WARMUP_INIT,
    WEIGHT_DECAY,
    D,
    goes_ahead,
    length_of_tile,
    load_address,
    load_column_stride,
    load_extent,
    load_field,
    load_next_step,
    load_option,
    load_row_stride,
    load_unscale,
    matrix_start,
    vector_start,
)
from lightning_adafactor.fused.kernels.update import find_row_scale, update_of_block


@triton.jit
def _sum_updates_of_matrix(
    params, grads, options, workspace, squares_of_u, unscale, param, matrix, row_tile, column_tile, tile,
    G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    n = load_field(params, param, ROWS)
    m = load_extent(params, param, COLUMNS, ALIGNED)
    row = row_tile * TILE_ROWS
    column = column_tile * TILE_COLUMNS
    g_row = load_row_stride(params, param, GRAD_STRIDES, ALIGNED)
    g_column = load_column_stride(params, param, GRAD_STRIDES, ALIGNED)
    g_start = matrix_start(params, param, tl.load(grads + param), GRAD_STRIDES, matrix, G, ALIGNED)
    g_start += row * g_row.to(tl.int64) + column * g_column
    row_var = load_address(params, param, ROW_VAR, tl.float32) + matrix * n + row
    col_var = load_address(params, param, COL_VAR, tl.float32) + matrix * m + column
    row_scale = find_row_scale(params, param, options, workspace, matrix)
    cap = load_option(params, param, options, CAP).to(tl.float32)

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    c = tl.load(col_var + columns, mask=in_columns, other=1.0)
    squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    length = TILE_ROWS if ALIGNED else length_of_tile(n, row, TILE_ROWS)
    for block in range(0, length, BLOCK_ROWS):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        g_at = g_start + (rows[:, None] * g_row + columns[None, :] * g_column)
        g = tl.load(g_at, mask=in_rows[:, None] & in_columns[None, :], other=0.0).to(tl.float32) * unscale
        r = tl.load(row_var + rows, mask=in_rows, other=1.0)
        u = update_of_block(g, r, c, row_scale, cap)
        squares += u * u
    tl.store(squares_of_u + tile, tl.sum(tl.sum(squares, axis=1), axis=0))


@triton.jit
def _sum_updates_of_vector(
    params, grads, options, squares_of_u, unscale, param, row_tile, tile,
    G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    m = load_extent(params, param, COLUMNS, ALIGNED)
    first = row_tile * TILE
    g_stride = load_column_stride(params, param, GRAD_STRIDES, ALIGNED)
    g_start = vector_start(tl.load(grads + param), G, ALIGNED) + first * g_stride
    variance = load_address(params, param, VARIANCE, tl.float32) + first
    cap = load_option(params, param, options, CAP).to(tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, length_of_tile(m, first, TILE), BLOCK):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        g = tl.load(g_start + at * g_stride, mask=inside, other=0.0).to(tl.float32) * unscale
        v = tl.load(variance + at, mask=inside, other=1.0)
        u = g * tl.minimum(tl.rsqrt(v), cap, propagate_nan=tl.PropagateNan.ALL)
        squares += u * u
    tl.store(squares_of_u + tile, tl.sum(squares, axis=0))


@triton.jit
def sum_updates(
    tiles,  # int32 (tiles, 4): parameter, matrix, row tile, column tile
    params,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    options,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial sums for mean(R), read
    squares_of_u,  # float32 (tiles,): partial ΣU², written
    grad_scale,  # one float32, or anything without HAS_GRAD_SCALE
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    G: tl.constexpr,  # dtype of the gradients
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,  # rows held in registers at a time; divides TILE_ROWS
    HAS_GRAD_SCALE: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
):
    """Second pass, one tile: ΣU². Runs backwards over the tiles, against the first pass."""
    if goes_ahead(found_inf, HAS_FOUND_INF):
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        param = tl.load(tiles + tile * 4).to(tl.int64)
        matrix = tl.load(tiles + tile * 4 + 1).to(tl.int64)
        row_tile = tl.load(tiles + tile * 4 + 2).to(tl.int64)
        column_tile = tl.load(tiles + tile * 4 + 3).to(tl.int64)
        unscale = load_unscale(grad_scale, HAS_GRAD_SCALE)
        flags = load_field(params, param, FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        BLOCK: tl.constexpr = BLOCK_ROWS * TILE_COLUMNS
        if flags & IS_FACTORED != 0:
            if flags & IS_ALIGNED != 0:
                _sum_updates_of_matrix(
                    params, grads, options, workspace, squares_of_u, unscale, param, matrix, row_tile, column_tile,
                    tile, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, True,
                )  # fmt: skip
            else:
                _sum_updates_of_matrix(
                    params, grads, options, workspace, squares_of_u, unscale, param, matrix, row_tile, column_tile,
                    tile, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // SCATTERED, False,
                )  # fmt: skip
        elif flags & IS_ALIGNED != 0:
            _sum_updates_of_vector(
                params, grads, options, squares_of_u, unscale, param, row_tile, tile, G, TILE, BLOCK, True
            )
        else:
            _sum_updates_of_vector(
                params,
                grads,
                options,
                squares_of_u,
                unscale,
                param,
                row_tile,
                tile,
                G,
                TILE,
                BLOCK // SCATTERED,
                False,
            )


@triton.jit
def _sum_in_order(partial, count):
    """Sum of ``count`` partial sums, float64, in an order that depends on the count alone."""
    total = tl.zeros((CHUNK_SIZE,), tl.float64)
    for first in range(0, count, CHUNK_SIZE):
        at = first + tl.arange(0, CHUNK_SIZE)
        total += tl.load(partial + at, mask=at < count, other=0.0).to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit
def find_scalars(
    params,  # int64 (parameters, FIELDS)
    options,  # float64 (groups, OPTIONS)
    squares_of_p,  # float32 (tiles,): partial ΣP²
    squares_of_u,  # float32 (tiles,): partial ΣU²
    scalars,  # float32 (parameters, SCALARS), written
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    HAS_FOUND_INF: tl.constexpr,
):
    """One parameter's α, clipping and weight decay; counts its step and records RMS(p)."""
    if goes_ahead(found_inf, HAS_FOUND_INF):
        param = tl.program_id(0).to(tl.int64)
        group = options + load_field(params, param, GROUP) * OPTION_COUNT
        tiles = load_field(params, param, MATRICES) * load_field(params, param, ROW_TILES)
        tiles = tiles * load_field(params, param, COLUMN_TILES)
        first = load_field(params, param, FIRST_TILE)
        elements = load_field(params, param, MATRICES) * load_field(params, param, ROWS)
        numel = (elements * load_field(params, param, COLUMNS)).to(tl.float64)
        t = load_next_step(params, param)
        if load_field(params, param, LR_IS_DOUBLE) != 0:
            lr = tl.load(load_address(params, param, LR, tl.float64))
        else:
            lr = tl.load(load_address(params, param, LR, tl.float32)).to(tl.float64)

        rho = lr
        if tl.load(group + RELATIVE_STEP) != 0:
            rho = tl.minimum(rho, 1.0 / tl.sqrt(t))
        if tl.load(group + WARMUP_INIT) != 0:
            rho = tl.minimum(rho, 1e-6 * t)
        alpha = rho
        if tl.load(group + SCALE_PARAMETER) != 0:
            rms = tl.sqrt(_sum_in_order(squares_of_p + first, tiles) / numel)
            smallest = tl.load(group + EPS2)
            alpha = rho * tl.where(rms > smallest, rms, smallest)  # the smallest if NaN, on every device
            recorded = load_field(params, param, RMS)
            if recorded != 0:
                tl.store(recorded.to(tl.pointer_type(tl.float32)), rms.to(tl.float32))
        rms_of_update = tl.sqrt(_sum_in_order(squares_of_u + first, tiles) / numel)
        excess = rms_of_update / tl.load(group + D)
        clip = tl.where(excess > 1.0, excess, 1.0)  # 1 if NaN, on every device
        decay = tl.load(group + WEIGHT_DECAY)
        retained = 1.0 - decay * tl.where(tl.load(group + DECAY_BY_ALPHA) != 0, alpha, lr)

        result = scalars + param * SCALAR_COUNT
        tl.store(result + SCALE, (tl.load(group + SIGN) * alpha / clip).to(tl.float32))
        tl.store(result + RETAINED, retained.to(tl.float32))
        tl.store(result + SCALAR_STEP, t.to(tl.float32))
        tl.store(load_address(params, param, STEP, tl.float32), t.to(tl.float32))
