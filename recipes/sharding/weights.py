"""The full weights of a sharded model: read once and distributed, and collected again."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor, Replicate

from recipes.sharding.shared_weights import share, shared_names


def is_sharded(module: nn.Module) -> bool:
    """Whether a module has parameters of which each process holds a part."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module with whole tensors: its own, or, if it is sharded, copies on the CPU.

    If it is sharded, all processes call this, and all but the first get an empty mapping.
    """
    if not is_sharded(module):
        return module.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, Tensor]", get_model_state_dict(module, options=options))


def distribute(model: nn.Module, whole: nn.Module | None, device: torch.device) -> None:
    """Gives a sharded model on the meta device the weights and buffers of a whole one; all processes call this.

    Args:
        model: The model whose parameters are sharded, in place.
        whole: The same model with weights, on the CPU of the first process; None on the others.
        device: Where the shards go.
    """
    shared = shared_names(model)
    model.to_empty(device=device)
    share(model, shared)
    state: Mapping[str, Any] = {} if whole is None else whole.state_dict()
    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    # A state dict lacks those that are not persistent, such as the frequencies of rotary embeddings.
    buffers = {} if whole is None else dict(whole.named_buffers())
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if whole is not None:
                buffer.copy_(buffers[name])
            distributed.broadcast(buffer, 0)


def whole_gradient(gradient: Tensor) -> Tensor:
    """A copy of a gradient with all its elements; for a sharded one, all processes call this."""
    return gradient.full_tensor().clone() if isinstance(gradient, DTensor) else gradient.detach().clone()


def placed_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """A copy of a whole tensor, which every process has, on the device and with the sharding of a parameter."""
    value = whole.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor):
        return value
    mesh = parameter.device_mesh
    replicated = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=parameter.placements)
