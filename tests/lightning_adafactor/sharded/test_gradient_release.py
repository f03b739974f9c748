"""Gradient release of sharded parameters: the numbers of the ordinary step, and blocks in the same order everywhere."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from lightning_adafactor import Adafactor, release_gradients
from tests.lightning_adafactor.sharded import models, processes, shardings

NAMES = ("fsdp2", "tensor parallel")


def outcome(name: str) -> dict[str, Any]:
    """Parameters with and without release, the gradients that are left, and the order of the blocks."""
    found: dict[str, Any] = {}
    for release in (False, True):
        model = models.SHARDINGS[name](models.model())
        optimizer = Adafactor(model.parameters())
        names = {param: key for key, param in model.named_parameters()}
        calls: list[list[str]] = []
        step = optimizer.step_parameters

        def step_parameters(params: Any, step: Any = step, calls: Any = calls, names: Any = names) -> None:
            calls.append([names[param] for param in params])
            step(params)

        optimizer.step_parameters = step_parameters  # type: ignore[method-assign]
        released = release_gradients(optimizer, model) if release else None
        for number in range(3):
            optimizer.zero_grad()
            loss = models.loss(model, number)
            if released is not None:
                released.guard(loss)
            loss.backward()
            left = [key for param, key in names.items() if param.grad is not None]
            optimizer.step()
        state = {key: shardings.whole(param).clone() for key, param in model.named_parameters()}
        steps = {float(each["step"]) for each in optimizer.state.values()}
        found[str(release)] = {"state": state, "left": left, "calls": calls, "steps": steps}
    if torch.distributed.get_rank() == 1:
        loss = loss.detach() * float("nan")  # of one process
    assert released is not None
    released.guard(loss)
    models.loss(model, 9).backward()
    optimizer.step()
    after = {key: shardings.whole(param) for key, param in model.named_parameters()}
    found["guarded"] = all(torch.equal(after[key], state[key]) for key in after)
    return found


def refusal() -> str:
    model = models.model()
    try:
        release_gradients(Adafactor(model.parameters()), model)
    except ValueError as error:
        return str(error)
    return ""


def of_parts() -> list[Any]:
    """A parameter whose gradient each process has a part of, summed before the step, and by gradient release."""
    mesh = init_device_mesh("cpu", (2,))
    rows = distribute_tensor(torch.arange(8.0).view(4, 2), mesh, [Shard(0)])
    results = []
    for release in (False, True):
        scale = nn.Module()
        scale.weight = nn.Parameter(distribute_tensor(torch.ones(2), mesh, [Replicate()]))
        optimizer = Adafactor(scale.parameters())
        if release:
            release_gradients(optimizer, scale)
        (rows * scale.weight).square().full_tensor().sum().backward()
        grad = scale.weight.grad
        results.append(None if grad is None else str(grad.placements))
        if grad is not None:
            scale.weight.grad = grad.redistribute(placements=scale.weight.placements)
        optimizer.step()
        results.append(scale.weight.full_tensor().tolist())
    return results


def outcomes() -> dict[str, Any]:
    return {name: outcome(name) for name in NAMES} | {"refusal": refusal(), "parts": of_parts()}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: pathlib.Path = tmp_path_factory.mktemp("two")
    return processes.run(outcomes, 2, folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_as_without_release(of_two: list[dict[str, Any]], name: str) -> None:
    for rank in of_two:
        without, released = rank[name]["False"], rank[name]["True"]
        assert without["state"].keys() == released["state"].keys()
        for key, value in without["state"].items():
            assert torch.equal(value, released["state"][key]), key
        assert without["steps"] == released["steps"] == {3.0}


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_stepped_in_the_backward_pass_in_the_same_order_on_all_processes(
    of_two: list[dict[str, Any]], name: str
) -> None:
    first, second = (rank[name]["True"] for rank in of_two)
    assert first["calls"] == second["calls"]
    assert first["left"] == second["left"] == []
    assert any(len(call) == 6 and call[0].startswith("blocks.1.") for call in first["calls"])


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_on_one_process_changes_nothing_on_any(
    of_two: list[dict[str, Any]], name: str
) -> None:
    assert all(rank[name]["guarded"] for rank in of_two)


def test_several_processes_without_shards_are_refused(of_two: list[dict[str, Any]]) -> None:
    for rank in of_two:
        assert "such as DDP, keeps all gradients" in rank["refusal"]
        assert "use one process, or FSDP2" in rank["refusal"]


def test_a_gradient_that_each_process_has_a_part_of_is_summed_first(of_two: list[dict[str, Any]]) -> None:
    for rank in of_two:
        placements, without, left, released = rank["parts"]
        assert "Partial" in placements
        assert left is None
        assert released == without != [1.0, 1.0]
