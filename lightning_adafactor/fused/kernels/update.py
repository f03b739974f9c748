"""U on a block of a tile, as the second and the third pass both need it."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    CHUNK_SIZE,
    COLUMNS,
    FLAGS,
    MEAN_CHUNKS,
    MEAN_FLOOR,
    MEAN_OF_COLUMNS,
    MEAN_SUMS,
    ROWS,
    load_field,
    load_option,
)


@triton.jit
def find_row_scale(params, param, options, workspace, matrix):
    """1 / mean(R) of a matrix, the mean not below its floor."""
    chunks = load_field(params, param, MEAN_CHUNKS)
    sums = workspace + load_field(params, param, MEAN_SUMS) + matrix * chunks
    total = tl.zeros((CHUNK_SIZE,), tl.float32)
    for first in range(0, chunks, CHUNK_SIZE):
        at = first + tl.arange(0, CHUNK_SIZE)
        total += tl.load(sums + at, mask=at < chunks, other=0.0)
    means_columns = load_field(params, param, FLAGS) & MEAN_OF_COLUMNS != 0
    size = tl.where(means_columns, load_field(params, param, COLUMNS), load_field(params, param, ROWS))
    mean = tl.sum(total, axis=0) / size.to(tl.float32)
    floor = load_option(params, param, options, MEAN_FLOOR).to(tl.float32)
    return 1.0 / tl.maximum(mean, floor, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def update_of_block(g, row_factor, column_factor, row_scale, cap):
    """U on a block: G·min((r·C)^-½, 1/ε₁); the minimum passes NaN on, as the rule does."""
    inverse = tl.rsqrt(row_factor * row_scale)[:, None] * tl.rsqrt(column_factor)[None, :]
    return g * tl.minimum(inverse, cap, propagate_nan=tl.PropagateNan.ALL)
