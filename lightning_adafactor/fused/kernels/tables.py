"""What every kernel reads: the columns of the tables as constants, and how a parameter is addressed."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.fields import CHUNK, FIELDS, OPTIONS, SCALARS, Field, Flag, Option, Scalar

PARAM_ADDRESS = tl.constexpr(int(Field.PARAM))
ROW_VAR = tl.constexpr(int(Field.ROW_VAR))
COL_VAR = tl.constexpr(int(Field.COL_VAR))
VARIANCE = tl.constexpr(int(Field.VARIANCE))
EXP_AVG = tl.constexpr(int(Field.EXP_AVG))
RMS = tl.constexpr(int(Field.RMS))
STEP = tl.constexpr(int(Field.STEP))
LR = tl.constexpr(int(Field.LR))
LR_IS_DOUBLE = tl.constexpr(int(Field.LR_IS_DOUBLE))
FLAGS = tl.constexpr(int(Field.FLAGS))
MATRICES = tl.constexpr(int(Field.MATRICES))
BATCH_1 = tl.constexpr(int(Field.BATCH_1))
BATCH_2 = tl.constexpr(int(Field.BATCH_2))
ROWS = tl.constexpr(int(Field.ROWS))
COLUMNS = tl.constexpr(int(Field.COLUMNS))
PARAM_STRIDES = tl.constexpr(int(Field.PARAM_STRIDES))
GRAD_STRIDES = tl.constexpr(int(Field.GRAD_STRIDES))
EXP_AVG_STRIDES = tl.constexpr(int(Field.EXP_AVG_STRIDES))
ROW_TILES = tl.constexpr(int(Field.ROW_TILES))
COLUMN_TILES = tl.constexpr(int(Field.COLUMN_TILES))
FIRST_TILE = tl.constexpr(int(Field.FIRST_TILE))
ROW_SUMS = tl.constexpr(int(Field.ROW_SUMS))
COLUMN_SUMS = tl.constexpr(int(Field.COLUMN_SUMS))
MEAN_SUMS = tl.constexpr(int(Field.MEAN_SUMS))
MEAN_CHUNKS = tl.constexpr(int(Field.MEAN_CHUNKS))
GROUP = tl.constexpr(int(Field.GROUP))
INDEX = tl.constexpr(int(Field.INDEX))
SEED = tl.constexpr(int(Field.SEED))
FIELD_COUNT = tl.constexpr(FIELDS)

IS_FACTORED = tl.constexpr(int(Flag.FACTORED))
IS_ALIGNED = tl.constexpr(int(Flag.ALIGNED))
MEAN_OF_COLUMNS = tl.constexpr(int(Flag.MEAN_OF_COLUMNS))

BETA2_DECAY = tl.constexpr(int(Option.BETA2_DECAY))
ADDED = tl.constexpr(int(Option.ADDED))
MEAN_FLOOR = tl.constexpr(int(Option.MEAN_FLOOR))
CAP = tl.constexpr(int(Option.CAP))
EPS2 = tl.constexpr(int(Option.EPS2))
D = tl.constexpr(int(Option.D))
WEIGHT_DECAY = tl.constexpr(int(Option.WEIGHT_DECAY))
BETA1 = tl.constexpr(int(Option.BETA1))
SIGN = tl.constexpr(int(Option.SIGN))
SCALE_PARAMETER = tl.constexpr(int(Option.SCALE_PARAMETER))
RELATIVE_STEP = tl.constexpr(int(Option.RELATIVE_STEP))
WARMUP_INIT = tl.constexpr(int(Option.WARMUP_INIT))
DECAY_BY_ALPHA = tl.constexpr(int(Option.DECAY_BY_ALPHA))
STOCHASTIC = tl.constexpr(int(Option.STOCHASTIC))
OPTION_COUNT = tl.constexpr(OPTIONS)

SCALE = tl.constexpr(int(Scalar.SCALE))
RETAINED = tl.constexpr(int(Scalar.RETAINED))
SCALAR_STEP = tl.constexpr(int(Scalar.STEP))
SCALAR_COUNT = tl.constexpr(SCALARS)

CHUNK_SIZE = tl.constexpr(CHUNK)
SCATTERED = tl.constexpr(4)  # how much smaller blocks are where each element needs an address of its own
VECTOR = tl.constexpr(8)  # elements that strides and sizes are multiples of where 128-bit accesses are allowed


@triton.jit
def load_field(params, param, field: tl.constexpr):
    return tl.load(params + param * FIELD_COUNT + field)


@triton.jit
def load_address(params, param, field: tl.constexpr, dtype: tl.constexpr):
    return tl.load(params + param * FIELD_COUNT + field).to(tl.pointer_type(dtype))


@triton.jit
def load_option(params, param, options, option: tl.constexpr):
    return tl.load(options + load_field(params, param, GROUP) * OPTION_COUNT + option)


@triton.jit
def load_next_step(params, param):
    """T of the step that is being taken; float64."""
    return tl.load(load_address(params, param, STEP, tl.float32)).to(tl.float64) + 1.0


@triton.jit
def find_omega(params, param, options):
    """ω = t^beta2_decay, float32."""
    t = load_next_step(params, param)
    return tl.exp(load_option(params, param, options, BETA2_DECAY) * tl.log(t)).to(tl.float32)


@triton.jit
def load_unscale(grad_scale, HAS_GRAD_SCALE: tl.constexpr):
    """What gradients are multiplied with before use."""
    if HAS_GRAD_SCALE:
        return 1.0 / tl.load(grad_scale).to(tl.float32)
    else:
        return 1.0


@triton.jit
def goes_ahead(found_inf, HAS_FOUND_INF: tl.constexpr):
    if HAS_FOUND_INF:
        return tl.load(found_inf) == 0
    else:
        return True


@triton.jit
def load_extent(params, param, field: tl.constexpr, ALIGNED: tl.constexpr):
    """A size or stride, from which the compiler can tell that it is a multiple of 8.

    ``tl.multiple_of`` would not do: the compiler drops that hint where it stands on a load.
    """
    size = load_field(params, param, field)
    if ALIGNED:
        size = size // VECTOR * VECTOR
    return size


@triton.jit
def length_of_tile(size, start, most: tl.constexpr):
    """How many rows or elements of a tile there are: the last tile of a parameter, a bias's only one, has fewer.

    Aligned matrices are large and go without: it costs registers.
    """
    return tl.minimum(size - start, most).to(tl.int32)


@triton.jit
def vector_start(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a parameter starts. The hint that addresses are multiples of 16 brings 128-bit accesses."""
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    start = address.to(tl.pointer_type(dtype))
    if ALIGNED:
        start = tl.multiple_of(start, 16)
    return start


@triton.jit
def matrix_start(params, param, address, strides: tl.constexpr, matrix, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a matrix of a batch starts."""
    start = vector_start(address, dtype, ALIGNED)
    size_1 = load_field(params, param, BATCH_1)
    size_2 = load_field(params, param, BATCH_2)
    i2 = matrix % size_2
    i1 = (matrix // size_2) % size_1
    i0 = matrix // size_2 // size_1
    start += i0 * load_extent(params, param, strides, ALIGNED)
    start += i1 * load_extent(params, param, strides + 1, ALIGNED)
    return start + i2 * load_extent(params, param, strides + 2, ALIGNED)


@triton.jit
def load_row_stride(params, param, strides: tl.constexpr, ALIGNED: tl.constexpr):
    """Row stride for offsets inside a tile, which fit into 32 bits where 128-bit accesses are allowed."""
    stride = load_extent(params, param, strides + 3, ALIGNED)
    return stride.to(tl.int32) if ALIGNED else stride


@triton.jit
def load_column_stride(params, param, strides: tl.constexpr, ALIGNED: tl.constexpr):
    if ALIGNED:
        return 1
    else:
        return load_field(params, param, strides + 4)
