"""Third pass: the update, the average of updates with momentum, and the one rounding of a step."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    BATCH_1,
    BATCH_2,
    BETA1,
    DECAY_FACTOR,
    EXP_AVG,
    EXP_AVG_STRIDES,
    FIRST_COLUMN,
    FIRST_ROW,
    FLAGS,
    GRAD_STRIDES,
    INDEX,
    IS_ALIGNED,
    IS_FACTORED,
    PARAM_STRIDES,
    REGION_ANY,
    REGION_WHOLE,
    ROWS_BETWEEN,
    SCALAR_COUNT,
    SCALAR_STEP,
    SEED,
    STOCHASTIC_ROUNDING,
    UPDATE_SCALE,
    load_field,
    load_option,
    load_shard_field,
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
def _random_bits(seed, counter_0, counter_1, t, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """16 random bits for each element of a block, the same as ``rounding.random_bits``; int32 (ROWS, COLUMNS).

    ``counter_0`` and ``counter_1`` are int32 (ROWS, COLUMNS // 8): one Philox block serves 8 neighbors.
    """
    c2 = tl.zeros_like(counter_0) + t
    c3 = tl.zeros_like(counter_0) + index
    w0, w1, w2, w3 = tl.philox(seed, counter_0, counter_1, c2, c3)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # word 2a + b at [..., a, b]
    halves = tl.join(words & 0xFFFF, words >> 16)
    return tl.reshape(halves, (ROWS, COLUMNS)).to(tl.int32, bitcast=True)


@triton.jit
def _random_bits_of_each(seed, columns, counter_1, t, index):
    """The same for columns that are not a multiple of 8: a Philox block for each element; int32 like ``columns``.

    ``columns`` and ``counter_1``, the numbers of columns and rows in the whole parameter, are int64 and int32
    (ROWS, COLUMNS).
    """
    counter_0 = (columns // 8).to(tl.int32)
    w0, w1, w2, w3 = tl.philox(
        seed, counter_0, counter_1, tl.zeros_like(counter_0) + t, tl.zeros_like(counter_0) + index
    )
    lane = (columns % 8).to(tl.int32)
    word = tl.where(lane < 4, tl.where(lane < 2, w0, w1), tl.where(lane < 6, w2, w3))
    return tl.where(lane % 2 == 0, word & 0xFFFF, word >> 16).to(tl.int32, bitcast=True)


@triton.jit
def _first_row(param_table, param, matrix, n, row, REGION: tl.constexpr):
    """The number of a tile's first row among all rows of the whole parameter."""
    if REGION == REGION_WHOLE:
        return matrix * n + row
    else:
        size_1 = load_field(param_table, param, BATCH_1)
        size_2 = load_field(param_table, param, BATCH_2)
        first = load_shard_field(param_table, param, FIRST_ROW) + row
        first += matrix // size_2 // size_1 * load_shard_field(param_table, param, ROWS_BETWEEN)
        first += (matrix // size_2) % size_1 * load_shard_field(param_table, param, ROWS_BETWEEN + 1)
        return first + matrix % size_2 * load_shard_field(param_table, param, ROWS_BETWEEN + 2)


@triton.jit
def _bits_of_block(
    param_table, param, scalars, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REGION: tl.constexpr
):  # fmt: skip
    """The random bits of ROWS × COLUMNS elements, int32; ``row`` is int64 (ROWS,), in the whole parameter.

    ``column`` is the block's first one in the tensor that is updated.
    """
    t = tl.load(scalars + param * SCALAR_COUNT + SCALAR_STEP).to(tl.int32)
    if REGION != REGION_WHOLE:
        column += load_shard_field(param_table, param, FIRST_COLUMN)
    if REGION == REGION_ANY:
        columns, rows = tl.broadcast((column + tl.arange(0, COLUMNS))[None, :], row[:, None])
        index = load_field(param_table, param, INDEX).to(tl.int32)
        return _random_bits_of_each(load_field(param_table, param, SEED), columns, rows.to(tl.int32), t, index)
    else:
        lanes = (column // 8 + tl.arange(0, COLUMNS // 8)).to(tl.int32)
        counter_0, counter_1 = tl.broadcast(lanes[None, :], row.to(tl.int32)[:, None])
        index = load_field(param_table, param, INDEX).to(tl.int32)
        seed = load_field(param_table, param, SEED)
        return _random_bits(seed, counter_0, counter_1, t, index, ROWS, COLUMNS)


@triton.jit
def _round(values, bits):
    """Rounds float32 to the bfloat16 above or below, kept as float32; infinities and NaN stay."""
    raw = values.to(tl.int32, bitcast=True)
    finite = (raw & 0x7F800000) != 0x7F800000
    return tl.where(finite, (raw + bits) & -65536, raw).to(tl.float32, bitcast=True)


@triton.jit
def _bits_to_nearest(values):
    """The bits with which :func:`_round` rounds to nearest, ties to even."""
    return 0x7FFF + ((values.to(tl.int32, bitcast=True) >> 16) & 1)


@triton.jit
def _new_value(p, u, average_at, inside, scale, decay_factor, beta1, MOMENTUM: tl.constexpr, has_average):
    """p after the step, float32; updates the average of updates."""
    step = scale * u
    if MOMENTUM:
        if has_average:
            step = beta1 * tl.load(average_at, mask=inside, other=0.0) + (1.0 - beta1) * step
            tl.store(average_at, step, mask=inside)
    return decay_factor * p - step


@triton.jit
def _apply_to_matrix(
    param_table, grads, option_table, workspace, scalars, unscale, place,
    P: tl.constexpr, G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
    MOMENTUM: tl.constexpr, STOCHASTIC: tl.constexpr, REGION: tl.constexpr,
):  # fmt: skip
    param, matrix, row_tile, column_tile = place
    n, m, row, column = matrix_bounds(param_table, param, row_tile, column_tile, TILE_ROWS, TILE_COLUMNS, ALIGNED)
    p_view = matrix_view(param_table, grads, param, PARAM_STRIDES, matrix, row, column, P, ALIGNED)
    g_view = matrix_view(param_table, grads, param, GRAD_STRIDES, matrix, row, column, G, ALIGNED)
    a_view = matrix_view(param_table, grads, param, EXP_AVG_STRIDES, matrix, row, column, tl.float32, ALIGNED)
    has_average = load_field(param_table, param, EXP_AVG) != 0
    row_var, col_var, row_scale, cap = load_factors(
        param_table, option_table, workspace, param, matrix, n, m, row, column
    )
    beta1 = load_option(param_table, param, option_table, BETA1).to(tl.float32)
    scale = tl.load(scalars + param * SCALAR_COUNT + UPDATE_SCALE)
    decay_factor = tl.load(scalars + param * SCALAR_COUNT + DECAY_FACTOR)

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    c = tl.load(col_var + columns, mask=in_columns, other=1.0)
    for block in tl.range(0, tile_rows(n, row, TILE_ROWS, ALIGNED), BLOCK_ROWS, num_stages=STAGES):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        inside = in_rows[:, None] & in_columns[None, :]
        p_at, a_at = matrix_block(p_view, rows, columns), matrix_block(a_view, rows, columns)
        g = tl.load(matrix_block(g_view, rows, columns), mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_at, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(row_var + rows, mask=in_rows, other=1.0)
        u = update_of_block(g, r, c, row_scale, cap)
        p = _new_value(p, u, a_at, inside, scale, decay_factor, beta1, MOMENTUM, has_average)
        if STOCHASTIC:
            if load_option(param_table, param, option_table, STOCHASTIC_ROUNDING) != 0:
                numbers = _first_row(param_table, param, matrix, n, row, REGION) + rows
                p = _round(
                    p, _bits_of_block(param_table, param, scalars, numbers, column, BLOCK_ROWS, TILE_COLUMNS, REGION)
                )
        if P == tl.bfloat16:
            p = _round(p, _bits_to_nearest(p))
        tl.store(p_at, p.to(P), mask=inside)


@triton.jit
def _apply_to_vector(
    param_table, grads, option_table, scalars, unscale, place,
    P: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, ALIGNED: tl.constexpr, MOMENTUM: tl.constexpr, STOCHASTIC: tl.constexpr,
    REGION: tl.constexpr,
):  # fmt: skip
    param, _, row_tile, _ = place
    m, first = vector_bounds(param_table, param, row_tile, TILE, ALIGNED)
    p_view = vector_view(param_table, grads, param, PARAM_STRIDES, first, P, ALIGNED)
    g_view = vector_view(param_table, grads, param, GRAD_STRIDES, first, G, ALIGNED)
    a_view = vector_view(param_table, grads, param, EXP_AVG_STRIDES, first, tl.float32, ALIGNED)
    has_average = load_field(param_table, param, EXP_AVG) != 0
    variance, cap = load_variance(param_table, option_table, param, first)
    beta1 = load_option(param_table, param, option_table, BETA1).to(tl.float32)
    scale = tl.load(scalars + param * SCALAR_COUNT + UPDATE_SCALE)
    decay_factor = tl.load(scalars + param * SCALAR_COUNT + DECAY_FACTOR)
    for block in tl.range(0, tile_length(m, first, TILE), BLOCK, num_stages=STAGES):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        p_at, a_at = vector_block(p_view, at), vector_block(a_view, at)
        g = tl.load(vector_block(g_view, at), mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_at, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(variance + at, mask=inside, other=1.0)
        u = update_of_vector_block(g, v, cap)
        p = _new_value(p, u, a_at, inside, scale, decay_factor, beta1, MOMENTUM, has_average)
        if STOCHASTIC:
            if load_option(param_table, param, option_table, STOCHASTIC_ROUNDING) != 0:
                number = tl.zeros((1,), tl.int64)  # a vector is one row
                bits = _bits_of_block(param_table, param, scalars, number, first + block, 1, BLOCK, REGION)
                p = _round(p, tl.reshape(bits, (BLOCK,)))
        if P == tl.bfloat16:
            p = _round(p, _bits_to_nearest(p))
        tl.store(p_at, p.to(P), mask=inside)


@triton.jit
def apply_updates(
    tiles,  # int32 (tiles, 4): parameter, matrix, row tile, column tile
    param_table,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial sums for mean(R), read
    scalars,  # float32 (parameters, SCALARS)
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
    MOMENTUM: tl.constexpr,  # some parameter of the bucket has an average of updates
    STOCHASTIC: tl.constexpr,  # some parameter of the bucket is rounded stochastically
    REGION: tl.constexpr,  # where its elements lie in the whole parameters, see fields.Region
):
    """Third pass, one tile: p ← decay_factor·p - scale·U, written once."""
    if should_step(found_inf, HAS_FOUND_INF):
        tile = tl.program_id(0)
        place = load_item(tiles, tile)
        unscale = load_unscale(grad_scale, HAS_GRAD_SCALE)
        flags = load_field(param_table, place[0], FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        # a Philox block for each element takes registers
        ROWS_AT_ONCE: tl.constexpr = BLOCK_ROWS // (2 if REGION == REGION_ANY else 1)
        BLOCK: tl.constexpr = ROWS_AT_ONCE * TILE_COLUMNS
        if flags & IS_FACTORED != 0:
            if flags & IS_ALIGNED != 0:
                _apply_to_matrix(
                    param_table, grads, option_table, workspace, scalars, unscale, place,
                    P, G, TILE_ROWS, TILE_COLUMNS, ROWS_AT_ONCE, STAGES, True, MOMENTUM, STOCHASTIC, REGION,
                )  # fmt: skip
            else:
                _apply_to_matrix(
                    param_table, grads, option_table, workspace, scalars, unscale, place,
                    P, G, TILE_ROWS, TILE_COLUMNS, ROWS_AT_ONCE // UNALIGNED_SPLIT, 1, False,
                    MOMENTUM, STOCHASTIC, REGION,
                )  # fmt: skip
        elif flags & IS_ALIGNED != 0:
            _apply_to_vector(
                param_table, grads, option_table, scalars, unscale, place,
                P, G, TILE, BLOCK, STAGES, True, MOMENTUM, STOCHASTIC, REGION,
            )  # fmt: skip
        else:
            _apply_to_vector(
                param_table, grads, option_table, scalars, unscale, place,
                P, G, TILE, BLOCK // UNALIGNED_SPLIT, 1, False, MOMENTUM, STOCHASTIC, REGION,
            )  # fmt: skip
