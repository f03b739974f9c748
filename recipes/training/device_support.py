"""Whether an optimizer's library supports this device: checked before training, by name or with a step."""

import warnings

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from recipes.messages import RecipeError

GPU_ONLY = {"adafactor8bit": "adafactor8bit", "flashoptim": "FlashOptim", "gefen": "Gefen-X"}
"""Libraries whose kernels are for NVIDIA GPUs, with their names; elsewhere they fail or use slow operations."""
LIBRARIES = ("bitsandbytes", "torchao")
"""Libraries that load compiled code, or compile it, at their first step."""
ELEMENTS = 4096
"""The size of the parameter for the check: the smallest that both libraries keep in 8 bits."""
REMEDY = "choose another optimizer, such as configs/optimizer/adafactor.yaml"


def unsupported_reason(kind: type[Optimizer], device: str) -> str:
    """Why an optimizer does not support a device, as far as its library says it; empty if it may.

    Args:
        kind: The optimizer's class.
        device: The type of the device, such as ``cuda``.
    """
    name = GPU_ONLY.get(kind.__module__.partition(".")[0])
    return f"{name}'s kernels need an NVIDIA GPU" if name and device != "cuda" else ""


def refuse_device(kind: type[Optimizer], device: torch.device) -> None:
    """Checks the device of the parameters before the optimizer is made.

    Args:
        kind: The optimizer's class.
        device: The device.

    Raises:
        RecipeError: The library is for NVIDIA GPUs, and the device is none.
    """
    if reason := unsupported_reason(kind, device.type):
        raise RecipeError(_message(kind, device, reason))


def check_device_support(make: OptimizerCallable, built: Optimizer) -> None:
    """Takes a step with an optimizer of bitsandbytes or torchao; others are not checked.

    The random numbers that follow are the same as without the check.

    Args:
        make: Builds the optimizer from parameters.
        built: The optimizer that it has built for the model.

    Raises:
        RecipeError: The step failed, or the library warned that it falls back to something else on this device.
    """
    library = type(built).__module__.partition(".")[0]
    if library not in LIBRARIES:
        return
    like = built.param_groups[0]["params"][0]
    parameter = nn.Parameter(torch.zeros(ELEMENTS, dtype=like.dtype, device=like.device))
    parameter.grad = torch.ones_like(parameter)
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Ff]alling back.*")
        try:
            make([parameter]).step()
        except Exception as error:  # each library has its own exceptions
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RecipeError(_message(type(built), like.device, reason.rstrip("."))) from error


def _message(kind: type[Optimizer], device: torch.device, reason: str) -> str:
    remedy = REMEDY
    if "compiler" in reason.lower():
        remedy = "install a compiler (Debian, Ubuntu: apt install g++) or set the environment variable CXX to it"
    name = f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"
    return f"model.optimizer is {name}, which does not support this machine's {device.type}: {reason}; {remedy}"
