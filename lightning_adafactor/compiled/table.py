"""Entries as the compiled step reads them: one row of numbers and addresses for each, see ``source/entry.h``."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.rule import Rule, state_dtype

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The dtypes of parameters and gradients, as ``entry.h`` numbers them."""

MOST_BATCH_DIMS = 3
"""Dimensions before the last two that remain where neighbours are seen as one."""

ROW = struct.Struct("=34q2Q12d")

_FACTORED, _MEAN_OF_COLUMNS, _SCALE_PARAMETER, _RELATIVE_STEP, _WARMUP_INIT, _DECAY_BY_ALPHA, _STOCHASTIC, _MAXIMIZE = (
    1 << bit for bit in range(8)
)
_NO_OPERAND = (0,) * 7
_MASK = 2**64 - 1


def layout(entry: Entry) -> tuple[tuple[int, ...], list[tuple[int, ...]]] | None:
    """Reduces an entry's dimensions to a batch of matrices.

    Args:
        entry: The entry.

    Returns:
        Sizes (three of the batch, rows, columns), and for parameter, gradient and average of updates the strides of
        these; or None where more than three batch dimensions remain.
    """
    tensors = [entry.param, entry.grad] if entry.exp_avg is None else [entry.param, entry.grad, entry.exp_avg]
    shape = entry.param.shape
    dims = len(shape)
    if dims == 2:
        return (1, 1, 1, *shape), [(0, 0, 0, *tensor.stride()) for tensor in tensors]
    if dims < 2:
        return (1, 1, 1, 1, shape.numel()), [(0, 0, 0, 0, *(tensor.stride() or (1,))) for tensor in tensors]
    strides = [tensor.stride() for tensor in tensors]
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in tensors]
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
    """What is packed of a group's rule for parameters of one dtype.

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


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def pack(entries: Sequence[Entry]) -> bytearray:
    """Writes entries into a table.

    Args:
        entries: Entries whose ``unsupported_reason`` is None.

    Returns:
        A row for each.
    """
    table = bytearray(ROW.size * len(entries))
    known: dict[tuple[int, torch.dtype], Options] = {}
    offset = 0
    for entry in entries:
        param, grad, exp_avg = entry.param, entry.grad, entry.exp_avg
        key = (id(entry.rule), param.dtype)
        options = known.get(key)
        if options is None:
            options = known[key] = Options(entry.rule, param)
        reduced = layout(entry)
        assert reduced is not None
        sizes, strides = reduced
        arithmetic = DTYPES[state_dtype(param)]
        flags = options.flags
        if entry.row_var is not None:
            flags |= _FACTORED
        if entry.transposed:
            flags |= _MEAN_OF_COLUMNS
        average = _NO_OPERAND if exp_avg is None else (exp_avg.data_ptr(), *strides[2], arithmetic)
        ROW.pack_into(
            table,
            offset,
            param.data_ptr(),
            *strides[0],
            DTYPES[param.dtype],
            grad.data_ptr(),
            *strides[1],
            DTYPES[grad.dtype],
            *average,
            _address(entry.row_var),
            _address(entry.col_var),
            _address(entry.variance),
            _address(entry.rms),
            entry.step.data_ptr(),
            DTYPES[entry.step.dtype],
            *sizes,
            arithmetic,
            flags,
            options.seed,
            entry.index,
            *options.numbers,
        )
        offset += ROW.size
    return table
