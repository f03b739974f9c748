"""The columns of the work tables, for the host that writes them and the kernels that read them.

This module does not import Triton, so that the tables can be built and tested without it.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

MAX_DIMS = 5
"""The most dimensions that a parameter may have: the table has strides for no more."""

CHUNK = 256
"""Rows or columns that one program processes where it updates R or C."""


class Flag(IntFlag):
    """What kind of parameter a row of the table describes."""

    FACTORED = 1
    """R and C are kept; else V."""
    ALIGNED = 2
    """128-bit accesses are allowed: rows are shorter than 2²³ and start at 16 bytes, columns are adjacent."""
    MEAN_OF_COLUMNS = 4
    """mean(R) is the mean of ``col_var``, because the parameter is transposed in memory."""


class Field(IntEnum):
    """int64 columns that describe a parameter. Strides and offsets count elements."""

    PARAM = 0  # address of p
    ROW_VAR = 1  # address of R, float32 (matrices, rows)
    COL_VAR = 2  # address of C, float32 (matrices, columns)
    VARIANCE = 3  # address of V, float32 (columns,)
    EXP_AVG = 4  # address of the average of updates, float32, or 0
    RMS = 5  # address of one float32, where RMS(p) is recorded, or 0
    STEP = 6  # address of t, float32
    LR = 7  # address of lr
    LR_IS_DOUBLE = 8  # lr is float64, else float32
    FLAGS = 9  # see Flag
    MATRICES = 10  # number of matrices, 1 for a vector
    BATCH_1 = 11  # a matrix number is ((i0 · BATCH_1) + i1) · BATCH_2 + i2
    BATCH_2 = 12
    ROWS = 13  # n, 1 for a vector
    COLUMNS = 14  # m
    PARAM_STRIDES = 15  # of i0, i1, i2, row, column
    GRAD_STRIDES = 20  # likewise
    EXP_AVG_STRIDES = 25  # likewise
    ROW_TILES = 30  # tiles in a column of tiles of one matrix
    COLUMN_TILES = 31  # tiles in a row of tiles
    FIRST_TILE = 32  # number of the parameter's first tile in the bucket
    ROW_SUMS = 33  # offset in the workspace: partial row sums of G², (column tiles, matrices, rows)
    COLUMN_SUMS = 34  # offset: partial column sums, (row tiles, matrices, columns)
    MEAN_SUMS = 35  # offset: partial sums of R for mean(R), (matrices, chunks)
    MEAN_CHUNKS = 36  # number of these chunks
    GROUP = 37  # row of the options table
    INDEX = 38  # position in the optimizer, for the random bits
    SEED = 39  # key of the random bits
    MEAN_SIZE = 40  # rows of the whole parameter, which mean(R) is the mean over (see MEAN_OF_COLUMNS)
    SHARD = 41  # address of the parameter's row of the table of shards, or 0


FIELDS = 42
"""Columns of the table of parameters."""


class ShardField(IntEnum):
    """int64 columns that describe a shard. Places are those in the buffers that processes exchange (see ``Shard``)."""

    NUMEL = 0  # elements of the whole parameter
    WHOLE_ROWS = 1  # n of the whole parameter
    WHOLE_COLUMNS = 2  # m of the whole parameter
    ROW_SLOTS = 3  # place of ΣG² over columns, (matrices, rows)
    COLUMN_SLOTS = 4  # place of ΣG² over rows, (matrices, columns)
    MEAN_SLOTS = 5  # place of ΣR, (matrices,), or -1
    PARAM_SLOT = 6  # place of Σp²; anything without ``scale_parameter``
    UPDATE_SLOT = 7  # place of ΣU² in the second buffer
    HOLDS_FACTOR = 8  # whether this process adds the old R to ΣR
    FIRST_ROW = 9  # the number of its first row among all rows of the whole parameter, matrix after matrix
    FIRST_COLUMN = 10  # the number of its first column
    ROWS_BETWEEN = 11  # how many rows of the whole parameter lie between neighbors in i0, i1, i2


SHARD_FIELDS = 14
"""Columns of the table of shards."""


class Region(IntEnum):
    """Where the elements of a bucket lie in their parameters, which their random bits depend on."""

    WHOLE = 0
    """The parameters are whole."""
    ALIGNED = 1
    """They are shards whose first columns are multiples of 8: a Philox block serves the same neighbors."""
    ANY = 2
    """They are any shards."""


class Option(IntEnum):
    """float64 columns that describe a parameter group; floors are those of the bucket's dtype (see ``rule.Rule``)."""

    LR = 0
    BETA2_DECAY = 1
    ADDED_TO_SQUARES = 2  # ε₁ or 0
    MEAN_FLOOR = 3  # smallest mean(R)
    RSQRT_CAP = 4  # largest V̂^-½: variance_floor^-½
    EPS2 = 5
    D = 6
    WEIGHT_DECAY = 7
    BETA1 = 8
    SIGN = 9  # -1 to maximize
    SCALE_PARAMETER = 10
    RELATIVE_STEP = 11
    WARMUP_INIT = 12
    DECAY_BY_ALPHA = 13  # weight decay is multiplied by α, else by lr
    STOCHASTIC_ROUNDING = 14


OPTIONS = 15
"""Columns of the table of options."""


class Scalar(IntEnum):
    """float32 columns of a parameter's scalars that the last pass reads (see ``rule.Rule``)."""

    UPDATE_SCALE = 0  # ±α/clip
    DECAY_FACTOR = 1  # of weight decay: 1 - lr·λ or 1 - α·λ
    STEP = 2  # t, for the random bits


SCALARS = 4
"""Columns of the table of scalars."""
