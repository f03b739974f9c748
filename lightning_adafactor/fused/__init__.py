"""The step as batched Triton launches. Triton is imported only when a step uses it."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import warnings

import torch
from torch import Tensor

from lightning_adafactor.fused.fields import MAX_DIMS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""dtypes of parameters and gradients that the kernels support."""


def unsupported_reason(tensor: Tensor) -> str | None:
    """Why the kernels do not support a parameter, or None where they do.

    Args:
        tensor: The parameter.

    Returns:
        The rest of a sentence that begins with "fused=True is not supported: ", or None.
    """
    if tensor.is_neg():
        return "the parameter is a view whose memory holds the opposite sign"
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        return "several elements of the parameter share memory"
    return _unsupported_reason(tensor.dtype, tensor.dim(), tensor.device.type, type(tensor))


def unsupported_gradient(grad: Tensor) -> str | None:
    """Why the kernels do not support a gradient of a parameter that they support, or None where they do.

    Args:
        grad: The gradient.

    Returns:
        The rest of a sentence that begins with "fused=True is not supported: ", or None.
    """
    return _unsupported_gradient(grad.dtype, type(grad))


@functools.cache
def _unsupported_gradient(dtype: torch.dtype, kind: type) -> str | None:
    if dtype in DTYPES and _has_memory(kind):
        return None
    return f"a gradient is a {kind.__name__} of {str(dtype).removeprefix('torch.')}"


def _has_memory(kind: type) -> bool:
    """Whether tensors of a class have their elements in memory of their own, unlike wrappers of other tensors."""
    return getattr(kind, "__torch_dispatch__", None) is getattr(Tensor, "__torch_dispatch__", None)


@functools.cache  # called for each parameter in each step
def _unsupported_reason(dtype: torch.dtype, dims: int, device: str, kind: type) -> str | None:
    if not _has_memory(kind):
        return f"the kernels support plain tensors, not {kind.__name__}"
    if dtype not in DTYPES:
        return f"the kernels support float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if dims > MAX_DIMS:
        return f"the kernels support up to {MAX_DIMS} dimensions, not {dims}"
    if not _triton_is_installed():
        return "Triton is not installed (it comes with torch's CUDA builds for Linux; otherwise: pip install triton)"
    if device == "cuda":
        return _launcher_problem()
    if device == "cpu" and _kernels_are_interpreted():
        return None
    return (
        f"the parameters are on {device!r}, and the kernels need a CUDA device "
        "(TRITON_INTERPRET=1, set before Python starts, runs them slowly on a CPU, for tests)"
    )


@functools.cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _launcher_problem() -> str | None:
    """Why Triton cannot launch kernels on this machine's GPUs, or None where it can or where there are none.

    Triton compiles what launches them when it is first used, with a C compiler, which images for inference often lack.
    """
    if not torch.cuda.is_available():
        return None
    from triton.runtime import driver

    try:
        _ = driver.active.utils  # ``active`` alone is a proxy in some versions
    except (RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError) as error:
        reason = (
            f"Triton cannot launch kernels here ({' '.join(str(error).split())}). Often a C compiler or the headers of "
            "Python are missing, in Debian the packages gcc and python3-dev"
        )
        warnings.warn(f"Adafactor's step in Triton kernels is not available: {reason}", stacklevel=2)
        return reason
    return None


@functools.cache
def _kernels_are_interpreted() -> bool:
    """Whether Triton interprets the kernels, which it decides when they are imported."""
    from triton import JITFunction

    from lightning_adafactor.fused import kernels

    return not isinstance(kernels.sum_squares, JITFunction)
