"""A recipe's model under a strategy with a device mesh (``ModelParallelStrategy``): built and sharded in one place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from recipes.sharding.blocks import shard_blocks
from recipes.sharding.shared_weights import shared_names, unshare
from recipes.sharding.tensor_parallel import divide_gradients, parallelize
from recipes.sharding.weights import distribute

DATA, TENSOR = "data_parallel", "tensor_parallel"
"""The dimensions of Lightning's mesh."""


def is_tensor_parallel(parameter: Tensor) -> bool:
    """Whether tensor parallelism divides a parameter, which then is in parts in forward passes too."""
    return isinstance(parameter, DTensor) and TENSOR in (parameter.device_mesh.mesh_dim_names or ())


def sharded_model(
    make: Callable[[bool], nn.Module], mesh: DeviceMesh, device: torch.device, policy: MixedPrecisionPolicy
) -> nn.Module:
    """Builds a model of which each process holds a part; all processes call this.

    The first process loads (or initializes) the whole model on its CPU; the others build it without weights and receive
    their shards, one parameter at a time. All continue with the random state of the first process, which is that of a
    run in one process.

    Args:
        make: Makes the model, with weights or, on the meta device, without.
        mesh: The mesh, of dimensions ``data_parallel`` and ``tensor_parallel``.
        device: The device of this process.
        policy: The dtypes that FSDP2 gathers and reduces.

    Returns:
        The model in train mode.
    """
    whole = make(True) if distributed.get_rank() == 0 else None
    shared = None if whole is None else shared_names(whole)
    facts: list[Any] = [torch.get_rng_state(), getattr(whole, "generation_config", None), shared]
    distributed.broadcast_object_list(facts, 0, device=device)
    with torch.device("meta"):
        model = make(False).train()
        unshare(model, facts[2])
    if mesh[TENSOR].size() > 1:
        parallelize(model, mesh[TENSOR])
    if mesh[DATA].size() > 1:
        shard_blocks(model, mesh[DATA], policy)
    distribute(model, whole, device)
    if mesh[DATA].size() == 1:
        divide_gradients(model)
    torch.set_rng_state(facts[0])
    if facts[1] is not None:
        model.generation_config = facts[1]
    return model
