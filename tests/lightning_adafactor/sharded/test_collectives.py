"""Which collectives a step takes, and how many numbers they carry."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from lightning_adafactor import Adafactor
from tests.lightning_adafactor.sharded import models, processes, shardings

DATA, TENSOR = "data", "tensor"
UNSCALED = {"scale_parameter": False}
R, S0, S1 = Replicate(), Shard(0), Shard(1)


@dataclasses.dataclass(frozen=True)
class Case:
    """A step.

    Attributes:
        mesh: Shape of the mesh of 4 processes; its dimensions are DATA and TENSOR.
        params: Shape and placements of the parameters.
        all_reduces: How many there should be, by mesh dimension.
        sent: How many numbers they should carry together, on each process.
        options: Of the optimizer.
    """

    mesh: tuple[int, ...]
    params: list[tuple[tuple[int, ...], shardings.Placements]]
    all_reduces: dict[str, int]
    sent: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
    # column sums, ΣR, Σp²; then ΣU²
    "rows": Case((4,), [((8, 12), (S0,))], {DATA: 2}, 12 + 1 + 1 + 1),
    "columns": Case((4,), [((8, 12), (S1,))], {DATA: 2}, 8 + 1 + 1),
    "a batch": Case((4,), [((8, 3, 5), (S0,))], {DATA: 2}, 1 + 1),
    "rows of a batch": Case((4,), [((2, 8, 5), (S1,))], {DATA: 2}, 2 * 5 + 2 + 1 + 1),
    "a vector": Case((4,), [((8,), (S0,))], {DATA: 2}, 1 + 1),
    "rows, not scaled": Case((4,), [((8, 12), (S0,))], {DATA: 2}, 12 + 1 + 1, UNSCALED),
    "a batch, not scaled": Case((4,), [((8, 3, 5), (S0,))], {DATA: 1}, 1, UNSCALED),
    "fifty parameters": Case((4,), [((8, 12), (S0,)), ((8,), (S0,))] * 25, {DATA: 2}, 25 * (15 + 2)),
    "replicated": Case((4,), [((8, 12), (R,)), ((8,), (R,))], {}, 0),
    "a mesh of one": Case((1, 4), [((8, 12), (S0, R))], {}, 0),
    "an empty parameter": Case((4,), [((0, 12), (S0,))], {}, 0),
    "replicas": Case((2, 2), [((8, 12), (R, S0))], {TENSOR: 2}, 15),
    "rows and columns": Case((2, 2), [((8, 12), (S0, S1))], {DATA: 2, TENSOR: 2}, (6 + 2 + 1) + (4 + 2 + 1)),
    "rows twice": Case((2, 2), [((8, 12), (_StridedShard(0, split_factor=2), S0))], {DATA: 2, TENSOR: 2}, 2 * 15),
    "rows twice, and a replicated vector": Case(
        (2, 2),
        [((8, 12), (_StridedShard(0, split_factor=2), S0)), ((8,), (S0, R))],
        {DATA: 2, TENSOR: 2},
        2 * 15 + 2,
    ),
    "two ways": Case((2, 2), [((8, 12), (S0, R)), ((8, 12), (R, S1))], {DATA: 2, TENSOR: 2}, 15 + 10),
}


def step(case: Case) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", case.mesh, mesh_dim_names=(DATA, TENSOR)[: len(case.mesh)])
    params = []
    for number, (shape, placements) in enumerate(case.params):
        generator = torch.Generator().manual_seed(number)
        params.append(shardings.shard(torch.randn(shape, generator=generator), mesh, placements).requires_grad_())
        params[-1].grad = shardings.shard(torch.randn(shape, generator=generator), mesh, placements)
    optimizer = Adafactor(params, **case.options)
    optimizer.step()
    with shardings.Counting() as counting:
        optimizer.step()
    names = {str(mesh.get_group(dim).group_name): (DATA, TENSOR)[dim] for dim in range(mesh.ndim)}
    return {
        "all_reduces": {names[group]: count for group, count in counting.all_reduces.items()},
        "sent": counting.sent_over.total(),
        "others": counting.others,
    }


def everything() -> tuple[dict[str, Any], dict[str, Any]]:
    steps = {name: step(case) for name, case in CASES.items()}
    mesh = init_device_mesh("cpu", (4,))
    others = {
        "partial": refusal(mesh),
        "capturable": unsupported(mesh, "capturable"),
        "found_inf": skipped(mesh, (8, 12)),
        "found_inf, without sums of squares": skipped(mesh, (8,), **UNSCALED),
        "implementation": implementation(mesh),
        "nonfinite": nonfinite(mesh),
        "raised": raised(mesh),
        "models": {name: of_model(name) for name in models.SHARDINGS},
    }
    return steps, others


def of_model(name: str) -> list[int]:
    """How many all-reduces the step of a whole model takes over each process group."""
    model = models.SHARDINGS[name](models.model())
    optimizer = Adafactor(model.parameters())
    models.loss(model, 0).backward()
    with shardings.Counting() as counting:
        optimizer.step()
    assert counting.others == 0
    return sorted(counting.all_reduces.values())


def refusal(mesh: DeviceMesh) -> str:
    """What is said of a gradient that is yet to be reduced."""
    param = distribute_tensor(torch.ones(8, 12), mesh, [R]).requires_grad_()
    param.grad = DTensor.from_local(torch.ones(8, 12), mesh, [Partial()])
    with pytest.raises(RuntimeError) as raised:
        Adafactor([param]).step()
    return str(raised.value)


def unsupported(mesh: DeviceMesh, argument: str) -> str:
    """What is said of an option that sharded parameters do not support."""
    param = distribute_tensor(torch.ones(8, 12), mesh, [S0]).requires_grad_()
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError) as raised:
        Adafactor([param], **{argument: True}).step()
    return str(raised.value)


def skipped(mesh: DeviceMesh, shape: tuple[int, ...], **options: Any) -> list[bool]:
    """Whether parameters and steps stay the same where the last process has found an infinite gradient."""
    params = [distribute_tensor(torch.ones(shape), mesh, [placement]).requires_grad_() for placement in (S0, R)]
    optimizer = Adafactor(params, **options)
    same = []
    for rank in (None, mesh.size() - 1, None):
        before = [shardings.whole(param) for param in params]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.grad_scale = torch.tensor(2.0)
        optimizer.found_inf = torch.tensor(float(mesh.get_rank() == rank))
        optimizer.step()
        same.append(all(torch.equal(shardings.whole(param), old) for param, old in zip(params, before, strict=True)))
    same.append({float(state["step"]) for state in optimizer.state.values()} == {2.0})
    return same


def nonfinite(mesh: DeviceMesh) -> tuple[bool, int | None]:
    """Whether parameters stay the same where another process has a NaN, and how many steps were skipped."""
    param = distribute_tensor(torch.ones(8, 12), mesh, [S0]).requires_grad_()
    optimizer = Adafactor([param], on_nonfinite="skip")
    param.grad = torch.ones_like(param)
    if mesh.get_rank() == 2:
        param.grad.to_local()[0, 0] = torch.nan
    optimizer.step()
    return torch.equal(shardings.whole(param), torch.ones(8, 12)), optimizer.skipped_steps


def raised(mesh: DeviceMesh) -> str:
    """What is said where the last process has a NaN, in a shard of the second parameter."""
    params = [distribute_tensor(torch.ones(8, 12), mesh, [S0]).requires_grad_() for _ in range(2)]
    optimizer = Adafactor([("first", params[0]), ("second", params[1])], on_nonfinite="raise")
    for param in params:
        param.grad = torch.ones_like(param)
    if mesh.get_rank() == mesh.size() - 1:
        params[1].grad.to_local()[0, :3] = torch.nan
    with pytest.raises(RuntimeError) as error:
        optimizer.step()
    return str(error.value)


def implementation(mesh: DeviceMesh) -> list[str]:
    """What takes the step of a sharded parameter, of a replicated one, and of one that is not a DTensor."""
    params = [distribute_tensor(torch.ones(8, 12), mesh, [placement]).requires_grad_() for placement in (S0, R)]
    params.append(torch.ones(8, 12, requires_grad=True))
    return [choice.path for choice in Adafactor(params).implementation().values()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return processes.run(everything, 4, tmp_path_factory.mktemp("collectives"))


@pytest.mark.parametrize("name", CASES)
def test_collectives_are_those_that_are_needed(results: list[Any], name: str) -> None:
    case = CASES[name]
    for steps, _ in results:
        assert steps[name] == {"all_reduces": case.all_reduces, "sent": case.sent, "others": 0}


def test_a_whole_model_takes_two_all_reduces_over_each_process_group(results: list[Any]) -> None:
    one_group = ("fsdp2", "fsdp2 of columns", "hsdp", "tensor parallel")
    for _, other in results:
        assert other["models"] == {name: [2, 2] if name not in one_group else [2] for name in models.SHARDINGS}


def test_partial_gradients_are_refused(results: list[Any]) -> None:
    for _, other in results:
        assert "does not support gradients with Partial placements" in other["partial"]
        assert "p.grad = p.grad.redistribute(placements=p.placements)" in other["partial"]


def test_steps_of_sharded_parameters_cannot_be_captured(results: list[Any]) -> None:
    for _, other in results:
        assert other["capturable"] == (
            "capturable=True is not supported: the parameter is sharded over several processes, whose all-reduces are "
            "not captured in a CUDA graph"
        )


def test_nothing_changes_where_any_process_has_found_an_infinite_gradient(results: list[Any]) -> None:
    for _, other in results:
        assert other["found_inf"] == [False, True, False, True]
        assert other["found_inf, without sums of squares"] == [False, True, False, True]


def test_a_sharded_parameter_takes_the_path_of_an_ordinary_one(results: list[Any]) -> None:
    for _, other in results:
        sharded, replicated, ordinary = other["implementation"]
        assert sharded == replicated == ordinary


def test_nothing_changes_where_any_process_has_a_gradient_of_nan_that_is_to_be_skipped(results: list[Any]) -> None:
    for _, other in results:
        assert other["nonfinite"] == (True, 1)


def test_all_processes_say_the_same_where_one_has_a_gradient_of_nan(results: list[Any]) -> None:
    said = {other["raised"] for _, other in results}

    assert len(said) == 1
    assert "parameter 'second' is not finite in 3 of 24 elements on process 3; the step changed nothing" in said.pop()
