"""Sharded parameters end where one process ends: every shape, placement and option, on meshes of 2 and 4 processes."""

from __future__ import annotations

import math
import traceback
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor import specs
from tests.lightning_adafactor.compiled.available import needs_compiled
from tests.lightning_adafactor.sharded import processes, shardings

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

OPTIONS: dict[str, tuple[type[Adafactor], specs.Options]] = {
    **{f"torch, {name}": (Adafactor, options) for name, options in specs.TORCH_OPTIONS.items()},
    **{f"torch, {name}": (Adafactor, options) for name, options in specs.ADDED_OPTIONS.items()},
    **{
        f"transformers, {name}": (TransformersAdafactor, options)
        for name, options in specs.TRANSFORMERS_OPTIONS.items()
    },
}
MESHES = {"2": (2,), "4": (4,), "2x2": (2, 2), "1x4": (1, 4), "4x1": (4, 1)}


def size_of(name: str) -> int:
    """How many processes a mesh has."""
    return math.prod(MESHES[name])


def mesh_of(name: str) -> DeviceMesh:
    return init_device_mesh("cpu", MESHES[name], mesh_dim_names=("data", "tensor")[: len(MESHES[name])])


def error_of(
    mesh: DeviceMesh, names: tuple[str, ...], option: str, dtype: torch.dtype, path: str, scale: float = 1.0
) -> str | None:
    """What is wrong with a run of all placements of some cases, all in one optimizer; None if nothing is."""
    kind, options = OPTIONS[option]
    cases = [(name, own) for name in names for own in shardings.placements_of(len(specs.CASES[name].shape), mesh)]
    reference = specs.run(lambda params: kind(params, compiled=False, **options), names, dtype)
    try:
        wrong = shardings.differences(
            lambda params: kind(params, compiled=path == "compiled", **options),
            reference,
            cases,
            names,
            mesh,
            dtype,
            TOLERANCE[dtype],
            scale=scale,
        )
    except Exception:
        return traceback.format_exc()
    return "\n".join([f"{len(wrong)} differences", *wrong[:20]]) if wrong else None


def grid(mesh_name: str, plan: list[tuple[Any, ...]]) -> list[str | None]:
    """``error_of`` for each item of a plan: its arguments after the mesh."""
    mesh = mesh_of(mesh_name)
    return [error_of(mesh, *item) for item in plan]


# Few in `make test` ------------------------------------------------------------------------------------------------

FEW = {
    "2": (("wider than a tile", "conv", "scalar", "transposed", "1×1"), "transformers, all", 1.0),
    "2x2": (("tall", "batched", "vector"), "torch, fine-tuning", 8.0),
}
"""Cases, options and a scale of the gradients by mesh."""
PATHS = ["plain", pytest.param("compiled", marks=needs_compiled)]
"""The implementations on CPUs; ``test_implementations.py`` has what only one of them has, and the fused one."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mesh", FEW)
def test_numbers_are_those_of_one_process(mesh: str, path: str, tmp_path: Any) -> None:
    names, option, scale = FEW[mesh]
    plan = [(names, option, torch.float32, path, scale)]
    for errors in processes.run(grid, size_of(mesh), tmp_path, mesh, plan):
        assert errors == [None]


# All in `make test-slow` -------------------------------------------------------------------------------------------

KINDS = {"2": specs.EACH_KIND, "4": ("conv", "embedding"), "2x2": ("tall", "transposed", "vector")}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mesh", KINDS)
def test_every_option(mesh: str, path: str, tmp_path: Any) -> None:
    plan = [(KINDS[mesh], option, torch.float32, path) for option in OPTIONS]
    (errors, *others) = processes.run(grid, size_of(mesh), tmp_path, mesh, plan)
    assert dict(zip(OPTIONS, errors, strict=True)) == dict.fromkeys(OPTIONS)
    assert others == [errors] * len(others)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_shape(mesh: str, path: str, dtype: torch.dtype, tmp_path: Any) -> None:
    plan = [((name,), "torch, defaults", dtype, path) for name in specs.CASES]
    for errors in processes.run(grid, size_of(mesh), tmp_path, mesh, plan):
        assert dict(zip(specs.CASES, errors, strict=True)) == dict.fromkeys(specs.CASES)
