"""The schedules of a step, number by number."""

from __future__ import annotations

import pytest
import torch

from lightning_adafactor.rule import Rule, state_dtype


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_state_is_at_least_fp32(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert state_dtype(torch.zeros(2, dtype=dtype)) == expected


@pytest.mark.parametrize(("t", "omega"), [(1, 1.0), (2, 0.5743491774985174), (1000, 0.003981071705534973)])
def test_omega_is_a_power_of_the_step(t: int, omega: float) -> None:
    assert Rule(lr=1e-2).omega(t) == pytest.approx(omega)


@pytest.mark.parametrize("beta2_decay", [-0.8, -0.1, 0.0])
def test_first_step_overwrites_the_state(beta2_decay: float) -> None:
    assert Rule(lr=1e-2, beta2_decay=beta2_decay).omega(1) == 1.0


@pytest.mark.parametrize(
    ("options", "t", "rho"),
    [
        ({}, 1, 0.05),
        ({}, 400, 0.05),
        ({}, 1600, 0.025),
        ({"relative_step": False}, 1600, 0.05),
        ({"warmup_init": True}, 1, 1e-6),
        ({"warmup_init": True}, 1600, 1.6e-3),
        ({"warmup_init": True}, 1_000_000, 1e-3),
        ({"lr": 0.0}, 1, 0.0),
        ({"lr": torch.tensor(0.5, dtype=torch.float64)}, 1, 0.5),
    ],
)
def test_rho(options: dict[str, object], t: int, rho: float) -> None:
    assert Rule(**{"lr": 0.05, **options}).rho(t) == pytest.approx(rho)


@pytest.mark.parametrize(("rms", "alpha"), [(3.0, 0.15), (0.0, 0.001), (0.02, 0.001)])
def test_alpha_is_rho_times_the_larger_of_rms_and_eps2(rms: float, alpha: float) -> None:
    assert Rule(lr=0.05, eps2=0.02).alpha(1, rms) == pytest.approx(alpha)


def test_alpha_without_scaling_is_rho() -> None:
    assert Rule(lr=0.05, scale_parameter=False).alpha(1, 3.0) == 0.05


def test_weight_decay_takes_lr_in_torchs_dialect_and_alpha_in_transformers() -> None:
    assert Rule(lr=0.5, weight_decay=0.1).retained(alpha=0.01) == pytest.approx(0.95)
    assert Rule(lr=0.5, weight_decay=0.1, dialect="transformers").retained(alpha=0.01) == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("dtype", "epsilon"),
    [
        (torch.float64, 2.0**-52),
        (torch.float32, 2.0**-23),
        (torch.bfloat16, 2.0**-23),
        (torch.float16, 2.0**-23),
    ],
)
def test_eps1_none_is_the_machine_epsilon_of_the_arithmetic(dtype: torch.dtype, epsilon: float) -> None:
    param = torch.zeros(2, dtype=dtype)

    assert Rule(lr=1.0).epsilon1(param) == epsilon
    assert Rule(lr=1.0, eps1=1e-5).epsilon1(param) == 1e-5


def test_eps1_is_a_floor_in_torchs_dialect_and_an_addition_in_transformers() -> None:
    param = torch.zeros(2)
    as_torch, as_transformers = Rule(lr=1.0, eps1=1e-5), Rule(lr=1.0, eps1=1e-5, dialect="transformers")

    assert (as_torch.mean_floor(param), as_torch.variance_floor(param)) == (1e-5, pytest.approx(1e-10))
    assert as_torch.added_to_squares(param) == 0.0
    assert (as_transformers.mean_floor(param), as_transformers.variance_floor(param)) == (0.0, 0.0)
    assert as_transformers.added_to_squares(param) == 1e-5


def test_only_bfloat16_is_rounded_stochastically() -> None:
    rule = Rule(lr=1.0, stochastic_rounding=True)
    rounded = {dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
               if rule.rounds_stochastically(torch.zeros(1, dtype=dtype))}  # fmt: skip

    assert rounded == {torch.bfloat16}
    assert not Rule(lr=1.0).rounds_stochastically(torch.zeros(1, dtype=torch.bfloat16))
