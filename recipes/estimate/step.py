"""What an optimizer takes for a moment within its step, beside its state: followed on tensors without memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import Optimizer

from lightning_adafactor.prediction import NumbersAreOne
from recipes.estimate.activations import LiveBytes

OWN_KERNELS = ("lightning_adafactor", "bitsandbytes", "torchao")
"""Libraries whose optimizers take next to nothing beside parameters, gradients and state."""


def step_bytes(
    make: Callable[[list[dict[str, Any]]], Optimizer], groups: Sequence[Mapping[str, Any]], gpu: bool
) -> int | None:
    """Computes the most that a later step holds beside parameters, gradients and state.

    Args:
        make: Makes the optimizer from parameter groups.
        groups: The groups; tensors on the meta device will do.
        gpu: Whether to count as on CUDA, where PyTorch's optimizers work on all parameters at once by default.

    Returns:
        Bytes; None for the libraries that work in kernels of their own, and for a step that depends on the numbers
        in the tensors.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), NumbersAreOne(), _all_at_once() if gpu else nullcontext():
        parameters = [
            [nn.Parameter(torch.empty_like(each, device="cpu", requires_grad=False)) for each in group["params"]]
            for group in groups
        ]
        for parameter in (each for group in parameters for each in group):
            parameter.grad = torch.empty_like(parameter)
        known = [tensor for group in parameters for each in group for tensor in (each, each.grad) if tensor is not None]
        tracker = LiveBytes(known)
        try:
            optimizer = make([{**group, "params": mine} for group, mine in zip(groups, parameters, strict=True)])
            if type(optimizer).__module__.partition(".")[0] in OWN_KERNELS:
                return None
            with torch.compiler.set_stance("force_eager"), tracker:
                optimizer.step()
                tracker.peak = state = tracker.live
                optimizer.step()
        except Exception:  # code that looks at numbers, of which there are none; its step is not to be foreseen
            return None
    return tracker.peak - state


@contextmanager
def _all_at_once() -> Iterator[None]:
    """Lets PyTorch's optimizers choose their implementation as they would for CUDA parameters."""
    with mock.patch.multiple(
        "torch.optim.optimizer",
        _get_foreach_kernels_supported_devices=mock.Mock(return_value=["cpu", "cuda"]),
        _foreach_supported_types=[torch.Tensor, nn.Parameter, FakeTensor],
    ):
        yield
