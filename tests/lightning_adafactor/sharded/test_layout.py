"""Where a shard lies: what is known of it, and what all processes say where it is not."""

import pathlib

import pytest
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from lightning_adafactor.sharded.layout import region_of
from tests.lightning_adafactor.sharded.processes import run


def said(rows: int) -> str:
    """What region_of says on this process of a weight that FSDP2 over tensor parallelism shards twice by rows."""
    mesh = init_device_mesh("cpu", (3, 2), mesh_dim_names=("data", "tensor"))
    layer = parallelize_module(nn.Linear(4, rows, bias=False), mesh["tensor"], ColwiseParallel())
    fully_shard(layer, mesh=mesh["data"])
    try:
        region_of(layer.weight)
    except RuntimeError as error:
        return str(error)
    return "known"


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "known"), [(6, True), (7, False), (8, True)])
def test_every_process_says_that_an_uneven_shard_cannot_be_placed(
    rows: int, known: bool, tmp_path: pathlib.Path
) -> None:
    answers = run(said, 6, tmp_path, rows)

    assert len(set(answers)) == 1
    assert (answers[0] == "known") == known
    assert known or "cannot tell which elements" in answers[0]
