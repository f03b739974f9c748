"""What a step collects holds gradients only until its end."""

from __future__ import annotations

import contextlib

import pytest
import torch

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
