"""The step in compiled loops for CPUs: draft."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_adafactor import plain
from lightning_adafactor.compiled import library, table
from lightning_adafactor.entry import Entry


def unsupported_reason(tensor: Tensor) -> str | None:
    """Why the compiled step cannot work on a parameter or gradient, or None where it can.

    Args:
        tensor: The parameter or gradient.

    Returns:
        A clause such as "the parameter is on 'cuda', …", or None.
    """
    if tensor.device.type != "cpu":
        return f"the tensor is on {tensor.device.type!r}, and compiled loops are for CPUs"
    if tensor.dtype not in table.DTYPES:
        return f"the compiled step is not for {str(tensor.dtype).removeprefix('torch.')}"
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"the compiled step is for plain tensors, not for {type(tensor).__name__}"
    loaded = library.load()
    return loaded if isinstance(loaded, str) else None


def is_supported(entry: Entry) -> bool:
    """Whether the compiled step takes an entry's layout in memory: else plain torch operations do."""
    tensors = [entry.param] if entry.exp_avg is None else [entry.param, entry.exp_avg]
    state = (entry.row_var, entry.col_var, entry.variance, entry.step)
    return (
        entry.grad.dtype in table.DTYPES
        and type(entry.grad) is Tensor
        and not entry.grad.is_neg()
        and not any(0 in tensor.stride() and tensor.numel() > 1 for tensor in tensors)
        and all(tensor is None or tensor.is_contiguous() for tensor in state)
        and table.layout(entry) is not None
    )


def adafactor(entries: Iterable[Entry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
    """Takes one step for each entry, in place.

    Args:
        entries: The parameters of the step.
        grad_scale: One element that gradients are divided by before use; None for 1.
        found_inf: One element; where it is not zero, nothing changes. None for 0.
    """
    if found_inf is not None and found_inf.item() != 0:
        return
    loaded = library.load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    own: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        (own if is_supported(entry) else others).append(entry)
    if own:
        loaded.step(table.pack(own), len(own), 1.0 if grad_scale is None else 1.0 / float(grad_scale))
    if others:
        plain.adafactor(others, grad_scale=grad_scale)
