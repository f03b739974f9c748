"""U on a block of a tile, as the second and the third pass both need it."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    COL_VAR,
    MEAN_CHUNKS,
    MEAN_FLOOR,
    MEAN_SIZE,
    MEAN_SUMS,
    ROW_VAR,
    RSQRT_CAP,
    SPAN,
    VARIANCE,
    load_address,
    load_field,
    load_option,
)


@triton.jit
def _row_scale(param_table, param, option_table, workspace, matrix):
    """1 / mean(R) of a matrix, the mean not below its floor."""
    chunks = load_field(param_table, param, MEAN_CHUNKS)
    sums = workspace + load_field(param_table, param, MEAN_SUMS) + matrix * chunks
    total = tl.zeros((SPAN,), tl.float32)
    for first in range(0, chunks, SPAN):
        at = first + tl.arange(0, SPAN)
        total += tl.load(sums + at, mask=at < chunks, other=0.0)
    mean = tl.sum(total, axis=0) / load_field(param_table, param, MEAN_SIZE).to(tl.float32)
    floor = load_option(param_table, param, option_table, MEAN_FLOOR).to(tl.float32)
    return 1.0 / tl.maximum(mean, floor, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def load_factors(
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    workspace,  # float32: partial sums for mean(R), read
    param,  # row of ``param_table``
    matrix,  # int64: number of the matrix in the batch
    n,  # rows of the matrix
    m,  # columns of the matrix
    row,  # int64: first row of the tile
    column,  # int64: first column
):
    """What U is computed from on a tile of a matrix: (pointer to R, pointer to C, 1/mean(R), largest V̂^-½)."""
    row_var = load_address(param_table, param, ROW_VAR, tl.float32) + matrix * n + row
    col_var = load_address(param_table, param, COL_VAR, tl.float32) + matrix * m + column
    row_scale = _row_scale(param_table, param, option_table, workspace, matrix)
    cap = load_option(param_table, param, option_table, RSQRT_CAP).to(tl.float32)
    return row_var, col_var, row_scale, cap


@triton.jit
def load_variance(param_table, option_table, param, first):
    """What U is computed from on a tile of a vector: (pointer to V, largest V^-½). Arguments as above."""
    variance = load_address(param_table, param, VARIANCE, tl.float32) + first
    return variance, load_option(param_table, param, option_table, RSQRT_CAP).to(tl.float32)


@triton.jit
def update_of_block(g, row_factor, column_factor, row_scale, cap):
    """U on a block: G·min((r·C)^-½, 1/ε₁); the minimum passes NaN on, as the rule does."""
    inverse = tl.rsqrt(row_factor * row_scale)[:, None] * tl.rsqrt(column_factor)[None, :]
    return g * tl.minimum(inverse, cap, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def update_of_vector_block(g, variance, cap):
    """U on a block of a vector: G·min(V^-½, 1/ε₁)."""
    return g * tl.minimum(tl.rsqrt(variance), cap, propagate_nan=tl.PropagateNan.ALL)
