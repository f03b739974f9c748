"""Which tile a program works on, and where the tile's elements are: decoded here for all three passes.

A matrix and a vector have helpers of their own. ``matrix_bounds`` and ``vector_bounds`` say which rows and columns (or
elements) a tile covers, ``matrix_view`` and ``vector_view`` where G, p or exp_avg begin there and with which strides,
``matrix_block`` and ``vector_block`` turn a view into the pointers of one block.

Tiles whose parameter has ``Flag.ALIGNED`` are compiled apart (``ALIGNED``): the hints here give 128-bit accesses.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    BATCH_1,
    BATCH_2,
    COLUMNS,
    EXP_AVG,
    GRAD_STRIDES,
    PARAM_ADDRESS,
    PARAM_STRIDES,
    ROWS,
    load_field,
)

UNALIGNED_SPLIT = tl.constexpr(4)  # how much smaller blocks are where each element needs an address of its own
VECTOR = tl.constexpr(8)  # elements that strides and sizes are multiples of where 128-bit accesses are allowed


@triton.jit
def load_item(
    items,  # int32 (items, 4): ``tiles`` or ``chunks``
    item,  # row of the table
):
    """What a program is to work on: (parameter, matrix, row tile, column tile) or (…, chunk, axis), int64 each."""
    param = tl.load(items + item * 4).to(tl.int64)
    matrix = tl.load(items + item * 4 + 1).to(tl.int64)
    third = tl.load(items + item * 4 + 2).to(tl.int64)
    fourth = tl.load(items + item * 4 + 3).to(tl.int64)
    return param, matrix, third, fourth


@triton.jit
def load_extent(param_table, param, field: tl.constexpr, ALIGNED: tl.constexpr):
    """A size or stride, from which the compiler can tell that it is a multiple of 8.

    ``tl.multiple_of`` would not do: the compiler drops that hint where it stands on a load.
    """
    size = load_field(param_table, param, field)
    if ALIGNED:
        size = size // VECTOR * VECTOR
    return size


@triton.jit
def matrix_bounds(
    param_table,  # int64 (parameters, FIELDS)
    param,  # row of the table
    row_tile,  # int64
    column_tile,  # int64
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Where a tile of a matrix lies: (n, m, first row, first column), int64."""
    n = load_field(param_table, param, ROWS)
    m = load_extent(param_table, param, COLUMNS, ALIGNED)
    return n, m, row_tile * TILE_ROWS, column_tile * TILE_COLUMNS


@triton.jit
def vector_bounds(param_table, param, row_tile, TILE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a tile of a vector lies: (size of the vector, first element), int64."""
    return load_extent(param_table, param, COLUMNS, ALIGNED), row_tile * TILE


@triton.jit
def tile_length(size, first, most: tl.constexpr):
    """How many rows or elements of a tile there are: the last tile of a parameter, a bias's only one, has fewer.

    Call it where the loop begins: earlier, it holds a register meanwhile.
    """
    return tl.minimum(size - first, most).to(tl.int32)


@triton.jit
def tile_rows(n, row, TILE_ROWS: tl.constexpr, ALIGNED: tl.constexpr):
    """Rows of a tile: all of TILE_ROWS in aligned matrices, which are large, for counting costs registers."""
    if ALIGNED:
        return TILE_ROWS
    else:
        return tile_length(n, row, TILE_ROWS)


@triton.jit
def _pointer(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """An address as a pointer. The hint that it is a multiple of 16 brings 128-bit accesses."""
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    start = address.to(tl.pointer_type(dtype))
    if ALIGNED:
        start = tl.multiple_of(start, 16)
    return start


@triton.jit
def _column_stride(param_table, param, strides: tl.constexpr, ALIGNED: tl.constexpr):
    if ALIGNED:
        return 1
    else:
        return load_field(param_table, param, strides + 4)


@triton.jit
def _load_address(param_table, grads, param, strides: tl.constexpr):
    """The address of the tensor that these strides belong to."""
    if strides == GRAD_STRIDES:
        return tl.load(grads + param)
    elif strides == PARAM_STRIDES:
        return load_field(param_table, param, PARAM_ADDRESS)
    else:
        return load_field(param_table, param, EXP_AVG)


@triton.jit
def matrix_view(
    param_table,  # int64 (parameters, FIELDS)
    grads,  # int64 (parameters,): addresses of the gradients
    param,  # row of the tables
    strides: tl.constexpr,  # which tensor: PARAM_STRIDES, GRAD_STRIDES or EXP_AVG_STRIDES
    matrix,  # int64: number of the matrix in the batch
    row,  # int64: first row of the tile
    column,  # int64: first column
    dtype: tl.constexpr,  # of the tensor
    ALIGNED: tl.constexpr,
):
    """A tile of p, G or exp_avg: (pointer to its first element, row stride, column stride).

    The row stride is int32 where 128-bit accesses are allowed: offsets inside a tile fit into 32 bits there.
    """
    row_stride = load_extent(param_table, param, strides + 3, ALIGNED)
    row_stride = row_stride.to(tl.int32) if ALIGNED else row_stride
    column_stride = _column_stride(param_table, param, strides, ALIGNED)
    start = _pointer(_load_address(param_table, grads, param, strides), dtype, ALIGNED)
    size_1 = load_field(param_table, param, BATCH_1)
    size_2 = load_field(param_table, param, BATCH_2)
    i2 = matrix % size_2
    i1 = (matrix // size_2) % size_1
    i0 = matrix // size_2 // size_1
    start += i0 * load_extent(param_table, param, strides, ALIGNED)
    start += i1 * load_extent(param_table, param, strides + 1, ALIGNED)
    start += i2 * load_extent(param_table, param, strides + 2, ALIGNED)
    start += row * row_stride.to(tl.int64) + column * column_stride
    return start, row_stride, column_stride


@triton.jit
def vector_view(param_table, grads, param, strides: tl.constexpr, first, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """A tile of a vector: (pointer to its element ``first``, stride). Arguments as of :func:`matrix_view`."""
    stride = _column_stride(param_table, param, strides, ALIGNED)
    return _pointer(_load_address(param_table, grads, param, strides), dtype, ALIGNED) + first * stride, stride


@triton.jit
def matrix_block(view, rows, columns):
    """Pointers to rows × columns of a view, counted from where it begins; int32 indices."""
    start, row_stride, column_stride = view
    return start + (rows[:, None] * row_stride + columns[None, :] * column_stride)


@triton.jit
def vector_block(view, elements):
    """Pointers to elements of a view."""
    start, stride = view
    return start + elements * stride
