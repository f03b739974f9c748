"""The predicted temporaries of an optimizer's step are those of a real step."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Adafactor as TheirAdafactor

from lightning_adafactor import Adafactor
from recipes.estimate.activations import LiveBytes
from recipes.estimate.step import step_bytes

SHAPES = [(64, 64)] * 5 + [(32, 64), (64,)]
SIZE = 4 * (5 * 64 * 64 + 32 * 64 + 64)


def on_meta() -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]}]


def measured(make: Callable[..., torch.optim.Optimizer]) -> int:
    """The peak that torch's operations allocate in the second step of an optimizer."""
    parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = make(parameters)
    optimizer.step()
    state = [value for held in optimizer.state.values() for value in held.values() if torch.is_tensor(value)]
    with LiveBytes([*parameters, *(p.grad for p in parameters if p.grad is not None), *state]) as tracker:
        optimizer.step()
    return tracker.peak


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adafactor, torch.optim.SGD])
def test_predicted_temporaries_are_those_of_a_real_step(
    make: Callable[..., torch.optim.Optimizer], foreach: bool
) -> None:
    make = functools.partial(make, foreach=foreach)

    assert step_bytes(make, on_meta(), gpu=False) == measured(make)


def test_adamw_takes_the_size_of_its_parameters_on_a_gpu_unless_fused() -> None:
    on_gpu, on_cpu = (step_bytes(torch.optim.AdamW, on_meta(), gpu) for gpu in (True, False))

    assert on_gpu is not None
    assert on_cpu is not None
    assert SIZE <= on_gpu < 1.01 * SIZE
    assert on_cpu < 0.6 * SIZE
    assert step_bytes(functools.partial(torch.optim.AdamW, fused=True), on_meta(), gpu=True) == 0


def test_temporaries_of_transformers_adafactor_are_predicted_except_for_scalars() -> None:
    make = functools.partial(TheirAdafactor, lr=1e-3, scale_parameter=False, relative_step=False)

    assert step_bytes(make, on_meta(), gpu=False) == pytest.approx(measured(make), abs=64)


def test_a_step_in_a_librarys_own_kernels_is_not_predicted() -> None:
    assert step_bytes(Adafactor, on_meta(), gpu=True) is None


def test_a_step_that_reads_values_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(optimizer: torch.optim.SGD, closure: Any = None) -> None:
        if bool((optimizer.param_groups[0]["params"][0].grad > 1e30).any()):
            raise ValueError("a gradient is too large")

    monkeypatch.setattr(torch.optim.SGD, "step", step)

    assert step_bytes(torch.optim.SGD, on_meta(), gpu=False) is None
