"""Each implementation of the sharded step: what only one of them does, and the fused one in Triton's interpreter."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_adafactor import Adafactor
from lightning_adafactor.sharded.step import ShardedAdafactor
from lightning_adafactor.work import KeptSteps
from tests.lightning_adafactor import specs
from tests.lightning_adafactor.compiled import test_step as compiled_step
from tests.lightning_adafactor.compiled.available import needs_compiled
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.sharded import (
    processes,
    shardings,
    test_bfloat16,
    test_collectives,
    test_parity,
)

R, S0, S1, S2 = Replicate(), Shard(0), Shard(1), Shard(2)


# Compiled: every kind of work, of which there are more than shapes in ``specs`` ------------------------------------

PLACEMENTS: dict[str, list[shardings.Placements]] = {
    "vector in pieces": [(S0,)],
    "strips": [(S0,), (S1,)],
    "one column": [(S0,)],
    "ranges of columns": [(S0,), (S1,)],
    "strips and ranges": [(S0,), (S1,)],
    "groups of small matrices": [(S0,), (S1,), (S2,)],
    "filters": [(S0,), (S1,)],
    "batch of large matrices": [(S0,), (S1,), (S2,)],
    "more columns than factors are kept of": [(S0,), (S1,)],
}


def compiled_differences() -> dict[str, float]:
    """How far parameters and states are off after three steps, relative to the plain step of one process."""
    mesh = init_device_mesh("cpu", (2,))
    cases = [(name, own) for name, several in PLACEMENTS.items() for own in several]
    wholes = compiled_step.parameters(PLACEMENTS)
    params = [
        shardings.shard(wholes[list(PLACEMENTS).index(name)].detach().clone(), mesh, own).requires_grad_()
        for name, own in cases
    ]
    alone = Adafactor(wholes, compiled=False, weight_decay=0.1)
    ours = Adafactor(params, compiled=True, weight_decay=0.1)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for whole in wholes:
            whole.grad = torch.randn(whole.shape, generator=generator)
        for (name, own), param in zip(cases, params, strict=True):
            param.grad = shardings.shard(wholes[list(PLACEMENTS).index(name)].grad, mesh, own)
        alone.step()
        ours.step()
    off = {}
    for (name, own), param in zip(cases, params, strict=True):
        whole = wholes[list(PLACEMENTS).index(name)]
        wanted = {"parameter": whole.detach(), **alone.state[whole]}
        for key, value in {"parameter": param, **ours.state[param]}.items():
            off[f"{name} {own} {key}"] = shardings.distance(value, wanted[key]) / float(wanted[key].norm())
    return off


@needs_compiled
def test_every_kind_of_compiled_work_gives_the_numbers_of_one_process(tmp_path: Any) -> None:
    for off in processes.run(compiled_differences, 2, tmp_path):
        assert {name: value for name, value in off.items() if not value < 1e-6} == {}


# Fused, interpreted ------------------------------------------------------------------------------------------------


class Fused:
    """An optimizer class with ``fused=True`` and small tiles.

    Args:
        kind: The class.
    """

    def __init__(self, kind: type[Adafactor] = Adafactor) -> None:
        self.kind = kind

    def __call__(self, params: Any, **options: Any) -> Adafactor:
        optimizer = self.kind(params, fused=True, **options)
        optimizer._kept_steps = KeptSteps(sharded=ShardedAdafactor(harness.SMALL_TILES))
        return optimizer


@contextlib.contextmanager
def quick() -> Any:
    from tests.lightning_adafactor.fused.quick import quick_interpreter  # needs Triton

    with quick_interpreter():
        yield


def test_a_fused_step_keeps_no_gradient_alive() -> None:
    """A process of a group of two, without the other one: its numbers are wrong, and its memory is not."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        locals_ = [torch.ones(4, 8), torch.ones(3)]
        params = [DTensor.from_local(each, mesh, (S0,), run_check=False).requires_grad_() for each in locals_]
        optimizer = Fused(Adafactor)(params)
        with quick():
            for _ in range(2):
                gradients = [torch.ones_like(each) for each in locals_]
                for param, gradient in zip(params, gradients, strict=True):
                    param.grad = DTensor.from_local(gradient, mesh, (S0,), run_check=False)
                optimizer.step()
                alive = [weakref.ref(gradient.untyped_storage()) for gradient in gradients]
                optimizer.zero_grad()
                del gradients, gradient
                assert [each() for each in alive] == [None, None]
    finally:
        distributed.destroy_process_group()


FEW = [("transposed", (S0,)), ("tall", (S1,)), ("vector", (S0,)), ("batched", (S1,)), ("1×1", (S0,))]
"""A shard of each kind, one of which is empty."""


def fused_error(mesh: DeviceMesh, cases: Any, option: str, steps: int, scale: float = 1.0) -> list[str]:
    kind, options = test_parity.OPTIONS[option]
    names = list(dict(cases))
    reference = specs.run(lambda params: kind(params, compiled=False, **options), names, torch.float32, steps=steps)
    return shardings.differences(
        lambda params: Fused(kind)(params, **options), reference, cases, names, mesh, torch.float32, 1e-6, steps, scale
    )


def few() -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))
    with quick():
        return {
            "numbers": fused_error(mesh, FEW, "transformers, all", 2, scale=8.0),
            "skipped": test_collectives.skipped(mesh, (8, 12), fused=True),
            "bits": {
                str(own): test_bfloat16.different(mesh, "batch", own, make=Fused(), exact=True, steps=2)
                for own in ((S1,), (S2,))
            },
            "collectives": collectives(mesh),
        }


def collectives(mesh: DeviceMesh) -> tuple[dict[str, int], int]:
    """How many collectives a fused step takes."""
    params = [shardings.shard(torch.ones(shape), mesh, (S0,)).requires_grad_() for shape in ((8, 12), (5,), (1, 3))]
    optimizer = Fused()(params)
    for param in params:
        param.grad = torch.ones_like(param)
    with shardings.Counting() as counting:
        optimizer.step()
    return dict(counting.all_reduces), counting.others


@pytest.fixture(scope="module")
def fused_results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return processes.run(few, 2, tmp_path_factory.mktemp("fused"))


def test_fused_steps_give_the_numbers_of_one_process(fused_results: list[dict[str, Any]]) -> None:
    for result in fused_results:
        assert result["numbers"] == []


def test_a_fused_step_changes_nothing_where_any_process_has_found_an_infinite_gradient(
    fused_results: list[dict[str, Any]],
) -> None:
    for result in fused_results:
        assert result["skipped"] == [False, True, False, True]


def test_fused_steps_draw_the_bits_of_one_process_wherever_a_shard_begins(fused_results: list[dict[str, Any]]) -> None:
    for result in fused_results:
        assert set(result["bits"].values()) == {0.0}


def test_a_fused_step_takes_two_all_reduces_whatever_the_number_of_parameters(
    fused_results: list[dict[str, Any]],
) -> None:
    for result in fused_results:
        all_reduces, others = result["collectives"]
        assert list(all_reduces.values()) == [2]
        assert others == 0


def fused_grid(mesh_name: str, names: tuple[str, ...], options: list[str], steps: int) -> dict[str, list[str]]:
    mesh = test_parity.mesh_of(mesh_name)
    cases = [
        (name, own)
        for name in names
        for own in shardings.placements_of(len(specs.CASES[name].shape), mesh)
        if any(placement != R for placement in own)
    ]
    with quick():
        return {option: fused_error(mesh, cases, option, steps) for option in options}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["2", "2x2"])
def test_every_option_of_the_fused_step(mesh: str, tmp_path: Any) -> None:
    names = ("tall", "vector") if mesh == "2" else ("transposed",)
    options = [name for name, (_, given) in test_parity.OPTIONS.items() if not given.get("foreach")]
    for errors in processes.run(fused_grid, test_parity.size_of(mesh), tmp_path, mesh, names, options, 2):
        assert errors == {option: [] for option in options}


@pytest.mark.slow
def test_twenty_fused_steps_of_every_kind_of_shape(tmp_path: Any) -> None:
    names = ("conv", "embedding", "n×1", "batched and transposed", "rows over twelve decades", "vector")
    for errors in processes.run(fused_grid, 2, tmp_path, "2", names, ["torch, fine-tuning"], 20):
        assert errors == {"torch, fine-tuning": []}
