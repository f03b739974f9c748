"""A small model with a parameter of each kind, and the ways in which torch shards it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class Block(nn.Module):
    """A feed-forward block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(torch.relu(self.up(self.norm(hidden))))


class Model(nn.Module):
    """Embedding, convolution, two blocks and a head whose sizes no number of processes divides."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(19, width)
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.mix(self.embedding(tokens).mT).mT
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def model(dtype: torch.dtype = torch.float32) -> Model:
    """The model, always with the same weights."""
    torch.manual_seed(7)
    return Model().to(dtype)


def loss(model: nn.Module, step: int) -> Tensor:
    """The loss on a batch that depends on the step alone."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(19, (6, 5), generator=generator)
    targets = torch.randint(3, (30,), generator=generator)
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1).float(), targets)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Takes steps, the gradient of the last one stays."""
    for step in steps:
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()


# Shardings ---------------------------------------------------------------------------------------------------------


def unsharded(model: Model) -> Model:
    return model


def fsdp2(model: Model) -> Model:
    return _fully_shard(model, _mesh(("data", distributed.get_world_size())))


def fsdp2_of_columns(model: Model) -> Model:
    """Sharded along the last dimension where the number of processes divides it."""

    def placement(param: nn.Parameter) -> Shard | None:
        dim = param.dim() - 1
        return Shard(dim) if param.size(dim) % distributed.get_world_size() == 0 else None

    return _fully_shard(model, _mesh(("data", distributed.get_world_size())), shard_placement_fn=placement)


def hsdp(model: Model) -> Model:
    return _fully_shard(model, _mesh(("replicas", 2), ("data", distributed.get_world_size() // 2)))


def tensor_parallel(model: Model) -> Model:
    return _parallelize(model, _mesh(("tensor", distributed.get_world_size())))


def fsdp2_and_tensor_parallel(model: Model) -> Model:
    mesh = _mesh(("data", distributed.get_world_size() // 2), ("tensor", 2))
    return _fully_shard(_parallelize(model, mesh["tensor"]), mesh["data"])


SHARDINGS: dict[str, Callable[[Model], Model]] = {
    "fsdp2": fsdp2,
    "fsdp2 of columns": fsdp2_of_columns,
    "hsdp": hsdp,
    "tensor parallel": tensor_parallel,
    "fsdp2 and tensor parallel": fsdp2_and_tensor_parallel,
}


def _mesh(*dims: tuple[str, int]) -> DeviceMesh:
    return init_device_mesh("cpu", tuple(size for _, size in dims), mesh_dim_names=tuple(name for name, _ in dims))


def _fully_shard(model: Model, mesh: DeviceMesh, **options: object) -> Model:
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, **options)
    fully_shard(model, mesh=mesh, mp_policy=policy, **options)
    return model


def _parallelize(model: Model, mesh: DeviceMesh) -> Model:
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model
