"""The fused step in parts: the bits of the whole step, and tables that are kept for each part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor import Adafactor, release_gradients
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape, assert_same_bits


def params(device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(20, 9), (7,), (5, 3), (4,)]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [param.to(device, torch.bfloat16).requires_grad_() for param in made]


def test_parts_have_the_bits_of_the_whole_and_keep_their_tables(device: str) -> None:
    whole, parted = params(device), params(device)
    one, other = harness.fused(whole), harness.fused(parted)
    harness.train(one, harness.random_gradients, range(2))
    tables: list[Any] = []
    for step in range(2):
        for number, param in enumerate(parted):
            param.grad = harness.random_gradients(step, number, param)
        for part in (parted[2:], parted[:2]):
            other.step_parameters(part)
            for param in part:
                param.grad = None
        other.step()
        kept = other._kept_steps_of_parts
        assert kept is not None
        tables.append([id(table) for part in kept.values() if part.fused for table in part.fused.tables.values()])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2
    for left, right in zip(whole, parted, strict=True):
        assert torch.equal(left, right)


@pytest.mark.slow
def test_released_gradients_have_the_same_bits(device: str) -> None:
    found = []
    for release in (False, True):
        model = models.model(Shape(depth=2, tied=True)).to(device)
        optimizer = Adafactor(models.groups(model), fused=True)
        if release:
            release_gradients(optimizer, model)
        for tokens in models.batches(2):
            optimizer.zero_grad()
            models.loss_of(model, tokens.to(device), True).backward()
            optimizer.step()
        found.append({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
    assert_same_bits(found[1], found[0])
