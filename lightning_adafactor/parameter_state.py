"""The state of one parameter: what it is before the first step, and what becomes of one that was saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor.rule import state_dtype
from lightning_adafactor.sharded import state as sharded_state


def new_state(param: Tensor, *, has_average: bool) -> dict[str, Tensor]:
    """The state before the first step: zeros.

    Args:
        param: The parameter.
        has_average: Whether there is an average of updates (``beta1``).

    Returns:
        ``step`` and, in the dtype of the arithmetic, ``row_var`` (..., n, 1) and ``col_var`` (..., 1, m), or
        ``variance``, and perhaps ``exp_avg``; DTensors if the parameter is one.
    """
    state = {"step": new_step(0.0)}
    if isinstance(param, DTensor):
        return {**state, **sharded_state.new_state(param, has_average=has_average)}
    dtype = state_dtype(param)
    if param.dim() > 1:
        *batch, n, m = param.shape
        state["row_var"] = torch.zeros(*batch, n, 1, dtype=dtype, device=param.device)
        state["col_var"] = torch.zeros(*batch, 1, m, dtype=dtype, device=param.device)
    else:
        state["variance"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    if has_average:
        state["exp_avg"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    return state


def adopted_state(param: Tensor, saved: dict[str, Any]) -> dict[str, Any]:
    """A copy of a saved state on this parameter's device, in the dtype of its state, and sharded as it is.

    ``RMS``, which only transformers' dialect keeps, is left out.
    """
    adopted: dict[str, Any] = {}
    for key, value in saved.items():
        if key == "step":
            adopted[key] = new_step(float(value))
        elif key == "RMS":
            continue
        elif isinstance(param, DTensor) and key in sharded_state.NAMES:
            adopted[key] = sharded_state.adopt(param, key, value)
        elif torch.is_tensor(value):
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            dense = torch.preserve_format if key == "exp_avg" else torch.contiguous_format
            adopted[key] = whole.detach().to(param.device, state_dtype(param), copy=True, memory_format=dense)
        else:
            adopted[key] = value
    return adopted


def new_step(value: float) -> Tensor:
    """The counter t, on the CPU, where its value can be read without waiting for a device."""
    return torch.tensor(value, dtype=torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32)
