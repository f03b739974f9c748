"""The step in compiled loops, for CPUs: ``plain.adafactor``'s three passes, one call for all parameters of a step.

**What moves.** Each pass reads a gradient G once; the first one also reads the parameter P where RMS(p) is asked for,
the third one reads and writes it. From DRAM every time that is 6 accesses per element (24 bytes in float32, 12 in
bfloat16), 5 with ``scale_parameter=False``, where torch's fused AdamW has 7. But a matrix of up to some ten MB is still
in the last-level cache when its second and third pass come, for they follow at once: the floor is 3 accesses (G and P
read, P written), 12 bytes. One matrix after the other, therefore, its rows shared among the threads; the second pass
runs backwards, to begin where the first one ended. A row whose gradient is zero (most of an embedding's) has an update
of zero, and the later passes leave it alone. What was reached is in the README and under ``benchmarks/results/``.

**Which threads.** Plain C, called through ``ctypes``, that links to nothing but the C library, and asks torch for its
threads by address: ``torch_parallel_for``, which is ``torch::stable::parallel_for`` in C, or in torch 2.8 and 2.9,
which lack it, ``GOMP_parallel`` of the very OpenMP runtime that torch has loaded. So one library serves every version
of torch from 2.8 on, threads are torch's own (``torch.set_num_threads``), and no headers of torch, C++ or OpenMP are
needed to build it: a few seconds with any C compiler. (The stable ABI's C++ headers need torch 2.10 for threads; a
library linked with ``-fopenmp`` finds torch's threads only where torch ships their runtime as libgomp.so.1.)

**One parallel region a step.** Threads claim items of work in their order and wait only where an item needs another's
result (``source/schedule.c``). What an item is follows from the shapes alone, and partial sums are added in the order
of the items: the same bits on each run, whatever the number of threads. Sums run in a fixed number of lanes, without
fused multiply-add: the same bits from AVX-512, AVX2, NEON and the baseline too. Random bits are those of
``rounding.py``.

Any strides of up to three batch dimensions are worked on; what is not (``unsupported_layout``) goes to ``plain``, entry
by entry. Scratch memory is below 1 MiB, whatever the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_adafactor import plain
from lightning_adafactor.compiled import library, table
from lightning_adafactor.compiled.table import unsupported_layout
from lightning_adafactor.entry import Entry

__all__ = ["adafactor", "unsupported_layout", "unsupported_reason"]


def unsupported_reason(tensor: Tensor) -> str | None:
    """Why the compiled step cannot work on a parameter, or None where it can.

    Args:
        tensor: The parameter.

    Returns:
        A clause such as "it is for tensors on the CPU, not on 'cuda'", or None.
    """
    reason = _unsupported_kind(tensor.device.type, tensor.dtype, type(tensor))
    if reason is None:
        loaded = library.load()
        return loaded if isinstance(loaded, str) else None
    return reason


@functools.cache  # asked for each parameter in each step
def _unsupported_kind(device: str, dtype: torch.dtype, kind: type) -> str | None:
    if device != "cpu":
        return f"it is for tensors on the CPU, not on {device!r}"
    if dtype not in table.DTYPES:
        return f"it is for float64, float32, bfloat16 and float16, not for {str(dtype).removeprefix('torch.')}"
    if kind not in (Tensor, nn.Parameter):
        return f"it is for plain tensors, not for {kind.__name__}"
    return None


def adafactor(entries: Iterable[Entry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
    """Takes one step for each entry, in place.

    Args:
        entries: The parameters of the step, each of a kind that ``unsupported_reason`` has nothing against.
        grad_scale: One element that gradients are divided by before use; None for 1.
        found_inf: One element; where it is not zero, nothing changes. None for 0.

    Raises:
        RuntimeError: The library has not been built.
    """
    if found_inf is not None and found_inf.item() != 0:
        return
    loaded = library.load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    rows, count, others = table.pack(entries)
    if count:
        loaded.step(rows, count, 1.0 if grad_scale is None else 1.0 / float(grad_scale))
    if others:
        plain.adafactor(others, grad_scale=grad_scale)
