"""What a step collects holds gradients only until its end, and autograd learns what it has written to."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_adafactor import Adafactor
from lightning_adafactor.entry import Entry
from lightning_adafactor.rule import Rule
from lightning_adafactor.work import Work


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError, KeyboardInterrupt])
def test_gradients_are_released_however_a_step_ends(error: type[BaseException] | None) -> None:
    grad = torch.ones(3)
    state = {"step": torch.tensor(0.0), "variance": torch.zeros(3)}
    entry = Entry.of(torch.zeros(3), grad, state, 0, Rule(lr=0.1))
    with contextlib.suppress(error or ZeroDivisionError), Work() as work:
        work.add(entry, "fused", entry.param)
        if error is not None:
            raise error
    assert entry.grad is not grad


def test_autograd_learns_that_a_step_has_changed_a_replicated_parameter(arguments: dict[str, Any]) -> None:
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        first, second = (
            nn.Parameter(DTensor.from_local(torch.ones(4, 4), mesh, (Replicate(),), run_check=False)) for _ in range(2)
        )
        optimizer = Adafactor([first, second], **arguments)
        loss = (first @ second).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    finally:
        distributed.destroy_process_group()
