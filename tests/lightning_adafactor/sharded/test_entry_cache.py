"""Entries of sharded parameters are reused exactly as long as they describe the same shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_adafactor.rule import Rule
from lightning_adafactor.sharded import step
from lightning_adafactor.sharded.entry_cache import ShardedEntryCache


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Two processes, of which there is only this one: none of these tests communicates."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    distributed.destroy_process_group()


def sharded(local: Tensor, mesh: DeviceMesh, placement: Any = None) -> DTensor:
    return DTensor.from_local(local, mesh, (placement or Shard(0),), run_check=False)


class Parameter:
    """What an optimizer hands to the cache for one parameter."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self.param = nn.Parameter(sharded(torch.zeros(4, 3, dtype=torch.bfloat16), mesh))  # as FSDP2's are
        self.param.grad = sharded(torch.ones(4, 3, dtype=torch.bfloat16), mesh)
        self.state: dict[str, Tensor] = {
            "step": torch.tensor(0.0),
            "row_var": sharded(torch.zeros(4, 1), mesh),
            "col_var": sharded(torch.zeros(1, 3), mesh, Replicate()),
        }
        self.rule = Rule(lr=0.1)

    def keep(self, cache: ShardedEntryCache) -> step.ShardedEntry:
        entry = step.entry_of(self.param, self.state, 2, self.rule, "fused")
        cache.keep(entry, 0, self.param, self.state)
        return entry

    def find(self, cache: ShardedEntryCache) -> step.ShardedEntry | None:
        return cache.find(2, 0, self.param, self.state, self.rule)


@torch.no_grad()
def test_an_entry_comes_back_with_the_new_gradient_and_the_new_rule(mesh: DeviceMesh) -> None:
    cache, parameter = ShardedEntryCache(), Parameter(mesh)
    kept = parameter.keep(cache)
    gradient = torch.full((4, 3), 2.0, dtype=torch.bfloat16)
    parameter.param.grad, parameter.rule = sharded(gradient, mesh), Rule(lr=0.2)

    assert parameter.find(cache) is kept
    assert torch.equal(kept.entry.grad, gradient)
    assert kept.entry.rule is parameter.rule


@torch.no_grad()
def test_the_gradient_of_a_transposed_parameter_is_transposed_too(mesh: DeviceMesh) -> None:
    cache, parameter = ShardedEntryCache(), Parameter(mesh)
    parameter.param = sharded(torch.zeros(3, 4, dtype=torch.bfloat16).t(), mesh)
    parameter.param.grad = sharded(torch.ones(3, 4, dtype=torch.bfloat16).t(), mesh)
    kept = parameter.keep(cache)
    gradient = torch.rand(3, 4).bfloat16().t()
    parameter.param.grad = sharded(gradient, mesh)

    assert parameter.find(cache) is kept
    assert torch.equal(kept.entry.grad, gradient.t())


def _new_param(it: Parameter) -> None:
    local = it.param.to_local()
    it.param = sharded(local, it.mesh)
    it.param.grad = sharded(torch.ones_like(local), it.mesh)


def _place(it: Parameter, mesh: DeviceMesh, placements: tuple[Any, ...]) -> None:
    """Places the same DTensors anew, with the same shards."""
    for tensor in (it.param, it.param.grad):
        tensor._spec = DTensorSpec(mesh, placements, tensor_meta=it.param._spec.tensor_meta)


CHANGES: dict[str, Callable[[Parameter], Any]] = {
    "parameter of the same shard": _new_param,
    "shard": lambda it: setattr(it.param, "_local_tensor", it.param.to_local().clone()),
    "placement": lambda it: _place(it, it.mesh, (Shard(1),)),
    "mesh": lambda it: _place(it, init_device_mesh("cpu", (2,)), it.param.placements),
    "state": lambda it: setattr(it, "state", dict(it.state)),
    "row_var": lambda it: it.state.update(row_var=sharded(torch.zeros(4, 1), it.mesh)),
    "step": lambda it: it.state.update(step=torch.tensor(0.0)),
    "rounding": lambda it: setattr(it, "rule", Rule(lr=0.1, stochastic_rounding=True)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@torch.no_grad()
def test_a_change_needs_a_new_entry(change: Callable[[Parameter], Any], mesh: DeviceMesh) -> None:
    cache, parameter = ShardedEntryCache(), Parameter(mesh)
    parameter.keep(cache)
    assert parameter.find(cache) is not None
    change(parameter)
    assert parameter.find(cache) is None


@torch.no_grad()
def test_a_gradient_that_is_placed_otherwise_is_redistributed(mesh: DeviceMesh) -> None:
    cache, parameter = ShardedEntryCache(), Parameter(mesh)
    kept = parameter.keep(cache)
    whole = torch.arange(24.0).view(8, 3).bfloat16()
    parameter.param.grad = sharded(whole, mesh, Replicate())

    assert parameter.find(cache) is kept
    assert torch.equal(kept.entry.grad, whole[:4])
