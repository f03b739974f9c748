"""The step as batched Triton launches. Triton is imported only when a step is to be taken with it."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from lightning_adafactor.fused.fields import MAX_DIMS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""dtypes of the parameters and gradients that the kernels are for."""


def why_not(tensor: Tensor) -> str | None:
    """Why the kernels cannot work on a parameter or gradient, or None where they can.

    Args:
        tensor: The parameter or gradient.

    Returns:
        The rest of a sentence that begins with "fused=True cannot be had: ", or None.
    """
    return _why_not(tensor.dtype, tensor.dim(), tensor.device.type)


@functools.cache  # asked for each parameter in each step
def _why_not(dtype: torch.dtype, dims: int, device: str) -> str | None:
    if dtype not in DTYPES:
        return f"the kernels are for float32, bfloat16 and float16, not for {str(dtype).removeprefix('torch.')}"
    if dims > MAX_DIMS:
        return f"the kernels are for up to {MAX_DIMS} dimensions, not for {dims}"
    if not _triton_is_installed():
        return "Triton is not installed (torch's CUDA builds for Linux bring it; otherwise pip install triton)"
    if device == "cuda" or (device == "cpu" and _kernels_are_interpreted()):
        return None
    return (
        f"the parameters are on {device!r}, and the kernels need a CUDA device "
        "(TRITON_INTERPRET=1, set before Python starts, runs them slowly on a CPU, for tests)"
    )


@functools.cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _kernels_are_interpreted() -> bool:
    """Whether Triton was told to interpret kernels; decided once, when they are imported."""
    from triton import JITFunction

    from lightning_adafactor.fused import kernels

    return not isinstance(kernels.sum_squares, JITFunction)
