"""Equal numbers to torch.optim.Adafactor, transformers.Adafactor and the rule written out, over the grid of ``specs``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.reference import Reference
from tests.lightning_adafactor.specs import (
    ADDED_OPTIONS,
    CASES,
    EACH_KIND,
    TOLERANCE,
    TORCH_OPTIONS,
    TRANSFORMERS_OPTIONS,
    Implementation,
    Run,
    assert_same_run,
    run,
)

Make = Callable[..., torch.optim.Optimizer]
Names = tuple[str, ...]

EVERY_CASE = tuple(CASES)
DTYPES = [pytest.param(torch.float64, id="fp64"), pytest.param(torch.float32, id="fp32")]


class ReferenceOptimizer(torch.optim.Optimizer):
    """``Reference`` in an optimizer's clothes, for the harness."""

    def __init__(self, params: list[Tensor], reference: Reference) -> None:
        super().__init__(params, {})
        self.reference = reference

    def step(self, closure: Any = None) -> None:
        params = self.param_groups[0]["params"]
        self.reference.step([param.grad for param in params])
        for param, updated, state in zip(params, self.reference.params, self.reference.state, strict=True):
            param.detach().copy_(updated)
            self.state[param] = state


@functools.cache
def run_of_torch(options: str, names: Names, dtype: torch.dtype) -> Run:
    return run(lambda params: torch.optim.Adafactor(params, **TORCH_OPTIONS[options]), names, dtype)


@functools.cache
def run_of_transformers(options: str, names: Names, dtype: torch.dtype) -> Run:
    return run(lambda params: transformers.Adafactor(params, **TRANSFORMERS_OPTIONS[options]), names, dtype)


@functools.cache
def run_of_reference(dialect: str, options: str, names: Names, dtype: torch.dtype) -> Run:
    arguments = (ADDED_OPTIONS | TORCH_OPTIONS if dialect == "torch" else TRANSFORMERS_OPTIONS)[options]
    return run(lambda params: ReferenceOptimizer(params, Reference(params, dialect, arguments)), names, dtype)


def run_of_ours(
    make: Make, options: dict[str, Any], names: Names, dtype: torch.dtype, implementation: Implementation
) -> Run:
    arguments = {**options, **implementation.arguments}
    return run(lambda params: make(params, **arguments), names, dtype, device=implementation.device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ["defaults", "all"])
def test_every_case_of_torch(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, TORCH_OPTIONS[options], EVERY_CASE, dtype, implementation)

    assert_same_run(ours, run_of_torch(options, EVERY_CASE, dtype), EVERY_CASE, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ["defaults", "all"])
def test_every_case_of_transformers(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(TransformersAdafactor, TRANSFORMERS_OPTIONS[options], EVERY_CASE, dtype, implementation)

    assert_same_run(ours, run_of_transformers(options, EVERY_CASE, dtype), EVERY_CASE, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", TORCH_OPTIONS)
def test_every_option_of_torch(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, TORCH_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_run(ours, run_of_torch(options, EACH_KIND, dtype), EACH_KIND, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", TRANSFORMERS_OPTIONS)
def test_every_option_of_transformers(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(TransformersAdafactor, TRANSFORMERS_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_run(ours, run_of_transformers(options, EACH_KIND, dtype), EACH_KIND, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ADDED_OPTIONS)
def test_every_option_that_torch_lacks(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, ADDED_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_run(ours, run_of_reference("torch", options, EACH_KIND, dtype), EACH_KIND, TOLERANCE[dtype])


@pytest.mark.parametrize("options", ["defaults", "all"])
def test_reference_is_torch(options: str) -> None:
    reference = run_of_reference("torch", options, EVERY_CASE, torch.float64)

    assert_same_run(reference, run_of_torch(options, EVERY_CASE, torch.float64), EVERY_CASE, 1e-8)


@pytest.mark.parametrize("options", ["defaults", "all"])
def test_reference_is_transformers(options: str) -> None:
    reference = run_of_reference("transformers", options, EVERY_CASE, torch.float64)

    assert_same_run(reference, run_of_transformers(options, EVERY_CASE, torch.float64), EVERY_CASE, 1e-8)
