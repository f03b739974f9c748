"""Whether an optimizer's library supports this device: checked before training, by name or with a step."""

import warnings
from shutil import which

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from recipes.messages import RecipeError, tell

GPU_ONLY = {"adafactor8bit": "adafactor8bit", "flashoptim": "FlashOptim", "gefen": "Gefen-X"}
"""Libraries whose kernels are for NVIDIA GPUs, with their names; elsewhere they fail or use slow operations."""
COMPILING = {"adafactor8bit": "use_cuda_kernel", "gefen": "fused"}
"""Those of them that compile their kernels with nvcc in the first step, with the argument that turns this off."""
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


def compiles(kind: type[Optimizer]) -> bool:
    """Whether an optimizer compiles CUDA kernels in its first step on a machine with a GPU, which takes minutes.

    Args:
        kind: The optimizer's class.
    """
    return kind.__module__.partition(".")[0] in COMPILING


def refuse_device(kind: type[Optimizer], device: torch.device) -> None:
    """Checks the device of the parameters before the optimizer is made.

    Args:
        kind: The optimizer's class.
        device: The device.

    Raises:
        RecipeError: The library is for NVIDIA GPUs, and the device is not one.
    """
    if reason := unsupported_reason(kind, device.type):
        raise RecipeError(_message(kind, device, reason))


def check_device_support(make: OptimizerCallable, built: Optimizer) -> None:
    """Takes a step with an optimizer of bitsandbytes or torchao; tells of kernels that others will compile.

    Nothing else is checked. The random numbers that follow are the same as without the check.

    Args:
        make: Builds the optimizer from parameters.
        built: The optimizer that it has built for the model.

    Raises:
        RecipeError: The step failed, or the library warned that it falls back to something else on this device, or
            Gefen-X would, because there is no nvcc.
    """
    library = type(built).__module__.partition(".")[0]
    if compiles(type(built)) and built.param_groups[0]["params"][0].device.type == "cuda":
        _tell_of_compilation(built, library)
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


def _tell_of_compilation(built: Optimizer, library: str) -> None:
    switch = COMPILING[library]
    if not {**vars(built), **built.param_groups[0]}.get(switch, True):
        return
    if _nvcc() is not None:
        name = GPU_ONLY[library]
        tell(f"{name} compiles its CUDA kernels in its first step, unless an earlier run did: this takes minutes")
    elif library == "gefen":  # adafactor8bit says itself that it uses torch operations, and its YAML does
        raise RecipeError(
            f"model.optimizer is gefen's {type(built).__name__}, which compiles its CUDA kernels with nvcc, which is "
            f"neither in CUDA_HOME nor in PATH: install the CUDA toolkit {torch.version.cuda} and set CUDA_HOME to it, "
            f"or {REMEDY}"
        )


def _nvcc() -> str | None:
    """The path of nvcc, sought where PyTorch's builder of extensions and Gefen-X seek it."""
    from torch.utils.cpp_extension import CUDA_HOME

    return (which("nvcc", path=f"{CUDA_HOME}/bin") if CUDA_HOME else None) or which("nvcc")


def _message(kind: type[Optimizer], device: torch.device, reason: str) -> str:
    remedy = REMEDY
    if "compiler" in reason.lower():
        remedy = "install a compiler (Debian, Ubuntu: apt install g++) or set the environment variable CXX to it"
    name = f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"
    return f"model.optimizer is {name}, which does not support this machine's {device.type}: {reason}; {remedy}"
