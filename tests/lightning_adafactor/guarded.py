"""Steps on tensors that begin or end at an inaccessible page: ``python -m ... PATH``.

A read or write outside of such a tensor ends the process with a segmentation fault, up to one page away.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.adafactor import Adafactor as Optimizer

PAGE = mmap.PAGESIZE


def make_inaccessible(address: int) -> None:
    """Makes a page inaccessible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, *, at_end: bool) -> Tensor:
    """A tensor of zeros whose last element ends at an inaccessible page, or whose first one begins after one."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if 0 not in shape else 0
    size = span * dtype.itemsize
    pages = -(-size // PAGE)
    mapped = mmap.mmap(-1, (pages + 2) * PAGE)
    buffer = (ctypes.c_char * len(mapped)).from_buffer(mapped)
    start = (pages + 1) * PAGE - size if at_end else PAGE
    flat = torch.frombuffer(mapped, dtype=torch.uint8)[start : start + size].view(dtype)
    make_inaccessible(ctypes.addressof(buffer))
    make_inaccessible(ctypes.addressof(buffer) + (pages + 1) * PAGE)
    return flat.as_strided(shape, strides)


def layouts(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Strides: contiguous, rows apart, columns apart, and transposed."""
    contiguous = torch.empty(shape, device="meta").stride()
    yield contiguous
    if len(shape) > 1:
        yield (*(stride + shape[-2] * 3 for stride in contiguous[:-2]), contiguous[-2] + 3, 1)
        yield tuple(2 * stride for stride in contiguous)
        yield (*contiguous[:-2], 1, shape[-2])


SHAPES: dict[str, list[tuple[int, ...]]] = {
    "compiled": [
        *((rows, columns) for rows in (1, 3, 5, 67) for columns in (1, 7, 8, 15, 17, 31, 127, 513)),
        *((size,) for size in (1, 7, 8, 15, 17, 511, 513, 70_001)),
        (),
        (3, 5, 7),
        (300, 3, 3),
        (301, 257),
        (2, 203, 191),
        (3, 17_003),
        (2_003, 33),
    ],
    "fused": [(1, 1), (3, 7), (17, 33), (5,), (65,), (), (2, 3, 5)],
}
DTYPES: dict[str, list[torch.dtype]] = {
    "compiled": [torch.float32, torch.float64, torch.bfloat16, torch.float16],
    "fused": [torch.float32, torch.bfloat16],
}


def place(optimizer: Optimizer, param: nn.Parameter, *, at_end: bool) -> None:
    """Moves a parameter's state to guarded memory."""
    for key, value in optimizer.state[param].items():
        dense = torch.empty(value.shape, device="meta").stride() if key != "exp_avg" else value.stride()
        optimizer.state[param][key] = guarded(value.shape, dense, value.dtype, at_end=at_end).copy_(value)


def step_over(path: str, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, at_end: bool) -> None:
    """Takes steps of both dialects, with momentum and without."""
    for make, options in (
        (Adafactor, {}),
        (TransformersAdafactor, {"beta1": 0.9, "weight_decay": 0.1, "stochastic_rounding": True}),
    ):
        param = nn.Parameter(guarded(shape, strides, dtype, at_end=at_end).normal_())
        param.grad = guarded(shape, strides, dtype, at_end=at_end).normal_()
        optimizer = make([param], **{path: True}, **options)
        optimizer.step()
        place(optimizer, param, at_end=at_end)
        optimizer.step()
        assert param.isfinite().all()


def main(path: str) -> None:
    """Takes steps over tensors of every shape, layout and dtype, at either end of their memory."""
    count = 0
    cases = itertools.product(SHAPES[path], DTYPES[path], (False, True))
    for number, (shape, dtype, at_end) in enumerate(cases):
        for strides in layouts(shape):
            step_over(path, shape, strides, dtype, at_end)
            count += 1
        if number % 32 == 0:
            gc.collect()  # a process has a limited number of mappings; those of tensors that are gone are given back
    print(f"{count} cases")


if __name__ == "__main__":
    if sys.argv[1] == "touch":  # to see that the guard is one
        tensor = guarded((5,), (1,), torch.float32, at_end=True)
        ctypes.memset(tensor.data_ptr() + 20, 0, 1)
    else:
        main(sys.argv[1])
