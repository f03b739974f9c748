"""The model of docs/scale.md against what sharded steps hold and send, and the page against the model."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from benchmarks import collectives
from benchmarks.shapes import LARGE, Shape
from lightning_adafactor import Adafactor, adamw_state, measure_state
from tests.lightning_adafactor.sharded import processes, shardings

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "scale.md"
SHAPES = (
    Shape("model.embed_tokens.weight", (51, 16)),
    Shape("layer.q_proj.weight", (16, 16)),
    Shape("layer.k_proj.weight", (6, 16)),
    Shape("layer.o_proj.weight", (16, 16)),
    Shape("layer.up_proj.weight", (22, 16)),
    Shape("layer.down_proj.weight", (16, 22)),
    Shape("layer.norm.weight", (17,)),
)
MESHES = {"FSDP2": {"data": 4, "tensor": 1}, "tensor": {"data": 1, "tensor": 4}, "both": {"data": 2, "tensor": 2}}


def counted(sizes: dict[str, int], scale_parameter: bool) -> dict[str, Any]:
    """What this process holds after a step, and sends in one."""
    dims = [dim for dim, size in sizes.items() if size > 1]
    mesh = init_device_mesh("cpu", tuple(sizes[dim] for dim in dims), mesh_dim_names=tuple(dims))
    params = []
    for shape in SHAPES:
        rows, columns = collectives.sharded_over(shape, sizes)
        placements: dict[str, Placement] = {dim: Replicate() for dim in dims}
        placements |= {dim: Shard(0) for dim in rows} | {dim: Shard(1) for dim in columns}
        if len(rows) == 2:
            placements["data"] = _StridedShard(0, split_factor=sizes["tensor"])
        of_mesh = mesh if len(shape.size) > 1 else mesh["data"] if "data" in dims else None  # norms are FSDP2's alone
        if of_mesh is None:
            params.append(torch.ones(shape.size, requires_grad=True))
            params[-1].grad = torch.ones(shape.size)
            continue
        own = tuple(placements[dim] for dim in of_mesh.mesh_dim_names)
        params.append(shardings.shard(torch.ones(shape.size), of_mesh, own).requires_grad_())
        params[-1].grad = shardings.shard(torch.ones(shape.size), of_mesh, own)
    optimizer = Adafactor(params, scale_parameter=scale_parameter)
    optimizer.step()
    with shardings.Counting() as counting:
        optimizer.step()
    names = {str(mesh.get_group(dim).group_name): dim for dim in dims}
    return {
        "sent": {"data": 0, "tensor": 0} | {names[group]: 4 * count for group, count in counting.sent_over.items()},
        "adafactor": measure_state(optimizer.state).bytes,
        "adamw": adamw_state(params).bytes,
    }


def everything() -> dict[tuple[str, bool], dict[str, Any]]:
    return {(name, scaled): counted(sizes, scaled) for name, sizes in MESHES.items() for scaled in (True, False)}


@pytest.fixture(scope="module")
def of_first(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], dict[str, Any]]:
    """What the first process counted, which has the largest shards."""
    return processes.run(everything, 4, tmp_path_factory.mktemp("counted"))[0]


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "not scaled"])
@pytest.mark.parametrize("name", MESHES)
def test_model_predicts_what_is_held_and_sent(of_first: dict[Any, Any], name: str, scaled: bool) -> None:
    account = collectives.account(SHAPES, **MESHES[name], scale_parameter=scaled)
    predicted = {"sent": account.sent, "adafactor": account.adafactor, "adamw": account.adamw}
    assert of_first[name, scaled] == predicted


def test_one_device_sends_nothing() -> None:
    assert collectives.account(SHAPES, data=1).sent == {"data": 0, "tensor": 0}


def test_time_is_that_of_a_ring() -> None:
    assert collectives.seconds({"data": 100, "tensor": 0}, {"data": 4, "tensor": 1}, 50.0) == 2 * 3 / 4 * 100 / 50


@pytest.mark.parametrize("name", LARGE)
def test_page_has_the_tables_of_the_model(name: str) -> None:
    assert collectives.table(LARGE[name]) in PAGE.read_text(encoding="utf-8")


def test_page_has_the_table_with_tensor_parallelism() -> None:
    assert collectives.table(LARGE["70B"], tensor=8) in PAGE.read_text(encoding="utf-8")


def test_command_prints_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    collectives.main(["--tensor", "8", "--model", "70B"])
    assert capsys.readouterr().out == collectives.table(LARGE["70B"], tensor=8) + "\n"
