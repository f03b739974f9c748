"""What every kernel reads: the columns of the tables as constants, and the loads of them."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.fields import (
    CHUNK,
    FIELDS,
    OPTIONS,
    SCALARS,
    Field,
    Flag,
    Option,
    Region,
    Scalar,
    ShardField,
)

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
MEAN_SIZE = tl.constexpr(int(Field.MEAN_SIZE))
SHARD = tl.constexpr(int(Field.SHARD))
FIELD_COUNT = tl.constexpr(FIELDS)

NUMEL = tl.constexpr(int(ShardField.NUMEL))
WHOLE_ROWS = tl.constexpr(int(ShardField.WHOLE_ROWS))
WHOLE_COLUMNS = tl.constexpr(int(ShardField.WHOLE_COLUMNS))
ROW_SLOTS = tl.constexpr(int(ShardField.ROW_SLOTS))
COLUMN_SLOTS = tl.constexpr(int(ShardField.COLUMN_SLOTS))
MEAN_SLOTS = tl.constexpr(int(ShardField.MEAN_SLOTS))
PARAM_SLOT = tl.constexpr(int(ShardField.PARAM_SLOT))
UPDATE_SLOT = tl.constexpr(int(ShardField.UPDATE_SLOT))
HOLDS_FACTOR = tl.constexpr(int(ShardField.HOLDS_FACTOR))
FIRST_ROW = tl.constexpr(int(ShardField.FIRST_ROW))
FIRST_COLUMN = tl.constexpr(int(ShardField.FIRST_COLUMN))
ROWS_BETWEEN = tl.constexpr(int(ShardField.ROWS_BETWEEN))

IS_FACTORED = tl.constexpr(int(Flag.FACTORED))
IS_ALIGNED = tl.constexpr(int(Flag.ALIGNED))
MEAN_OF_COLUMNS = tl.constexpr(int(Flag.MEAN_OF_COLUMNS))

REGION_WHOLE = tl.constexpr(int(Region.WHOLE))
REGION_ANY = tl.constexpr(int(Region.ANY))

BETA2_DECAY = tl.constexpr(int(Option.BETA2_DECAY))
ADDED_TO_SQUARES = tl.constexpr(int(Option.ADDED_TO_SQUARES))
MEAN_FLOOR = tl.constexpr(int(Option.MEAN_FLOOR))
RSQRT_CAP = tl.constexpr(int(Option.RSQRT_CAP))
EPS2 = tl.constexpr(int(Option.EPS2))
D = tl.constexpr(int(Option.D))
WEIGHT_DECAY = tl.constexpr(int(Option.WEIGHT_DECAY))
BETA1 = tl.constexpr(int(Option.BETA1))
SIGN = tl.constexpr(int(Option.SIGN))
SCALE_PARAMETER = tl.constexpr(int(Option.SCALE_PARAMETER))
RELATIVE_STEP = tl.constexpr(int(Option.RELATIVE_STEP))
WARMUP_INIT = tl.constexpr(int(Option.WARMUP_INIT))
DECAY_BY_ALPHA = tl.constexpr(int(Option.DECAY_BY_ALPHA))
STOCHASTIC_ROUNDING = tl.constexpr(int(Option.STOCHASTIC_ROUNDING))
OPTION_COUNT = tl.constexpr(OPTIONS)

UPDATE_SCALE = tl.constexpr(int(Scalar.UPDATE_SCALE))
DECAY_FACTOR = tl.constexpr(int(Scalar.DECAY_FACTOR))
SCALAR_STEP = tl.constexpr(int(Scalar.STEP))
SCALAR_COUNT = tl.constexpr(SCALARS)

CHUNK_SIZE = tl.constexpr(CHUNK)
SPAN = tl.constexpr(1024)  # numbers that are loaded at once where a whole column of partial sums is added


@triton.jit
def load_field(param_table, param, field: tl.constexpr):
    return tl.load(param_table + param * FIELD_COUNT + field)


@triton.jit
def load_address(param_table, param, field: tl.constexpr, dtype: tl.constexpr):
    return tl.load(param_table + param * FIELD_COUNT + field).to(tl.pointer_type(dtype))


@triton.jit
def load_shard_field(param_table, param, field: tl.constexpr):
    """A field of a parameter's row of the table of shards."""
    return tl.load(load_address(param_table, param, SHARD, tl.int64) + field)


@triton.jit
def load_option(param_table, param, option_table, option: tl.constexpr):
    return tl.load(option_table + load_field(param_table, param, GROUP) * OPTION_COUNT + option)


@triton.jit
def load_unscale(grad_scale, HAS_GRAD_SCALE: tl.constexpr):
    """What gradients are multiplied by before use."""
    if HAS_GRAD_SCALE:
        return 1.0 / tl.load(grad_scale).to(tl.float32)
    else:
        return 1.0


@triton.jit
def should_step(found_inf, HAS_FOUND_INF: tl.constexpr):
    """Whether the step is to be taken: not if a gradient scaler found an infinity or NaN."""
    if HAS_FOUND_INF:
        return tl.load(found_inf) == 0
    else:
        return True
