"""Activations that wait for the backward pass in the memory of the host instead of the GPU's."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

SMALLEST = 1024
"""Bytes from which on a tensor is moved; below, the copy costs more than it saves."""


def offload_activations(model: nn.Module, device_type: str | None = None) -> "Offloading":
    """Moves what the forward pass of a model keeps for its backward pass to the host, and back when it is needed.

    Results do not change. Parameters stay where they are, and so does everything on a CPU, which is the host. With
    activation checkpointing, only the inputs of the blocks are kept, and these are moved.

    Args:
        model: The model; its parameters are not sharded.
        device_type: The type of device that a memory estimate counts for, while all tensors are fake ones on the CPU;
            what a GPU would move takes no memory then. None for a training.

    Returns:
        What does it.
    """
    offloading = Offloading(model, counts_as_gpu=device_type not in (None, "cpu"))
    model.register_forward_pre_hook(offloading.begin)
    model.register_forward_hook(offloading.end, always_call=True)
    return offloading


class Moved(NamedTuple):
    """A tensor that was moved.

    Attributes:
        tensor: On the host, or on the meta device in an estimate.
        device: Where it was.
    """

    tensor: Tensor
    device: torch.device


class Offloading:
    """The hooks around a model's forward pass.

    Args:
        model: The model.
        counts_as_gpu: Whether fake tensors on the CPU stand for those of a GPU.

    Attributes:
        enabled: Whether anything is moved.
    """

    def __init__(self, model: nn.Module, counts_as_gpu: bool = False) -> None:
        self.enabled = True
        self.model = model
        self.counts_as_gpu = counts_as_gpu
        self._hooks: list[saved_tensors_hooks] = []
        self._parameters: set[int] = set()

    def begin(self, module: nn.Module, args: Any) -> None:
        """Called before the forward pass."""
        if not self.enabled:
            return
        self._parameters = {id(each.untyped_storage()) for each in self.model.parameters()}
        self._hooks.append(saved_tensors_hooks(self.pack, self.unpack))
        self._hooks[-1].__enter__()

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Called after the forward pass, also where it has raised an error."""
        if self._hooks:
            self._hooks.pop().__exit__(None, None, None)

    def pack(self, tensor: Tensor) -> Tensor | Moved:
        """What is kept in place of a tensor."""
        if self._is_on_host(tensor) or tensor.nbytes < SMALLEST or id(tensor.untyped_storage()) in self._parameters:
            return tensor
        if self.counts_as_gpu:
            return Moved(torch.empty_like(tensor, device="meta"), tensor.device)
        # page-locked, so that neither copy waits for the other work of the GPU
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
        return Moved(host.copy_(tensor, non_blocking=True), tensor.device)

    def _is_on_host(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and not self.counts_as_gpu

    def unpack(self, kept: Tensor | Moved) -> Tensor:
        """The tensor again."""
        if isinstance(kept, Tensor):
            return kept
        if self.counts_as_gpu:
            return torch.empty_like(kept.tensor, device=kept.device)
        return kept.tensor.to(kept.device, non_blocking=True)
