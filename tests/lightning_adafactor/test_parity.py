"""Numbers equal to torch.optim.Adafactor's and transformers.Adafactor's, over the grid of ``specs``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.compiled.available import needs_compiled
from tests.lightning_adafactor.reference import Reference, ReferenceOptimizer
from tests.lightning_adafactor.specs import (
    ADDED_OPTIONS,
    CASES,
    EACH_KIND,
    IMPLEMENTATIONS,
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
ON = [(name, dtype) for name in IMPLEMENTATIONS for dtype in (torch.float64, torch.float32)]
QUICK = (("plain", torch.float64), ("compiled", torch.float64), ("compiled", torch.float32))
"""What every option is tested on; arithmetic in float32 is that of float64, and tiles do not know the options."""


def on(*quick: tuple[str, torch.dtype]) -> list[Any]:
    """Implementations and dtypes as parameters of a test; all but some are slow tests."""
    return [
        pytest.param(
            name,
            dtype,
            id=f"{name}-{dtype}",
            marks=[needs_compiled] * (name == "compiled") + [pytest.mark.slow] * ((name, dtype) not in quick),
        )
        for name, dtype in ON
    ]


@functools.cache
def run_of_torch(options: str, names: Names, dtype: torch.dtype) -> Run:
    return run(lambda params: torch.optim.Adafactor(params, **TORCH_OPTIONS[options]), names, dtype)


@functools.cache
def run_of_transformers(options: str, names: Names, dtype: torch.dtype) -> Run:
    return run(lambda params: transformers.Adafactor(params, **TRANSFORMERS_OPTIONS[options]), names, dtype)


@functools.cache
def run_of_reference(dialect: str, options: str, names: Names, dtype: torch.dtype) -> Run:
    arguments = (ADDED_OPTIONS | TORCH_OPTIONS if dialect == "torch" else TRANSFORMERS_OPTIONS)[options]
    return run(lambda params: ReferenceOptimizer(params, dialect, arguments), names, dtype)


def run_of_ours(
    make: Make, options: dict[str, Any], names: Names, dtype: torch.dtype, implementation: Implementation
) -> Run:
    arguments = {**options, **implementation.arguments}
    return run(lambda params: make(params, **arguments), names, dtype, device=implementation.device)


@pytest.mark.parametrize(("implementation", "dtype"), on(*QUICK, ("plain", torch.float32)), indirect=["implementation"])
@pytest.mark.parametrize("options", ["defaults", "all"])
def test_every_case_of_torch(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, TORCH_OPTIONS[options], EVERY_CASE, dtype, implementation)

    assert_same_run(ours, run_of_torch(options, EVERY_CASE, dtype), EVERY_CASE, TOLERANCE[dtype])


@pytest.mark.parametrize(("implementation", "dtype"), on(*QUICK, ("plain", torch.float32)), indirect=["implementation"])
@pytest.mark.parametrize("options", ["defaults", "all"])
def test_every_case_of_transformers(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(TransformersAdafactor, TRANSFORMERS_OPTIONS[options], EVERY_CASE, dtype, implementation)

    assert_same_run(ours, run_of_transformers(options, EVERY_CASE, dtype), EVERY_CASE, TOLERANCE[dtype])


@pytest.mark.parametrize(("implementation", "dtype"), on(*QUICK), indirect=["implementation"])
@pytest.mark.parametrize("options", TORCH_OPTIONS)
def test_every_option_of_torch(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, TORCH_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_run(ours, run_of_torch(options, EACH_KIND, dtype), EACH_KIND, TOLERANCE[dtype])


@pytest.mark.parametrize(("implementation", "dtype"), on(*QUICK), indirect=["implementation"])
@pytest.mark.parametrize("options", TRANSFORMERS_OPTIONS)
def test_every_option_of_transformers(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(TransformersAdafactor, TRANSFORMERS_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_run(ours, run_of_transformers(options, EACH_KIND, dtype), EACH_KIND, TOLERANCE[dtype])


@pytest.mark.parametrize(("implementation", "dtype"), on(*QUICK), indirect=["implementation"])
@pytest.mark.parametrize("options", ADDED_OPTIONS)
def test_every_option_that_torch_lacks(options: str, dtype: torch.dtype, implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, ADDED_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_run(ours, run_of_reference("torch", options, EACH_KIND, dtype), EACH_KIND, TOLERANCE[dtype])


@pytest.mark.parametrize("implementation", ["plain-256-byte-tiles"], indirect=True)
def test_every_case_in_tiles(implementation: Implementation) -> None:
    ours = run_of_ours(Adafactor, TORCH_OPTIONS["all"], EVERY_CASE, torch.float64, implementation)

    assert_same_run(ours, run_of_torch("all", EVERY_CASE, torch.float64), EVERY_CASE, TOLERANCE[torch.float64])


@pytest.mark.parametrize("options", ["defaults", "all"])
def test_reference_is_torch(options: str) -> None:
    reference = run_of_reference("torch", options, EVERY_CASE, torch.float64)

    assert_same_run(reference, run_of_torch(options, EVERY_CASE, torch.float64), EVERY_CASE, 1e-8)


@pytest.mark.parametrize("options", ["defaults", "all"])
def test_reference_is_transformers(options: str) -> None:
    reference = run_of_reference("transformers", options, EVERY_CASE, torch.float64)

    assert_same_run(reference, run_of_transformers(options, EVERY_CASE, torch.float64), EVERY_CASE, 1e-8)


LOW_PRECISION = [
    pytest.param(
        name,
        dtype,
        id=f"{name}-{dtype}",
        marks=[needs_compiled] * (name == "compiled")
        + [pytest.mark.slow] * (IMPLEMENTATIONS[name].tile_bytes is not None),
    )
    for name in IMPLEMENTATIONS
    for dtype in (torch.bfloat16, torch.float16)
]


def assert_same_low_precision_run(ours: Run, theirs: Run) -> None:
    """Equal states, and parameters rounded alike except for values near the middle of two representable ones."""
    bits = torch.int16
    for number, name in enumerate(EACH_KIND):
        own, other = ours.states[number][-1], theirs.states[number][-1]
        assert own.keys() == other.keys(), name
        for key in other:
            assert own[key].dtype == torch.float32, (name, key)
            # what follows from the parameter, momentum alone, follows its rounding
            rtol = 1e-2 if key == "exp_avg" else 2e-5
            off = (own[key] - other[key]).norm()
            assert off <= rtol * other[key].norm(), (name, key)
        one, two = torch.stack(ours.params[number]), torch.stack(theirs.params[number])
        apart = (one.view(bits).int() - two.view(bits).int()).abs()
        assert apart.max() <= 1, name
        assert (apart > 0).float().mean() < 0.01, name


@pytest.mark.parametrize(("implementation", "dtype"), LOW_PRECISION, indirect=["implementation"])
@pytest.mark.parametrize("options", ["constant lr", "all"])
def test_low_precision_parameters_of_transformers(
    options: str, dtype: torch.dtype, implementation: Implementation
) -> None:
    ours = run_of_ours(TransformersAdafactor, TRANSFORMERS_OPTIONS[options], EACH_KIND, dtype, implementation)

    assert_same_low_precision_run(ours, run_of_transformers(options, EACH_KIND, dtype))


@pytest.mark.parametrize(("implementation", "dtype"), LOW_PRECISION, indirect=["implementation"])
@pytest.mark.parametrize("options", ["constant lr", "all"])
def test_low_precision_parameters_of_torch_with_arithmetic_in_fp32(
    options: str, dtype: torch.dtype, implementation: Implementation
) -> None:
    arguments = (TORCH_OPTIONS | ADDED_OPTIONS)[options]
    ours = run_of_ours(Adafactor, {"stochastic_rounding": False, **arguments}, EACH_KIND, dtype, implementation)

    def reference(params: list[Tensor]) -> torch.optim.Optimizer:
        return ReferenceOptimizer(params, "torch", arguments, dtype=torch.float32)

    assert_same_low_precision_run(ours, run(reference, EACH_KIND, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates_of_parameters_near_zero(dtype: torch.dtype, implementation: Implementation) -> None:
    """Updates agree to the last few digits where they are not lost in the parameter's rounding."""
    names = ("starts at zero", "tiny parameter")
    options = {"scale_parameter": False}
    ours = run_of_ours(Adafactor, options, names, dtype, implementation)
    theirs = run(lambda params: ReferenceOptimizer(params, "torch", options), names, dtype)

    for own, other in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(own[1], other[1], rtol=20 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        pytest.param(
            Adafactor,
            torch.optim.Adafactor,
            [{"lr": 0.5}, {"weight_decay": 0.2, "d": 2.0}, {"maximize": True, "beta2_decay": -0.4, "eps": (1e-4, 0.1)}],
            id="torch",
        ),
        pytest.param(
            TransformersAdafactor,
            transformers.Adafactor,
            [
                {"lr": 0.1, "relative_step": False},
                {"weight_decay": 0.2, "clip_threshold": 2.0, "warmup_init": True},
                {"beta1": 0.5, "decay_rate": -0.4, "eps": (1e-9, 0.1)},
            ],
            id="transformers",
        ),
    ],
)
def test_each_group_has_its_own_options(
    ours: Make, theirs: Make, options: list[dict[str, Any]], implementation: Implementation
) -> None:
    def grouped(make: Make, **shared: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
        def of(params: list[Tensor]) -> torch.optim.Optimizer:
            return make([{"params": params[i::3], **given} for i, given in enumerate(options)], **shared)

        return of

    one = run(grouped(ours, **implementation.arguments), EACH_KIND, torch.float64, device=implementation.device)
    other = run(grouped(theirs), EACH_KIND, torch.float64)

    assert_same_run(one, other, EACH_KIND, 1e-8)


def test_eps1_none_is_the_machine_epsilon_of_each_parameters_arithmetic(implementation: Implementation) -> None:
    """torch 2.13 takes that of the first parameter for all that follow."""
    generator = torch.Generator().manual_seed(0)
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float64, torch.float32]
    starts = [torch.randn(6, 4, generator=generator, dtype=torch.float64).to(dtype) for dtype in dtypes]
    grads = [torch.randn(6, 4, generator=generator, dtype=torch.float64).mul(1e-9).to(dtype) for dtype in dtypes]
    params = [start.clone().to(implementation.device).requires_grad_() for start in starts]
    optimizer = Adafactor(params, lr=1.0, stochastic_rounding=False, **implementation.arguments)
    for _ in range(3):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.to(implementation.device)
        optimizer.step()

    for param, start, grad in zip(params, starts, grads, strict=True):
        alone = Reference([start], "torch", {"lr": 1.0}, dtype=torch.promote_types(start.dtype, torch.float32))
        for _ in range(3):
            alone.step([grad])
        torch.testing.assert_close(param.detach().cpu(), alone.params[0])
        assert param.dtype != torch.float64 or not torch.equal(param.detach().cpu(), start)
