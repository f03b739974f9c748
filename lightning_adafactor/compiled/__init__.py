"""The step in compiled loops, for CPUs: ``plain.adafactor``'s three passes, one call for all parameters of a step.

**Memory traffic.** Each pass reads a gradient G once; the first one also reads the parameter P where RMS(p) is needed,
the third one reads and writes it. If all of this comes from DRAM, it is 6 accesses per element (24 bytes in float32, 12
in bfloat16), 5 with ``scale_parameter=False``; torch's fused AdamW has 7. But a matrix of up to about ten MB is still
in the last-level cache in its second and third pass, which follow at once: the lower bound is 3 accesses (G and P read,
P written), 12 bytes. Matrices are therefore processed one after the other, the rows of each shared among the threads;
the second pass runs backwards, to begin where the first one ended. A row whose gradient is zero (most rows of an
embedding) has an update of zero, and the later passes skip it. Measurements are in the README and under
``benchmarks/results/``.

**Threads.** The library is plain C, called through ``ctypes``, links only to the C library, and gets torch's threads by
address: ``torch_parallel_for``, which is ``torch::stable::parallel_for`` in C, or, in torch 2.8 and 2.9, which lack it,
``GOMP_parallel`` of the OpenMP runtime that torch has loaded. So one library works with every version of torch from 2.8
on, its threads are torch's own (``torch.set_num_threads``), and building it takes a few seconds with any C compiler and
no headers of torch, C++ or OpenMP. (The stable ABI's C++ headers need torch 2.10 for threads; a library linked with
``-fopenmp`` finds torch's threads only where torch ships their runtime as libgomp.so.1.)

**One parallel region per step.** Threads claim work items in order and wait only where an item needs the result of
another (``source/schedule.c``). The items depend only on the shapes, and partial sums are added in the order of the
items: the same bits on each run, for any number of threads. Sums run in a fixed number of lanes, without fused
multiply-add: the same bits with AVX-512, AVX2, NEON and the baseline too. Random bits are those of ``rounding.py``.

Any strides of up to three batch dimensions are supported; entries with other layouts (``unsupported_layout``) are
passed on to ``plain``. Scratch memory is below 1 MiB for any model.
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

_SUPPORTED = "float64, float32, bfloat16 and float16"


def unsupported_reason(tensor: Tensor) -> str | None:
    """Why the compiled step does not support a parameter, or None where it does.

    Args:
        tensor: The parameter.

    Returns:
        The rest of a sentence that begins with "compiled=True is not supported: ", or None.
    """
    if tensor.is_neg():
        return "the parameter is a view whose memory holds the opposite sign"
    reason = _unsupported_kind(tensor.device.type, tensor.dtype, type(tensor))
    if reason is None:
        loaded = library.load()
        return loaded if isinstance(loaded, str) else None
    return reason


@functools.cache  # called for each parameter in each step
def _unsupported_kind(device: str, dtype: torch.dtype, kind: type) -> str | None:
    if device != "cpu":
        return f"the compiled step supports tensors on the CPU, not on {device!r}"
    if dtype not in table.DTYPES:
        return f"the compiled step supports {_SUPPORTED}, not {str(dtype).removeprefix('torch.')}"
    if kind not in (Tensor, nn.Parameter):
        return f"the compiled step supports plain tensors, not {kind.__name__}"
    return None


def adafactor(entries: Iterable[Entry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
    """Takes one step for each entry, in place.

    Args:
        entries: The parameters of the step, for each of which ``unsupported_reason`` is None.
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
    entries = list(entries)
    rows, count, others = table.pack(entries)
    if count:
        loaded.step(rows, count, 1.0 if grad_scale is None else 1.0 / float(grad_scale))
    if others:
        plain.adafactor((entries[number] for number in others), grad_scale=grad_scale)
