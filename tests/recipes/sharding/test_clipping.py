"""Clipping the gradients of a model that is sharded, in several processes, as torch clips those of a whole one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from recipes.sharding.clipping import clip_by_norm, clip_by_value
from tests.lightning_adafactor.sharded import models, processes, shardings

SHARDINGS = ("fsdp2", "hsdp", "tensor parallel", "fsdp2 and tensor parallel")
LIMITS = {"norm": 0.1, "a norm that nothing exceeds": 1e6, "value": 1e-3}


def clip(kind: str, parameters: list[nn.Parameter], by_norm: Callable[..., Any], by_value: Callable[..., Any]) -> float:
    """The norm before, 0 where it is not computed."""
    if kind == "value":
        by_value(parameters, LIMITS[kind])
        return 0.0
    return float(by_norm(parameters, LIMITS[kind]))


def clipped(model: nn.Module, kind: str, by_norm: Callable[..., Any], by_value: Callable[..., Any]) -> dict[str, Any]:
    """The gradients of two batches, added up and clipped, and their norm before; one parameter has none."""
    for step in range(2):
        models.loss(model, step).backward()
    model.get_parameter("mix.bias").grad = None
    norm = clip(kind, list(model.parameters()), by_norm, by_value)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: shardings.whole(grad) for name, grad in grads.items() if grad is not None} | {"": torch.tensor(norm)}


def sharded() -> dict[tuple[str, str], dict[str, Tensor]]:
    found = {}
    for name in SHARDINGS:
        for kind in LIMITS:
            model = models.SHARDINGS[name](models.model())
            assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
            found[name, kind] = clipped(model, kind, clip_by_norm, clip_by_value)
    return found


@pytest.mark.slow
def test_gradients_are_clipped_as_those_of_one_process(tmp_path: Path) -> None:
    ranks = processes.run(sharded, 4, tmp_path)

    for kind in LIMITS:
        torch_clips = (torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_)
        wanted = clipped(models.model(), kind, *torch_clips)
        for name in SHARDINGS:
            for rank in ranks:
                torch.testing.assert_close(rank[name, kind], wanted, rtol=1e-5, atol=1e-8, msg=f"{name}, {kind}")
