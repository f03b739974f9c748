"""Flat shards of FSDP1 and DeepSpeed, whose parameters have lost their shapes, are refused."""

from __future__ import annotations

import copy
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.tensor import DTensor, Replicate
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.nonfinite import OnNonfinite
from tests.lightning_adafactor.traps import parameter

pytestmark = pytest.mark.usefixtures("path")


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def processes(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process group of this process and, where there are two, of a fake one."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    torch.distributed.destroy_process_group()


def sharded(**options: Any) -> FullyShardedDataParallel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FSDP1's own, on what it is deprecated for
        model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False))
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **options)


def test_flat_parameters_of_fsdp1_are_refused(processes: int) -> None:
    model = sharded(use_orig_params=False)
    elements = sum(param.numel() for param in model.parameters())
    assert elements == (24 + 12) // processes

    named = rf"flat shards of FSDP1.*'0\.weight, 1\.weight' \({elements} elements\)\. Shard with FSDP2"
    with pytest.raises(RuntimeError, match=named):
        Adafactor(model.parameters())


def test_original_parameters_that_fsdp1_has_split_are_refused(processes: int) -> None:
    model = sharded(use_orig_params=True)
    if processes == 1:
        Adafactor(model.named_parameters())  # alone, FSDP1 shards nothing and leaves shapes
        return
    # this process has the upper half, none of 1.weight
    with pytest.raises(RuntimeError, match=r"'_fsdp_wrapped_module\.0\.weight' \(18 elements\)"):
        Adafactor(model.named_parameters())


def test_flat_parameters_of_fsdp1_are_accepted_with_a_warning_on_request(processes: int) -> None:
    model = sharded(use_orig_params=False)
    elements = (24 + 12) // processes
    with pytest.warns(UserWarning, match=rf"{elements} elements or 0\.00 MB.*'0\.weight, 1\.weight'.*FSDP2"):
        Adafactor(model.parameters(), allow_unfactored=True)


@pytest.mark.filterwarnings("ignore:Adafactor keeps one number per element")
@pytest.mark.parametrize("option", ["skip", "raise"])
def test_processes_that_see_only_their_flat_shard_do_not_decide_about_steps(
    processes: int, option: OnNonfinite
) -> None:
    model = sharded(use_orig_params=False)
    if processes == 1:
        Adafactor(model.parameters(), allow_unfactored=True, on_nonfinite=option)
        return
    with pytest.raises(RuntimeError, match=f"on_nonfinite='{option}' is not supported for the flat shards of FSDP1"):
        Adafactor(model.parameters(), allow_unfactored=True, on_nonfinite=option)


@pytest.mark.parametrize("kind", [Adafactor, TransformersAdafactor])
def test_flat_partitions_of_deepspeed_are_refused(kind: type[Adafactor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    matrix, bias = torch.ones(4, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    for allowed in (False, True):
        optimizer = kind([matrix, bias], allow_unfactored=allowed)
        # as DeepSpeedZeroOptimizer does
        flat = torch.cat([matrix.detach().flatten(), bias.detach()])[:1_000_000].clone().requires_grad_()
        optimizer.param_groups[0]["params"] = [flat]
        flat.grad = torch.ones_like(flat)
        if not allowed:
            with pytest.raises(
                RuntimeError, match=r"flat shards of DeepSpeed ZeRO.*\(16 elements\)\. Shard with FSDP2"
            ):
                optimizer.step()
        else:
            with pytest.warns(UserWarning, match="flat shards of DeepSpeed ZeRO, 16 elements or 0.00 MB"):
                optimizer.step()
            assert (flat != 1).all()


def test_vectors_are_accepted_where_deepspeed_is_merely_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    bias = torch.ones(4, requires_grad=True)
    optimizer = copy.deepcopy(Adafactor([bias]))
    (param,) = optimizer.param_groups[0]["params"]
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert (param != 1).all()


def test_vectors_that_accelerate_puts_in_place_of_others_are_accepted(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    optimizer = Adafactor([nn.Parameter(torch.ones(4))])
    mesh = init_device_mesh("cpu", (processes,))
    param = nn.Parameter(DTensor.from_local(torch.ones(2), mesh, (Replicate(),), run_check=False))
    optimizer.param_groups[0]["params"] = [param]
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert (param.to_local() != 1).all()


@pytest.mark.parametrize("processes", [2], indirect=True)
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_flat_parameters_are_stepped(use_orig_params: bool, processes: int) -> None:
    model = sharded(use_orig_params=use_orig_params, sharding_strategy=ShardingStrategy.FULL_SHARD)
    with pytest.warns(UserWarning, match="flat shard"):
        optimizer = Adafactor(model.parameters(), allow_unfactored=True)
    before = [param.detach().clone() for param in model.parameters()]
    model(torch.randn(5, 6)).sum().backward()
    optimizer.step()

    assert [bool((param != old).any()) for param, old in zip(model.parameters(), before, strict=True)] == [
        param.numel() > 0 for param in before
    ]


def test_parameters_with_their_shapes_raise_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Adafactor([parameter(4, 3), parameter(5), parameter()])
    assert caught == []
