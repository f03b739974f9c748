"""Third pass: the update, its average with momentum, and the one rounding of a step."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    BETA1,
    CAP,
    COL_VAR,
    COLUMNS,
    EXP_AVG,
    EXP_AVG_STRIDES,
    FLAGS,
    GRAD_STRIDES,
    INDEX,
    IS_ALIGNED,
    IS_FACTORED,
    PARAM_ADDRESS,
    PARAM_STRIDES,
    RETAINED,
    ROW_VAR,
    ROWS,
    SCALAR_COUNT,
    SCALAR_STEP,
    SCALE,
    SCATTERED,
    SEED,
    VARIANCE,
    goes_ahead,
    length_of_tile,
    load_address,
    load_column_stride,
    load_extent,
    load_field,
    load_option,
    load_row_stride,
    load_unscale,
    matrix_start,
    vector_start,
)
from lightning_adafactor.fused.kernels.update import find_row_scale, update_of_block


@triton.jit
def _random_bits(seed, counter_0, counter_1, t, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """16 random bits for each element of a block, the same as ``rounding.random_bits``; int32 (ROWS, COLUMNS).

    ``counter_0`` and ``counter_1`` are int32 (ROWS, COLUMNS // 8): one Philox block serves 8 neighbours.
    """
    c2 = tl.zeros_like(counter_0) + t
    c3 = tl.zeros_like(counter_0) + index
    w0, w1, w2, w3 = tl.philox(seed, counter_0, counter_1, c2, c3)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # word 2a + b at [..., a, b]
    halves = tl.join(words & 0xFFFF, words >> 16)
    return tl.reshape(halves, (ROWS, COLUMNS)).to(tl.int32, bitcast=True)


@triton.jit
def _round(values, bits):
    """float32 to the bfloat16 above or below, kept as float32; infinities and NaN pass."""
    raw = values.to(tl.int32, bitcast=True)
    finite = (raw & 0x7F800000) != 0x7F800000
    return tl.where(finite, (raw + bits) & -65536, raw).to(tl.float32, bitcast=True)


@triton.jit
def _bits_to_nearest(values):
    """What :func:`_round` has to add to round to nearest, ties to even."""
    return 0x7FFF + ((values.to(tl.int32, bitcast=True) >> 16) & 1)


@triton.jit
def _new_value(p, u, average_at, inside, scale, retained, beta1, MOMENTUM: tl.constexpr, has_average):
    """P after the step, float32; the average of updates takes in this one."""
    step = scale * u
    if MOMENTUM:
        if has_average:
            step = beta1 * tl.load(average_at, mask=inside, other=0.0) + (1.0 - beta1) * step
            tl.store(average_at, step, mask=inside)
    return retained * p - step


@triton.jit
def _apply_to_matrix(
    params, grads, options, workspace, scalars, unscale, param, matrix, row_tile, column_tile,
    P: tl.constexpr, G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, ALIGNED: tl.constexpr, MOMENTUM: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    n = load_field(params, param, ROWS)
    m = load_extent(params, param, COLUMNS, ALIGNED)
    row = row_tile * TILE_ROWS
    column = column_tile * TILE_COLUMNS
    p_row = load_row_stride(params, param, PARAM_STRIDES, ALIGNED)
    p_column = load_column_stride(params, param, PARAM_STRIDES, ALIGNED)
    p_start = matrix_start(params, param, load_field(params, param, PARAM_ADDRESS), PARAM_STRIDES, matrix, P, ALIGNED)
    p_start += row * p_row.to(tl.int64) + column * p_column
    g_row = load_row_stride(params, param, GRAD_STRIDES, ALIGNED)
    g_column = load_column_stride(params, param, GRAD_STRIDES, ALIGNED)
    g_start = matrix_start(params, param, tl.load(grads + param), GRAD_STRIDES, matrix, G, ALIGNED)
    g_start += row * g_row.to(tl.int64) + column * g_column
    a_row = load_row_stride(params, param, EXP_AVG_STRIDES, ALIGNED)
    a_column = load_column_stride(params, param, EXP_AVG_STRIDES, ALIGNED)
    a_address = load_field(params, param, EXP_AVG)
    a_start = matrix_start(params, param, a_address, EXP_AVG_STRIDES, matrix, tl.float32, ALIGNED)
    a_start += row * a_row.to(tl.int64) + column * a_column
    has_average = load_field(params, param, EXP_AVG) != 0
    row_var = load_address(params, param, ROW_VAR, tl.float32) + matrix * n + row
    col_var = load_address(params, param, COL_VAR, tl.float32) + matrix * m + column
    row_scale = find_row_scale(params, param, options, workspace, matrix)
    cap = load_option(params, param, options, CAP).to(tl.float32)
    beta1 = load_option(params, param, options, BETA1).to(tl.float32)
    scale = tl.load(scalars + param * SCALAR_COUNT + SCALE)
    retained = tl.load(scalars + param * SCALAR_COUNT + RETAINED)

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    c = tl.load(col_var + columns, mask=in_columns, other=1.0)
    length = TILE_ROWS if ALIGNED else length_of_tile(n, row, TILE_ROWS)
    for block in range(0, length, BLOCK_ROWS):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        inside = in_rows[:, None] & in_columns[None, :]
        g_at = g_start + (rows[:, None] * g_row + columns[None, :] * g_column)
        p_at = p_start + (rows[:, None] * p_row + columns[None, :] * p_column)
        a_at = a_start + (rows[:, None] * a_row + columns[None, :] * a_column)
        g = tl.load(g_at, mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_at, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(row_var + rows, mask=in_rows, other=1.0)
        u = update_of_block(g, r, c, row_scale, cap)
        p = _new_value(p, u, a_at, inside, scale, retained, beta1, MOMENTUM, has_average)
        if STOCHASTIC:
            if load_option(params, param, options, STOCHASTIC) != 0:
                t = tl.load(scalars + param * SCALAR_COUNT + SCALAR_STEP).to(tl.int32)
                lanes = (column // 8 + tl.arange(0, TILE_COLUMNS // 8)).to(tl.int32)
                numbers = (matrix * n + row + rows).to(tl.int32)
                counter_0, counter_1 = tl.broadcast(lanes[None, :], numbers[:, None])
                index = load_field(params, param, INDEX).to(tl.int32)
                seed = load_field(params, param, SEED)
                p = _round(p, _random_bits(seed, counter_0, counter_1, t, index, BLOCK_ROWS, TILE_COLUMNS))
        if P == tl.bfloat16:
            p = _round(p, _bits_to_nearest(p))
        tl.store(p_at, p.to(P), mask=inside)


@triton.jit
def _apply_to_vector(
    params, grads, options, scalars, unscale, param, row_tile,
    P: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr, MOMENTUM: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    m = load_extent(params, param, COLUMNS, ALIGNED)
    first = row_tile * TILE
    p_stride = load_column_stride(params, param, PARAM_STRIDES, ALIGNED)
    p_start = vector_start(load_field(params, param, PARAM_ADDRESS), P, ALIGNED) + first * p_stride
    g_stride = load_column_stride(params, param, GRAD_STRIDES, ALIGNED)
    g_start = vector_start(tl.load(grads + param), G, ALIGNED) + first * g_stride
    a_stride = load_column_stride(params, param, EXP_AVG_STRIDES, ALIGNED)
    a_start = vector_start(load_field(params, param, EXP_AVG), tl.float32, ALIGNED) + first * a_stride
    has_average = load_field(params, param, EXP_AVG) != 0
    variance = load_address(params, param, VARIANCE, tl.float32) + first
    cap = load_option(params, param, options, CAP).to(tl.float32)
    beta1 = load_option(params, param, options, BETA1).to(tl.float32)
    scale = tl.load(scalars + param * SCALAR_COUNT + SCALE)
    retained = tl.load(scalars + param * SCALAR_COUNT + RETAINED)
    for block in range(0, length_of_tile(m, first, TILE), BLOCK):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        g = tl.load(g_start + at * g_stride, mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_start + at * p_stride, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(variance + at, mask=inside, other=1.0)
        u = g * tl.minimum(tl.rsqrt(v), cap, propagate_nan=tl.PropagateNan.ALL)
        p = _new_value(p, u, a_start + at * a_stride, inside, scale, retained, beta1, MOMENTUM, has_average)
        if STOCHASTIC:
            if load_option(params, param, options, STOCHASTIC) != 0:
                t = tl.load(scalars + param * SCALAR_COUNT + SCALAR_STEP).to(tl.int32)
                lanes = ((first + block) // 8 + tl.arange(0, BLOCK // 8)).to(tl.int32)[None, :]
                index = load_field(params, param, INDEX).to(tl.int32)
                seed = load_field(params, param, SEED)
                bits = _random_bits(seed, lanes, tl.zeros_like(lanes), t, index, 1, BLOCK)
                p = _round(p, tl.reshape(bits, (BLOCK,)))
        if P == tl.bfloat16:
            p = _round(p, _bits_to_nearest(p))
        tl.store(p_start + at * p_stride, p.to(P), mask=inside)


@triton.jit
def apply_updates(
    tiles,  # int32 (tiles, 4): parameter, matrix, row tile, column tile
    params,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    options,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial sums for mean(R), read
    scalars,  # float32 (parameters, SCALARS)
    grad_scale,  # one float32, or anything without HAS_GRAD_SCALE
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    P: tl.constexpr,  # dtype of the parameters
    G: tl.constexpr,  # dtype of the gradients
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,  # rows held in registers at a time; divides TILE_ROWS
    HAS_GRAD_SCALE: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    MOMENTUM: tl.constexpr,  # some parameter of the bucket has an average of updates
    STOCHASTIC: tl.constexpr,  # some parameter of the bucket is rounded stochastically
):
    """Third pass, one tile: p ← retained·p - scale·U, written once."""
    if goes_ahead(found_inf, HAS_FOUND_INF):
        tile = tl.program_id(0)
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
                _apply_to_matrix(
                    params, grads, options, workspace, scalars, unscale, param, matrix, row_tile, column_tile,
                    P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, True, MOMENTUM, STOCHASTIC,
                )  # fmt: skip
            else:
                _apply_to_matrix(
                    params, grads, options, workspace, scalars, unscale, param, matrix, row_tile, column_tile,
                    P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // SCATTERED, False, MOMENTUM, STOCHASTIC,
                )  # fmt: skip
        elif flags & IS_ALIGNED != 0:
            _apply_to_vector(
                params, grads, options, scalars, unscale, param, row_tile,
                P, G, TILE, BLOCK, True, MOMENTUM, STOCHASTIC,
            )  # fmt: skip
        else:
            _apply_to_vector(
                params, grads, options, scalars, unscale, param, row_tile,
                P, G, TILE, BLOCK // SCATTERED, False, MOMENTUM, STOCHASTIC,
            )  # fmt: skip
