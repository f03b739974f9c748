"""The temporaries of an optimizer's step, counted on fake tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_adafactor.prediction import NumbersAreOne
from recipes.estimate.activations import LiveBytes, fake_like
from recipes.estimate.torch_internals import FakeTensorMode

OWN_KERNELS = ("lightning_adafactor", "bitsandbytes", "torchao")
"""Libraries whose optimizers need almost no temporaries."""


def step_bytes(
    make: Callable[[list[dict[str, Any]]], Optimizer], groups: Sequence[Mapping[str, Any]], gpu: bool
) -> int | None:
    """Computes the peak memory of a later step beside parameters, gradients and state.

    Args:
        make: Makes the optimizer from parameter groups.
        groups: The groups; tensors on the meta device will do.
        gpu: Whether to count as on CUDA, where PyTorch's optimizers step all parameters at once by default.

    Returns:
        Bytes; None for the libraries with kernels of their own, and for a step that depends on the values of the
        tensors.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), NumbersAreOne():
        parameters = [[nn.Parameter(fake_like(each)) for each in group["params"]] for group in groups]
        for parameter in (each for group in parameters for each in group):
            parameter.grad = torch.empty_like(parameter)
        known = [tensor for group in parameters for each in group for tensor in (each, each.grad) if tensor is not None]
        tracker = LiveBytes(known)
        try:
            optimizer = make([{**group, "params": mine} for group, mine in zip(groups, parameters, strict=True)])
            if type(optimizer).__module__.partition(".")[0] in OWN_KERNELS:
                return None
            if gpu:
                _step_as_on_cuda(optimizer)
            with torch.compiler.set_stance("force_eager"), tracker:
                optimizer.step()
                tracker.peak = state = tracker.live
                optimizer.step()
        except Exception:  # code that reads values, of which there are none
            return None
    return tracker.peak - state


def _step_as_on_cuda(optimizer: Optimizer) -> None:
    """Sets ``foreach`` where PyTorch would choose it for CUDA parameters."""
    if isinstance(optimizer, torch.optim.Adafactor):
        return  # the only one that steps parameter by parameter unless told otherwise
    for group in optimizer.param_groups:
        unset = "foreach" in group and group["foreach"] is None
        if unset and not group.get("fused") and not group.get("differentiable"):
            group["foreach"] = True
