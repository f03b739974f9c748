"""The state of one parameter: before the first step, from a saved one, and whether it fits the parameter."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor.implementation import Path
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


def check_saved(param: Tensor, saved: dict[str, Any]) -> None:
    """Makes sure that a saved state is that of a parameter of this shape.

    Args:
        param: The parameter.
        saved: The state, with this library's names.

    Raises:
        ValueError: It is not.
    """
    wanted, shape = dict(_shapes(param.shape, has_average=True)), tuple(param.shape)
    for name in sharded_state.NAMES:
        if name in saved and name not in wanted:
            own = " and ".join(name for name in wanted if name != "exp_avg")
            raise ValueError(f"The saved state of a parameter of shape {shape} should have {own}, not {name}")
        if torch.is_tensor(saved.get(name)) and saved[name].shape != wanted[name]:
            raise ValueError(
                f"The saved {name} of a parameter of shape {shape} should have shape {tuple(wanted[name])}, but has "
                f"{tuple(saved[name].shape)}"
            )


def check_state(param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
    """Makes sure that sizes, dtypes and devices fit the parameter's: implementations get addresses, and trust them.

    Args:
        param: The parameter.
        grad: Its gradient.
        state: Its state.

    Raises:
        RuntimeError: They do not fit, as after ``module.double()`` or a new ``param.data``.
    """
    dtype, device, shape = state_dtype(param), param.device, param.shape
    if grad.shape != shape:
        raise RuntimeError(f"A parameter of shape {tuple(shape)} has a gradient of shape {tuple(grad.shape)}")
    if grad.device != device:
        raise RuntimeError(f"A parameter of shape {tuple(shape)} is on {device}, and its gradient on {grad.device}")
    for name, wanted in _shapes(shape, "exp_avg" in state):
        value = state.get(name)
        if value is None or value.shape != wanted or value.dtype is not dtype or value.device != device:
            found = "missing" if value is None else f"{_words(value.dtype)} {tuple(value.shape)} on {value.device}"
            raise RuntimeError(
                f"The state of a parameter of shape {tuple(shape)} does not fit it: {name} should be {_words(dtype)} "
                f"{tuple(wanted)} on {device}, and is {found}. Where the dtype or device of a parameter has changed "
                "since its first step, load the state again: optimizer.load_state_dict(optimizer.state_dict()). Where "
                "its shape has, let it start anew: del optimizer.state[param]"
            )


def place_state(param: Tensor, state: dict[str, Any], path: Path) -> None:
    """Puts tensors of a state where an implementation reads them: ``step`` on its device; R, C and V contiguous.

    Args:
        param: The parameter.
        state: Its state, whose values are replaced.
        path: The implementation.
    """
    step = state["step"]
    if path == "compiled" and step.device.type != "cpu":
        state["step"] = step.cpu()
    if path == "fused":
        if step.device != param.device or step.dtype != torch.float32:
            state["step"] = step.to(param.device, torch.float32, non_blocking=True)
        for name in _AVERAGES:
            if type(value := state.get(name)) is Tensor:
                state[name] = value.contiguous()


def has_contiguous_averages(state: dict[str, Any]) -> bool:
    """Whether R, C and V lie in memory as the kernels index them; of DTensors that is taken for granted."""
    return all(type(value) is not Tensor or value.is_contiguous() for value in map(state.get, _AVERAGES))


_AVERAGES = ("row_var", "col_var", "variance")


@functools.lru_cache(maxsize=4096)  # called for each parameter in each step
def _shapes(shape: torch.Size, has_average: bool) -> list[tuple[str, torch.Size]]:
    """The names and shapes of the state tensors of a parameter."""
    names = ("row_var", "col_var") if len(shape) > 1 else ("variance",)
    reduced = {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, *shape[-1:])}
    return [(name, torch.Size(reduced.get(name, shape))) for name in (*names, *["exp_avg"] * has_average)]


def _words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def new_step(value: float) -> Tensor:
    """The counter t, on the CPU, where its value can be read without waiting for a device."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return torch.tensor(value, dtype=dtype, device="cpu")
