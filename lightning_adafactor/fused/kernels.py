"""The five Triton kernels of a step. Each is launched once for all parameters of one device and dtype.

==============  ==========================  =====================================================================
kernel          a program does              reads and writes
==============  ==========================  =====================================================================
sum_squares     one tile                    G, p → partial row and column sums of G², partial ΣP² (vectors: V)
update_factors  1024 rows or columns        partial sums → R, C, partial sums for mean(R)
sum_updates     one tile, in reverse order  G, R, C → partial ΣU²
find_scalars    one parameter               partial sums → α / clip, weight decay, t, RMS(p)
apply_updates   one tile                    G, p, R, C → p (and the average of updates)
==============  ==========================  =====================================================================

Sums are deterministic: a program writes its own partial sum, the next kernel adds them in a fixed order; there are no
float atomics. All arithmetic is float32, that of scalars float64. Nothing but the launch grid depends on the model:
addresses, shapes, strides and options come from tables in device memory (``fields.py``), lr and t too. V̂^-½ is
min((r·C)^-½, 1/ε₁), which needs no case distinction where a floor is active.

The tiles of consecutive passes are visited in opposite orders, so that a pass starts with what the last one left in L2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.fields import CHUNK, FIELDS, OPTIONS, SCALARS, Field, Flag, Option, Scalar

_PARAM = tl.constexpr(int(Field.PARAM))
_ROW_VAR = tl.constexpr(int(Field.ROW_VAR))
_COL_VAR = tl.constexpr(int(Field.COL_VAR))
_VARIANCE = tl.constexpr(int(Field.VARIANCE))
_EXP_AVG = tl.constexpr(int(Field.EXP_AVG))
_RMS = tl.constexpr(int(Field.RMS))
_STEP = tl.constexpr(int(Field.STEP))
_LR = tl.constexpr(int(Field.LR))
_LR_IS_DOUBLE = tl.constexpr(int(Field.LR_IS_DOUBLE))
_FLAGS = tl.constexpr(int(Field.FLAGS))
_MATRICES = tl.constexpr(int(Field.MATRICES))
_BATCH_1 = tl.constexpr(int(Field.BATCH_1))
_BATCH_2 = tl.constexpr(int(Field.BATCH_2))
_ROWS = tl.constexpr(int(Field.ROWS))
_COLUMNS = tl.constexpr(int(Field.COLUMNS))
_PARAM_STRIDES = tl.constexpr(int(Field.PARAM_STRIDES))
_GRAD_STRIDES = tl.constexpr(int(Field.GRAD_STRIDES))
_EXP_AVG_STRIDES = tl.constexpr(int(Field.EXP_AVG_STRIDES))
_ROW_TILES = tl.constexpr(int(Field.ROW_TILES))
_COLUMN_TILES = tl.constexpr(int(Field.COLUMN_TILES))
_FIRST_TILE = tl.constexpr(int(Field.FIRST_TILE))
_ROW_SUMS = tl.constexpr(int(Field.ROW_SUMS))
_COLUMN_SUMS = tl.constexpr(int(Field.COLUMN_SUMS))
_MEAN_SUMS = tl.constexpr(int(Field.MEAN_SUMS))
_MEAN_CHUNKS = tl.constexpr(int(Field.MEAN_CHUNKS))
_GROUP = tl.constexpr(int(Field.GROUP))
_INDEX = tl.constexpr(int(Field.INDEX))
_SEED = tl.constexpr(int(Field.SEED))
_FIELDS = tl.constexpr(FIELDS)

_FACTORED = tl.constexpr(int(Flag.FACTORED))
_ALIGNED = tl.constexpr(int(Flag.ALIGNED))
_MEAN_OF_COLUMNS = tl.constexpr(int(Flag.MEAN_OF_COLUMNS))

_BETA2_DECAY = tl.constexpr(int(Option.BETA2_DECAY))
_ADDED = tl.constexpr(int(Option.ADDED))
_MEAN_FLOOR = tl.constexpr(int(Option.MEAN_FLOOR))
_CAP = tl.constexpr(int(Option.CAP))
_EPS2 = tl.constexpr(int(Option.EPS2))
_D = tl.constexpr(int(Option.D))
_WEIGHT_DECAY = tl.constexpr(int(Option.WEIGHT_DECAY))
_BETA1 = tl.constexpr(int(Option.BETA1))
_SIGN = tl.constexpr(int(Option.SIGN))
_SCALE_PARAMETER = tl.constexpr(int(Option.SCALE_PARAMETER))
_RELATIVE_STEP = tl.constexpr(int(Option.RELATIVE_STEP))
_WARMUP_INIT = tl.constexpr(int(Option.WARMUP_INIT))
_DECAY_BY_ALPHA = tl.constexpr(int(Option.DECAY_BY_ALPHA))
_STOCHASTIC = tl.constexpr(int(Option.STOCHASTIC))
_OPTIONS = tl.constexpr(OPTIONS)

_SCALE = tl.constexpr(int(Scalar.SCALE))
_RETAINED = tl.constexpr(int(Scalar.RETAINED))
_SCALAR_STEP = tl.constexpr(int(Scalar.STEP))
_SCALARS = tl.constexpr(SCALARS)

_CHUNK = tl.constexpr(CHUNK)
_SCATTERED = tl.constexpr(4)  # how much smaller blocks are where each element needs an address of its own
_VECTOR = tl.constexpr(8)  # elements that strides and sizes are multiples of where 128-bit accesses are allowed


# Reading the tables -------------------------------------------------------------------------------------------------


@triton.jit
def _field(params, param, field: tl.constexpr):
    return tl.load(params + param * _FIELDS + field)


@triton.jit
def _address(params, param, field: tl.constexpr, dtype: tl.constexpr):
    return tl.load(params + param * _FIELDS + field).to(tl.pointer_type(dtype))


@triton.jit
def _option(params, param, options, option: tl.constexpr):
    return tl.load(options + _field(params, param, _GROUP) * _OPTIONS + option)


@triton.jit
def _next_step(params, param):
    """t of the step that is being taken; float64."""
    return tl.load(_address(params, param, _STEP, tl.float32)).to(tl.float64) + 1.0


@triton.jit
def _omega(params, param, options):
    """ω = t^beta2_decay, float32."""
    t = _next_step(params, param)
    return tl.exp(_option(params, param, options, _BETA2_DECAY) * tl.log(t)).to(tl.float32)


@triton.jit
def _unscale(grad_scale, HAS_GRAD_SCALE: tl.constexpr):
    """What gradients are multiplied with before use."""
    if HAS_GRAD_SCALE:
        return 1.0 / tl.load(grad_scale).to(tl.float32)
    else:
        return 1.0


@triton.jit
def _goes_ahead(found_inf, HAS_FOUND_INF: tl.constexpr):
    if HAS_FOUND_INF:
        return tl.load(found_inf) == 0
    else:
        return True


@triton.jit
def _extent(params, param, field: tl.constexpr, ALIGNED: tl.constexpr):
    """A size or stride, from which the compiler can tell that it is a multiple of 8.

    ``tl.multiple_of`` would not do: the compiler drops that hint where it stands on a load.
    """
    size = _field(params, param, field)
    if ALIGNED:
        size = size // _VECTOR * _VECTOR
    return size


@triton.jit
def _vector_start(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a parameter starts. The hint that addresses are multiples of 16 brings 128-bit accesses."""
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    start = address.to(tl.pointer_type(dtype))
    if ALIGNED:
        start = tl.multiple_of(start, 16)
    return start


@triton.jit
def _matrix_start(params, param, address, strides: tl.constexpr, matrix, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a matrix of a batch starts."""
    start = _vector_start(address, dtype, ALIGNED)
    size_1 = _field(params, param, _BATCH_1)
    size_2 = _field(params, param, _BATCH_2)
    i2 = matrix % size_2
    i1 = (matrix // size_2) % size_1
    i0 = matrix // size_2 // size_1
    start += i0 * _extent(params, param, strides, ALIGNED)
    start += i1 * _extent(params, param, strides + 1, ALIGNED)
    return start + i2 * _extent(params, param, strides + 2, ALIGNED)


@triton.jit
def _row_stride(params, param, strides: tl.constexpr, ALIGNED: tl.constexpr):
    """Row stride for offsets inside a tile, which fit into 32 bits where 128-bit accesses are allowed."""
    stride = _extent(params, param, strides + 3, ALIGNED)
    return stride.to(tl.int32) if ALIGNED else stride


@triton.jit
def _column_stride(params, param, strides: tl.constexpr, ALIGNED: tl.constexpr):
    if ALIGNED:
        return 1
    else:
        return _field(params, param, strides + 4)


# Pass 1 -------------------------------------------------------------------------------------------------------------


@triton.jit
def _sum_squares_of_matrix(
    params, grads, options, workspace, squares_of_p, unscale, param, matrix, row_tile, column_tile, tile,
    P: tl.constexpr, G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    n = _field(params, param, _ROWS)
    m = _extent(params, param, _COLUMNS, ALIGNED)
    matrices = _field(params, param, _MATRICES)
    row = row_tile * TILE_ROWS
    column = column_tile * TILE_COLUMNS
    p_row = _row_stride(params, param, _PARAM_STRIDES, ALIGNED)
    p_column = _column_stride(params, param, _PARAM_STRIDES, ALIGNED)
    p_start = _matrix_start(params, param, _field(params, param, _PARAM), _PARAM_STRIDES, matrix, P, ALIGNED)
    p_start += row * p_row.to(tl.int64) + column * p_column
    g_row = _row_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_column = _column_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_start = _matrix_start(params, param, tl.load(grads + param), _GRAD_STRIDES, matrix, G, ALIGNED)
    g_start += row * g_row.to(tl.int64) + column * g_column
    row_sums = workspace + _field(params, param, _ROW_SUMS) + (column_tile * matrices + matrix) * n + row
    column_sums = workspace + _field(params, param, _COLUMN_SUMS) + (row_tile * matrices + matrix) * m + column
    scales = _option(params, param, options, _SCALE_PARAMETER) != 0

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    g_squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    p_squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    for block in range(0, TILE_ROWS, BLOCK_ROWS):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        inside = in_rows[:, None] & in_columns[None, :]
        g_at = g_start + (rows[:, None] * g_row + columns[None, :] * g_column)
        g = tl.load(g_at, mask=inside, other=0.0).to(tl.float32) * unscale
        g_squares += g * g
        tl.store(row_sums + rows, tl.sum(g * g, axis=1), mask=in_rows)
        if scales:
            p_at = p_start + (rows[:, None] * p_row + columns[None, :] * p_column)
            p = tl.load(p_at, mask=inside, other=0.0).to(tl.float32)
            p_squares += p * p
    tl.store(column_sums + columns, tl.sum(g_squares, axis=0), mask=in_columns)
    tl.store(squares_of_p + tile, tl.sum(tl.sum(p_squares, axis=1), axis=0))


@triton.jit
def _average_squares_of_vector(
    params, grads, options, squares_of_p, unscale, param, row_tile, tile,
    P: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """V takes in G² here already: it needs no sums."""
    m = _extent(params, param, _COLUMNS, ALIGNED)
    first = row_tile * TILE
    p_stride = _column_stride(params, param, _PARAM_STRIDES, ALIGNED)
    p_start = _vector_start(_field(params, param, _PARAM), P, ALIGNED) + first * p_stride
    g_stride = _column_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_start = _vector_start(tl.load(grads + param), G, ALIGNED) + first * g_stride
    variance = _address(params, param, _VARIANCE, tl.float32) + first
    omega = _omega(params, param, options)
    added = _option(params, param, options, _ADDED).to(tl.float32)
    p_squares = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, TILE, BLOCK):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        g = tl.load(g_start + at * g_stride, mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_start + at * p_stride, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(variance + at, mask=inside, other=0.0)
        tl.store(variance + at, v * (1.0 - omega) + omega * (g * g + added), mask=inside)
        p_squares += p * p
    tl.store(squares_of_p + tile, tl.sum(p_squares, axis=0))


@triton.jit
def sum_squares(
    tiles,  # int32 (tiles, 4): parameter, matrix, row tile, column tile
    params,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    options,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial row and column sums, written
    squares_of_p,  # float32 (tiles,): partial ΣP², written
    grad_scale,  # one float32, or anything without HAS_GRAD_SCALE
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    P: tl.constexpr,  # dtype of the parameters
    G: tl.constexpr,  # dtype of the gradients
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,  # rows held in registers at a time; divides TILE_ROWS
    HAS_GRAD_SCALE: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
):
    """First pass, one tile: sums of G² over its rows and its columns, ΣP²; V of a vector."""
    if _goes_ahead(found_inf, HAS_FOUND_INF):
        tile = tl.program_id(0)
        param = tl.load(tiles + tile * 4).to(tl.int64)
        matrix = tl.load(tiles + tile * 4 + 1).to(tl.int64)
        row_tile = tl.load(tiles + tile * 4 + 2).to(tl.int64)
        column_tile = tl.load(tiles + tile * 4 + 3).to(tl.int64)
        unscale = _unscale(grad_scale, HAS_GRAD_SCALE)
        flags = _field(params, param, _FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        BLOCK: tl.constexpr = BLOCK_ROWS * TILE_COLUMNS
        if flags & _FACTORED != 0:
            if flags & _ALIGNED != 0:
                _sum_squares_of_matrix(
                    params, grads, options, workspace, squares_of_p, unscale, param, matrix, row_tile, column_tile,
                    tile, P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, True,
                )  # fmt: skip
            else:
                _sum_squares_of_matrix(
                    params, grads, options, workspace, squares_of_p, unscale, param, matrix, row_tile, column_tile,
                    tile, P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // _SCATTERED, False,
                )  # fmt: skip
        else:
            if flags & _ALIGNED != 0:
                _average_squares_of_vector(
                    params, grads, options, squares_of_p, unscale, param, row_tile, tile, P, G, TILE, BLOCK, True
                )
            else:
                _average_squares_of_vector(
                    params, grads, options, squares_of_p, unscale, param, row_tile, tile, P, G, TILE, BLOCK // _SCATTERED, False
                )


@triton.jit
def _update_factor(
    params, options, workspace, param, matrix, chunk,
    size, other_size, tiles, factor, sums, is_mean_axis,
):  # fmt: skip
    """1024 elements of R or C: partial sums added in order, averaged over the other axis, taken in."""
    matrices = _field(params, param, _MATRICES)
    at = chunk * _CHUNK + tl.arange(0, _CHUNK)
    inside = at < size
    total = tl.zeros((_CHUNK,), tl.float32)
    for tile in range(0, tiles):
        total += tl.load(workspace + sums + (tile * matrices + matrix) * size + at, mask=inside, other=0.0)
    omega = _omega(params, param, options)
    mean = total / other_size.to(tl.float32) + _option(params, param, options, _ADDED).to(tl.float32)
    average = factor + matrix * size + at
    updated = tl.load(average, mask=inside, other=0.0) * (1.0 - omega) + omega * mean
    tl.store(average, updated, mask=inside)
    if is_mean_axis:
        chunks = _field(params, param, _MEAN_CHUNKS)
        total_of_mean = tl.sum(tl.where(inside, updated, 0.0), axis=0)
        tl.store(workspace + _field(params, param, _MEAN_SUMS) + matrix * chunks + chunk, total_of_mean)


@triton.jit
def update_factors(
    chunks,  # int32 (chunks, 4): parameter, matrix, chunk, 0 for rows or 1 for columns
    params,  # int64 (parameters, FIELDS)
    options,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial row and column sums, read; partial sums for mean(R), written
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    HAS_FOUND_INF: tl.constexpr,
):
    """R and C take in the sums of the first pass."""
    if _goes_ahead(found_inf, HAS_FOUND_INF):
        item = tl.program_id(0)
        param = tl.load(chunks + item * 4).to(tl.int64)
        matrix = tl.load(chunks + item * 4 + 1).to(tl.int64)
        chunk = tl.load(chunks + item * 4 + 2).to(tl.int64)
        is_column = tl.load(chunks + item * 4 + 3) != 0
        means_columns = _field(params, param, _FLAGS) & _MEAN_OF_COLUMNS != 0
        n = _field(params, param, _ROWS)
        m = _field(params, param, _COLUMNS)
        factor = tl.where(is_column, _field(params, param, _COL_VAR), _field(params, param, _ROW_VAR))
        _update_factor(
            params,
            options,
            workspace,
            param,
            matrix,
            chunk,
            tl.where(is_column, m, n),
            tl.where(is_column, n, m),
            tl.where(is_column, _field(params, param, _ROW_TILES), _field(params, param, _COLUMN_TILES)),
            factor.to(tl.pointer_type(tl.float32)),
            tl.where(is_column, _field(params, param, _COLUMN_SUMS), _field(params, param, _ROW_SUMS)),
            is_column == means_columns,
        )


# Pass 2 -------------------------------------------------------------------------------------------------------------


@triton.jit
def _row_scale(params, param, options, workspace, matrix):
    """1 / mean(R) of a matrix, the mean not below its floor."""
    chunks = _field(params, param, _MEAN_CHUNKS)
    sums = workspace + _field(params, param, _MEAN_SUMS) + matrix * chunks
    total = tl.zeros((_CHUNK,), tl.float32)
    for first in range(0, chunks, _CHUNK):
        at = first + tl.arange(0, _CHUNK)
        total += tl.load(sums + at, mask=at < chunks, other=0.0)
    means_columns = _field(params, param, _FLAGS) & _MEAN_OF_COLUMNS != 0
    size = tl.where(means_columns, _field(params, param, _COLUMNS), _field(params, param, _ROWS))
    mean = tl.sum(total, axis=0) / size.to(tl.float32)
    floor = _option(params, param, options, _MEAN_FLOOR).to(tl.float32)
    return 1.0 / tl.maximum(mean, floor, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _update_of_block(g, row_factor, column_factor, row_scale, cap):
    """U on a block: G·min((r·C)^-½, 1/ε₁); the minimum passes NaN on, as the rule does."""
    inverse = tl.rsqrt(row_factor * row_scale)[:, None] * tl.rsqrt(column_factor)[None, :]
    return g * tl.minimum(inverse, cap, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _sum_updates_of_matrix(
    params, grads, options, workspace, squares_of_u, unscale, param, matrix, row_tile, column_tile, tile,
    G: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    n = _field(params, param, _ROWS)
    m = _extent(params, param, _COLUMNS, ALIGNED)
    row = row_tile * TILE_ROWS
    column = column_tile * TILE_COLUMNS
    g_row = _row_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_column = _column_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_start = _matrix_start(params, param, tl.load(grads + param), _GRAD_STRIDES, matrix, G, ALIGNED)
    g_start += row * g_row.to(tl.int64) + column * g_column
    row_var = _address(params, param, _ROW_VAR, tl.float32) + matrix * n + row
    col_var = _address(params, param, _COL_VAR, tl.float32) + matrix * m + column
    row_scale = _row_scale(params, param, options, workspace, matrix)
    cap = _option(params, param, options, _CAP).to(tl.float32)

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    c = tl.load(col_var + columns, mask=in_columns, other=1.0)
    squares = tl.zeros((BLOCK_ROWS, TILE_COLUMNS), tl.float32)
    for block in range(0, TILE_ROWS, BLOCK_ROWS):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        g_at = g_start + (rows[:, None] * g_row + columns[None, :] * g_column)
        g = tl.load(g_at, mask=in_rows[:, None] & in_columns[None, :], other=0.0).to(tl.float32) * unscale
        r = tl.load(row_var + rows, mask=in_rows, other=1.0)
        u = _update_of_block(g, r, c, row_scale, cap)
        squares += u * u
    tl.store(squares_of_u + tile, tl.sum(tl.sum(squares, axis=1), axis=0))


@triton.jit
def _sum_updates_of_vector(
    params, grads, options, squares_of_u, unscale, param, row_tile, tile,
    G: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    m = _extent(params, param, _COLUMNS, ALIGNED)
    first = row_tile * TILE
    g_stride = _column_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_start = _vector_start(tl.load(grads + param), G, ALIGNED) + first * g_stride
    variance = _address(params, param, _VARIANCE, tl.float32) + first
    cap = _option(params, param, options, _CAP).to(tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, TILE, BLOCK):
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
    if _goes_ahead(found_inf, HAS_FOUND_INF):
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        param = tl.load(tiles + tile * 4).to(tl.int64)
        matrix = tl.load(tiles + tile * 4 + 1).to(tl.int64)
        row_tile = tl.load(tiles + tile * 4 + 2).to(tl.int64)
        column_tile = tl.load(tiles + tile * 4 + 3).to(tl.int64)
        unscale = _unscale(grad_scale, HAS_GRAD_SCALE)
        flags = _field(params, param, _FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        BLOCK: tl.constexpr = BLOCK_ROWS * TILE_COLUMNS
        if flags & _FACTORED != 0:
            if flags & _ALIGNED != 0:
                _sum_updates_of_matrix(
                    params, grads, options, workspace, squares_of_u, unscale, param, matrix, row_tile, column_tile,
                    tile, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, True,
                )  # fmt: skip
            else:
                _sum_updates_of_matrix(
                    params, grads, options, workspace, squares_of_u, unscale, param, matrix, row_tile, column_tile,
                    tile, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // _SCATTERED, False,
                )  # fmt: skip
        else:
            if flags & _ALIGNED != 0:
                _sum_updates_of_vector(
                    params, grads, options, squares_of_u, unscale, param, row_tile, tile, G, TILE, BLOCK, True
                )
            else:
                _sum_updates_of_vector(
                    params, grads, options, squares_of_u, unscale, param, row_tile, tile, G, TILE, BLOCK // _SCATTERED, False
                )


@triton.jit
def _sum_in_order(partial, count):
    """Sum of ``count`` partial sums, float64, in an order that depends on the count alone."""
    total = tl.zeros((_CHUNK,), tl.float64)
    for first in range(0, count, _CHUNK):
        at = first + tl.arange(0, _CHUNK)
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
    if _goes_ahead(found_inf, HAS_FOUND_INF):
        param = tl.program_id(0).to(tl.int64)
        group = options + _field(params, param, _GROUP) * _OPTIONS
        tiles = _field(params, param, _MATRICES) * _field(params, param, _ROW_TILES)
        tiles = tiles * _field(params, param, _COLUMN_TILES)
        first = _field(params, param, _FIRST_TILE)
        numel = _field(params, param, _MATRICES) * _field(params, param, _ROWS) * _field(params, param, _COLUMNS)
        numel = numel.to(tl.float64)
        t = _next_step(params, param)
        if _field(params, param, _LR_IS_DOUBLE) != 0:
            lr = tl.load(_address(params, param, _LR, tl.float64))
        else:
            lr = tl.load(_address(params, param, _LR, tl.float32)).to(tl.float64)

        rho = lr
        if tl.load(group + _RELATIVE_STEP) != 0:
            rho = tl.minimum(rho, 1.0 / tl.sqrt(t))
        if tl.load(group + _WARMUP_INIT) != 0:
            rho = tl.minimum(rho, 1e-6 * t)
        alpha = rho
        if tl.load(group + _SCALE_PARAMETER) != 0:
            rms = tl.sqrt(_sum_in_order(squares_of_p + first, tiles) / numel)
            alpha = rho * tl.maximum(rms, tl.load(group + _EPS2))
            recorded = _field(params, param, _RMS)
            if recorded != 0:
                tl.store(recorded.to(tl.pointer_type(tl.float32)), rms.to(tl.float32))
        rms_of_update = tl.sqrt(_sum_in_order(squares_of_u + first, tiles) / numel)
        clip = tl.maximum(rms_of_update / tl.load(group + _D), 1.0)
        decay = tl.load(group + _WEIGHT_DECAY)
        retained = 1.0 - decay * tl.where(tl.load(group + _DECAY_BY_ALPHA) != 0, alpha, lr)

        result = scalars + param * _SCALARS
        tl.store(result + _SCALE, (tl.load(group + _SIGN) * alpha / clip).to(tl.float32))
        tl.store(result + _RETAINED, retained.to(tl.float32))
        tl.store(result + _SCALAR_STEP, t.to(tl.float32))
        tl.store(_address(params, param, _STEP, tl.float32), t.to(tl.float32))


# Pass 3 -------------------------------------------------------------------------------------------------------------


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
    """p after the step, float32; the average of updates takes in this one."""
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
    n = _field(params, param, _ROWS)
    m = _extent(params, param, _COLUMNS, ALIGNED)
    row = row_tile * TILE_ROWS
    column = column_tile * TILE_COLUMNS
    p_row = _row_stride(params, param, _PARAM_STRIDES, ALIGNED)
    p_column = _column_stride(params, param, _PARAM_STRIDES, ALIGNED)
    p_start = _matrix_start(params, param, _field(params, param, _PARAM), _PARAM_STRIDES, matrix, P, ALIGNED)
    p_start += row * p_row.to(tl.int64) + column * p_column
    g_row = _row_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_column = _column_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_start = _matrix_start(params, param, tl.load(grads + param), _GRAD_STRIDES, matrix, G, ALIGNED)
    g_start += row * g_row.to(tl.int64) + column * g_column
    a_row = _row_stride(params, param, _EXP_AVG_STRIDES, ALIGNED)
    a_column = _column_stride(params, param, _EXP_AVG_STRIDES, ALIGNED)
    a_address = _field(params, param, _EXP_AVG)
    a_start = _matrix_start(params, param, a_address, _EXP_AVG_STRIDES, matrix, tl.float32, ALIGNED)
    a_start += row * a_row.to(tl.int64) + column * a_column
    has_average = _field(params, param, _EXP_AVG) != 0
    row_var = _address(params, param, _ROW_VAR, tl.float32) + matrix * n + row
    col_var = _address(params, param, _COL_VAR, tl.float32) + matrix * m + column
    row_scale = _row_scale(params, param, options, workspace, matrix)
    cap = _option(params, param, options, _CAP).to(tl.float32)
    beta1 = _option(params, param, options, _BETA1).to(tl.float32)
    scale = tl.load(scalars + param * _SCALARS + _SCALE)
    retained = tl.load(scalars + param * _SCALARS + _RETAINED)

    columns = tl.arange(0, TILE_COLUMNS)
    in_columns = column + columns < m
    c = tl.load(col_var + columns, mask=in_columns, other=1.0)
    for block in range(0, TILE_ROWS, BLOCK_ROWS):
        rows = block + tl.arange(0, BLOCK_ROWS)
        in_rows = row + rows < n
        inside = in_rows[:, None] & in_columns[None, :]
        g_at = g_start + (rows[:, None] * g_row + columns[None, :] * g_column)
        p_at = p_start + (rows[:, None] * p_row + columns[None, :] * p_column)
        a_at = a_start + (rows[:, None] * a_row + columns[None, :] * a_column)
        g = tl.load(g_at, mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_at, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(row_var + rows, mask=in_rows, other=1.0)
        u = _update_of_block(g, r, c, row_scale, cap)
        p = _new_value(p, u, a_at, inside, scale, retained, beta1, MOMENTUM, has_average)
        if STOCHASTIC:
            if _option(params, param, options, _STOCHASTIC) != 0:
                t = tl.load(scalars + param * _SCALARS + _SCALAR_STEP).to(tl.int32)
                lanes = (column // 8 + tl.arange(0, TILE_COLUMNS // 8)).to(tl.int32)
                numbers = (matrix * n + row + rows).to(tl.int32)
                counter_0, counter_1 = tl.broadcast(lanes[None, :], numbers[:, None])
                index = _field(params, param, _INDEX).to(tl.int32)
                seed = _field(params, param, _SEED)
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
    m = _extent(params, param, _COLUMNS, ALIGNED)
    first = row_tile * TILE
    p_stride = _column_stride(params, param, _PARAM_STRIDES, ALIGNED)
    p_start = _vector_start(_field(params, param, _PARAM), P, ALIGNED) + first * p_stride
    g_stride = _column_stride(params, param, _GRAD_STRIDES, ALIGNED)
    g_start = _vector_start(tl.load(grads + param), G, ALIGNED) + first * g_stride
    a_stride = _column_stride(params, param, _EXP_AVG_STRIDES, ALIGNED)
    a_start = _vector_start(_field(params, param, _EXP_AVG), tl.float32, ALIGNED) + first * a_stride
    has_average = _field(params, param, _EXP_AVG) != 0
    variance = _address(params, param, _VARIANCE, tl.float32) + first
    cap = _option(params, param, options, _CAP).to(tl.float32)
    beta1 = _option(params, param, options, _BETA1).to(tl.float32)
    scale = tl.load(scalars + param * _SCALARS + _SCALE)
    retained = tl.load(scalars + param * _SCALARS + _RETAINED)
    for block in range(0, TILE, BLOCK):
        at = block + tl.arange(0, BLOCK)
        inside = first + at < m
        g = tl.load(g_start + at * g_stride, mask=inside, other=0.0).to(tl.float32) * unscale
        p = tl.load(p_start + at * p_stride, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(variance + at, mask=inside, other=1.0)
        u = g * tl.minimum(tl.rsqrt(v), cap, propagate_nan=tl.PropagateNan.ALL)
        p = _new_value(p, u, a_start + at * a_stride, inside, scale, retained, beta1, MOMENTUM, has_average)
        if STOCHASTIC:
            if _option(params, param, options, _STOCHASTIC) != 0:
                t = tl.load(scalars + param * _SCALARS + _SCALAR_STEP).to(tl.int32)
                lanes = ((first + block) // 8 + tl.arange(0, BLOCK // 8)).to(tl.int32)[None, :]
                index = _field(params, param, _INDEX).to(tl.int32)
                seed = _field(params, param, _SEED)
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
    if _goes_ahead(found_inf, HAS_FOUND_INF):
        tile = tl.program_id(0)
        param = tl.load(tiles + tile * 4).to(tl.int64)
        matrix = tl.load(tiles + tile * 4 + 1).to(tl.int64)
        row_tile = tl.load(tiles + tile * 4 + 2).to(tl.int64)
        column_tile = tl.load(tiles + tile * 4 + 3).to(tl.int64)
        unscale = _unscale(grad_scale, HAS_GRAD_SCALE)
        flags = _field(params, param, _FLAGS)
        TILE: tl.constexpr = TILE_ROWS * TILE_COLUMNS
        BLOCK: tl.constexpr = BLOCK_ROWS * TILE_COLUMNS
        if flags & _FACTORED != 0:
            if flags & _ALIGNED != 0:
                _apply_to_matrix(
                    params, grads, options, workspace, scalars, unscale, param, matrix, row_tile, column_tile,
                    P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS, True, MOMENTUM, STOCHASTIC,
                )  # fmt: skip
            else:
                _apply_to_matrix(
                    params, grads, options, workspace, scalars, unscale, param, matrix, row_tile, column_tile,
                    P, G, TILE_ROWS, TILE_COLUMNS, BLOCK_ROWS // _SCATTERED, False, MOMENTUM, STOCHASTIC,
                )  # fmt: skip
        else:
            if flags & _ALIGNED != 0:
                _apply_to_vector(
                    params, grads, options, scalars, unscale, param, row_tile,
                    P, G, TILE, BLOCK, True, MOMENTUM, STOCHASTIC,
                )  # fmt: skip
            else:
                _apply_to_vector(
                    params, grads, options, scalars, unscale, param, row_tile,
                    P, G, TILE, BLOCK // _SCATTERED, False, MOMENTUM, STOCHASTIC,
                )  # fmt: skip
