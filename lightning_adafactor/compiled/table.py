"""Packs entries for the compiled step: one row of numbers and addresses for each, see ``source/entry.h``."""

from __future__ import annotations

import dataclasses
import functools
import math
import struct
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.rule import Rule, state_dtype
from lightning_adafactor.shard import Shard

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The dtypes of parameters and gradients, and their numbers in ``entry.h``."""

MOST_BATCH_DIMS = 3
"""The most dimensions before the last two, after adjacent ones are merged."""

ROW = struct.Struct("=34q2Q12d13qd")

_FACTORED, _MEAN_OF_COLUMNS, _SCALE_PARAMETER, _RELATIVE_STEP, _WARMUP_INIT, _DECAY_BY_ALPHA, _STOCHASTIC, _MAXIMIZE = (
    1 << bit for bit in range(8)
)
_HOLDS_FACTOR = 256
_NO_SUMS = (0,) * 6
_NO_OPERAND = (0,) * 7
_MASK = 2**64 - 1


def layout(
    shape: Sequence[int], strides: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]] | None:
    """Reduces dimensions to a batch of matrices.

    Args:
        shape: Sizes of some tensors.
        strides: Strides of each.

    Returns:
        Sizes (three of the batch, rows, columns) and each tensor's strides of these; or None where more than three
        batch dimensions remain.
    """
    dims = len(shape)
    if dims == 2:
        return (1, 1, 1, *shape), [(0, 0, 0, *own) for own in strides]
    if dims < 2:
        return (1, 1, 1, 1, *(shape or (1,))), [(0, 0, 0, 0, *(own or (1,))) for own in strides]
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for dim, size in enumerate(shape[:-2]):
        if size == 1:
            continue
        if sizes and all(kept[-1] == size * own[dim] for kept, own in zip(merged, strides, strict=True)):
            sizes[-1] *= size
            for kept, own in zip(merged, strides, strict=True):
                kept[-1] = own[dim]
        else:
            sizes.append(size)
            for kept, own in zip(merged, strides, strict=True):
                kept.append(own[dim])
    missing = MOST_BATCH_DIMS - len(sizes)
    if missing < 0:
        return None
    complete = [(*[0] * missing, *kept, *own[-2:]) for kept, own in zip(merged, strides, strict=True)]
    return (*[1] * missing, *sizes, *shape[-2:]), complete


class Options:
    """The part of a row that follows from a group's rule and the dtype of its parameters.

    Args:
        rule: The rule.
        param: One of its parameters.
    """

    def __init__(self, rule: Rule, param: Tensor) -> None:
        tiny = torch.finfo(state_dtype(param)).tiny
        floor = max(rule.variance_floor(param), tiny) if rule.dialect == "torch" else 0.0
        flags = (
            (_SCALE_PARAMETER, rule.scale_parameter),
            (_RELATIVE_STEP, rule.relative_step),
            (_WARMUP_INIT, rule.warmup_init),
            (_DECAY_BY_ALPHA, rule.dialect == "transformers"),
            (_STOCHASTIC, rule.rounds_stochastically(param)),
            (_MAXIMIZE, rule.maximize),
        )
        self.flags = sum(flag for flag, is_set in flags if is_set)
        self.seed = rule.seed & _MASK
        self.arithmetic = DTYPES[state_dtype(param)]
        self.numbers = (
            float(rule.lr),
            rule.beta2_decay,
            rule.eps2,
            rule.d,
            rule.weight_decay,
            rule.beta1 or 0.0,
            rule.added_to_squares(param),
            max(rule.mean_floor(param), tiny),
            floor,
            0.0,
            0.0,
            0.0,
        )


@functools.lru_cache(maxsize=4096)  # called for each parameter in each step
def _operands(
    shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], *strides: tuple[int, ...]
) -> tuple[list[tuple[int, ...]], tuple[int, ...], tuple[int, ...]] | None:
    """Strides and dtypes of tensors as a row holds them, and sizes; None where their layout is not supported.

    Strides without a dtype are those of a numbering of rows (``Region.rows_between``), returned last: three.
    """
    reduced = layout(shape, strides)
    if reduced is None:
        return None
    sizes, complete = reduced
    operands = [(*own, DTYPES[dtype]) for own, dtype in zip(complete, dtypes, strict=False)]
    between = complete[len(dtypes)][:MOST_BATCH_DIMS] if len(complete) > len(dtypes) else (0,) * MOST_BATCH_DIMS
    return operands, sizes, between


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """Where the sums of shards lie.

    Attributes:
        shards: The shards, one for each entry.
        squares: The first buffer of sums, float32 or float64.
        updates: The second one.
    """

    shards: Sequence[Shard]
    squares: Tensor
    updates: Tensor

    def row_of(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """The addresses of a shard's sums and their dtype, the whole parameter's shape, and flags."""
        shard, squares, updates = self.shards[number], self.squares, self.updates
        start, size = squares.data_ptr(), squares.itemsize
        places = (shard.row_sums, shard.column_sums, shard.mean_sums, shard.parameter_sum)
        addresses = (0 if place is None else start + place * size for place in places)
        update = updates.data_ptr() + shard.update_sum * size
        flags = _HOLDS_FACTOR if shard.holds_factor else 0
        return (*addresses, update, DTYPES[squares.dtype]), shard.shape, flags


def pack(entries: Iterable[Entry], exchange: Exchange | None = None) -> tuple[bytearray, int, list[int]]:
    """Writes entries into a table.

    Args:
        entries: The entries, of parameters that the compiled step supports.
        exchange: The shards that the entries are of; None for whole parameters.

    Returns:
        The table, its number of rows, and the numbers of the entries left out because their layout in memory is not
        supported.
    """
    entries = list(entries)
    table = bytearray(ROW.size * len(entries))
    others: list[int] = []
    known: dict[tuple[int, torch.dtype], Options] = {}
    count = 0
    for number, entry in enumerate(entries):
        param, grad, exp_avg, row_var, col_var = entry.param, entry.grad, entry.exp_avg, entry.row_var, entry.col_var
        dtype = param.dtype
        options = known.get((id(entry.rule), dtype))
        if options is None:
            options = known[id(entry.rule), dtype] = Options(entry.rule, param)
        variance, rms, flags = 0, 0, options.flags
        if row_var is None or col_var is None:
            assert entry.variance is not None
            rows, columns, variance = 0, 0, entry.variance.data_ptr()
            contiguous = entry.variance.is_contiguous()
        else:
            rows, columns = row_var.data_ptr(), col_var.data_ptr()
            contiguous = row_var.is_contiguous() and col_var.is_contiguous()
            flags |= _FACTORED | _MEAN_OF_COLUMNS if entry.transposed else _FACTORED
        if entry.rms is not None:
            rms = entry.rms.data_ptr()
        if not contiguous or unsupported_layout(param, grad, exp_avg) is not None:
            others.append(number)
            continue
        strides = [param.stride(), grad.stride()]
        dtypes = [dtype, grad.dtype]
        if exp_avg is not None:
            strides.append(exp_avg.stride())
            dtypes.append(exp_avg.dtype)
        region = entry.region
        if region is not None:
            strides.append(region.rows_between)
        found = _operands(param.shape, tuple(dtypes), *strides)
        if found is None:  # only where shards of a batch are numbered
            others.append(number)
            continue
        operands, sizes, between = found
        average = _NO_OPERAND if exp_avg is None else (exp_avg.data_ptr(), *operands[2])
        sums: tuple[int, ...] = _NO_SUMS
        whole = sizes
        if exchange is not None:
            sums, whole, more_flags = exchange.row_of(number)
            flags |= more_flags
        ROW.pack_into(
            table,
            count * ROW.size,
            param.data_ptr(),
            *operands[0],
            grad.data_ptr(),
            *operands[1],
            *average,
            rows,
            columns,
            variance,
            rms,
            entry.step.data_ptr(),
            DTYPES[entry.step.dtype],
            *sizes,
            options.arithmetic,
            flags,
            options.seed,
            entry.index,
            *options.numbers,
            *sums,
            *(whole[-2:] if len(whole) > 1 else (1, *whole)),
            *((0, 0) if region is None else (region.first_row, region.first_column)),
            *between,
            float(math.prod(whole)),
        )
        count += 1
    return table, count, others


def unsupported_layout(param: Tensor, grad: Tensor | None = None, exp_avg: Tensor | None = None) -> str | None:
    """Why the compiled step does not support a parameter's layout in memory, or None where it does.

    Args:
        param: A parameter that the compiled step supports otherwise.
        grad: Its gradient, if there is one.
        exp_avg: Its average of updates, if there is one.
    """
    if grad is not None and (type(grad) is not Tensor or grad.dtype not in DTYPES):
        return f"the gradient is a {type(grad).__name__} of {str(grad.dtype).removeprefix('torch.')}"
    strides = [tensor.stride() for tensor in (param, exp_avg, grad) if tensor is not None]
    return _unsupported_strides(param.shape, 1 if exp_avg is None else 2, *strides)


@functools.lru_cache(maxsize=4096)  # called for each parameter in each step
def _unsupported_strides(shape: tuple[int, ...], written: int, *strides: tuple[int, ...]) -> str | None:
    """Checks strides; the first ``written`` ones are those of tensors that are written to."""
    for own in strides[:written]:
        if any(stride == 0 and size > 1 for stride, size in zip(own, shape, strict=True)):
            return "several elements of the parameter share memory"
    if layout(shape, strides) is None:
        return f"the dimensions before the last two cannot be merged into {MOST_BATCH_DIMS} or fewer"
    return None
