"""Stochastic rounding draws the same bits for an element wherever it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lightning_adafactor import Adafactor
from tests.lightning_adafactor.compiled.available import REASON
from tests.lightning_adafactor.sharded import processes, shardings
from tests.lightning_adafactor.specs import transposed

SHAPES = {"batch": (3, 7, 9), "vector": (37,), "transposed": (12, 20)}
EXACT: dict[str, Any] = {
    "lr": 1e-3,
    "beta2_decay": 0.0,
    "eps": (1e-30, 1e-3),
    "scale_parameter": False,
    "relative_step": False,
    "weight_decay": 0.1,
}
"""With gradients of one magnitude, no sum depends on its order."""


def start(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(len(name))
    values = torch.randn(SHAPES[name], generator=generator).bfloat16()
    return transposed(values) if name == "transposed" else values


def gradient(name: str, step: int, *, exact: bool) -> Tensor:
    generator = torch.Generator().manual_seed(100 * len(name) + step)
    values = torch.randn(SHAPES[name], generator=generator)
    values = values.sign() * 2.0**-step if exact else values
    return (transposed(values) if name == "transposed" else values).bfloat16()


def train(param: Tensor, gradients: Sequence[Tensor], number: int = 0, make: Any = Adafactor, **options: Any) -> None:
    """Takes a step for each gradient of the optimizer's parameter of this number, which the bits depend on."""
    others = [torch.zeros(1, requires_grad=True) for _ in range(number)]
    optimizer = make([*others, param], seed=5, **options)
    for each in gradients:
        param.grad = each
        optimizer.step()


def different(
    mesh: DeviceMesh,
    name: str,
    placements: shardings.Placements,
    *,
    exact: bool,
    steps: int = 4,
    make: Any = Adafactor,
    **arguments: Any,
) -> float:
    """The share of this process's elements that differ from those of one process, which takes plain steps."""
    number = list(SHAPES).index(name)
    options = EXACT if exact else {"lr": 1e-3, "scale_parameter": False, "relative_step": False}
    gradients = [gradient(name, step, exact=exact) for step in range(steps)]
    alone = start(name).requires_grad_()
    train(alone, gradients, number, compiled=False, **options)
    own = shardings.shard(start(name).clone(), mesh, placements).requires_grad_()
    train(own, [shardings.shard(each, mesh, placements) for each in gradients], number, make, **options, **arguments)
    wanted = shardings.part(alone.detach(), mesh, placements)
    return float((own.detach().to_local() != wanted).float().mean()) if wanted.numel() else 0.0


def different_elements(mesh_shape: tuple[int, ...], *, exact: bool, compiled: bool = False) -> dict[str, float]:
    """The share of elements that differ from those of one process, for each placement of each shape."""
    mesh = init_device_mesh("cpu", mesh_shape)
    return {
        f"{name} {placements}": different(mesh, name, placements, exact=exact, compiled=compiled)
        for name in SHAPES
        for placements in shardings.placements_of(len(SHAPES[name]), mesh)
    }


def everything(paths: Sequence[bool]) -> tuple[dict[str, float], dict[str, float]]:
    exact = {
        f"{mesh} compiled={compiled} {name}": share
        for mesh, compiled in zip(((4,), (2, 2)), paths, strict=True)
        for name, share in different_elements(mesh, exact=True, compiled=compiled).items()
    }
    return exact, different_elements((4,), exact=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, float], dict[str, float]]]:
    paths = [False, REASON is None]  # which are compiled
    return processes.run(everything, 4, tmp_path_factory.mktemp("bfloat16"), paths)


def test_bits_are_equal_where_sums_are(results: list[Any]) -> None:
    for exact, _ in results:
        assert {name: share for name, share in exact.items() if share} == {}


def test_bits_hardly_differ_where_sums_do(results: list[Any]) -> None:
    for _, inexact in results:
        assert max(inexact.values()) < 0.02


def test_rounding_to_nearest_would_end_elsewhere() -> None:
    gradients = [gradient("batch", step, exact=True) for step in range(10)]
    rounded = [start("batch").requires_grad_() for _ in range(2)]
    train(rounded[0], gradients, **EXACT)
    train(rounded[1], gradients, stochastic_rounding=False, **EXACT)
    assert (rounded[0] != rounded[1]).float().mean() > 0.2
