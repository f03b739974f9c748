"""The scalars of a step: against their table, for every option and step."""

from __future__ import annotations

import pytest
import torch

from lightning_adafactor import rule
from lightning_adafactor.rule import Rule, state_dtype
from tests.lightning_adafactor.scalars import SCALARS, Case, cases


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


@pytest.mark.parametrize("name", SCALARS)
def test_scalar_is_that_of_the_table_for_every_option_and_step(name: str) -> None:
    checked = 0
    for case in cases(SCALARS[name].depends_on):
        expected = SCALARS[name].formula(case)
        assert value_of(name, case) == pytest.approx(expected, rel=1e-14, abs=0.0, nan_ok=True), case
        checked += 1
    assert checked >= 3


def value_of(name: str, case: Case) -> float:
    """What the rule computes."""
    group = Rule(**case.options())
    arguments = {
        "omega": (case.t,),
        "rho": (case.t,),
        "alpha": (case.t, case.rms),
        "clip": (case.rms_of_update,),
        "update_scale": (group.alpha(case.t, case.rms), case.rms_of_update),
        "decay_factor": (group.alpha(case.t, case.rms),),
    }.get(name, (torch.zeros(1, dtype=case.dtype),))
    return getattr(group, name)(*arguments)


def test_documented_table_has_the_same_scalars() -> None:
    assert rule.__doc__ is not None
    lines = [line.split() for line in rule.__doc__.splitlines()]
    first, header, last = (number for number, words in enumerate(lines) if words and set(words[0]) == {"="})
    documented = [words[:2] for words in lines[header:last] if words[0] in SCALARS]
    assert lines[first + 1][:3] == ["scalar", "symbol", "formula"]
    assert [name for name, _ in documented] == list(SCALARS)
    for name, symbol in documented:
        assert SCALARS[name].symbol in ("", symbol)


# The same by numbers written down ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "omega"), [(1, 1.0), (2, 0.5743491774985174), (1000, 0.003981071705534973)])
def test_omega_is_a_power_of_the_step(t: int, omega: float) -> None:
    assert Rule(lr=1e-2).omega(t) == pytest.approx(omega)


@pytest.mark.parametrize(
    ("options", "t", "rho"),
    [
        ({}, 1, 0.05),
        ({}, 1600, 0.025),
        ({"relative_step": False}, 1600, 0.05),
        ({"warmup_init": True}, 1600, 1.6e-3),
        ({"warmup_init": True}, 10_000, 1e-2),
        ({"warmup_init": True}, 1_000_000, 1e-3),
    ],
)
def test_rho(options: dict[str, object], t: int, rho: float) -> None:
    assert Rule(**{"lr": 0.05, **options}).rho(t) == pytest.approx(rho)


@pytest.mark.parametrize(("rms", "alpha"), [(3.0, 0.15), (0.0, 0.001), (0.02, 0.001)])
def test_alpha_is_rho_times_the_larger_of_rms_and_eps2(rms: float, alpha: float) -> None:
    assert Rule(lr=0.05, eps2=0.02).alpha(1, rms) == pytest.approx(alpha)


def test_weight_decay_takes_lr_in_torchs_dialect_and_alpha_in_transformers() -> None:
    assert Rule(lr=0.5, weight_decay=0.1).decay_factor(alpha=0.01) == pytest.approx(0.95)
    assert Rule(lr=0.5, weight_decay=0.1, dialect="transformers").decay_factor(alpha=0.01) == pytest.approx(0.999)


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


def test_only_bfloat16_is_rounded_stochastically() -> None:
    rule = Rule(lr=1.0, stochastic_rounding=True)
    rounded = {dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
               if rule.rounds_stochastically(torch.zeros(1, dtype=dtype))}  # fmt: skip

    assert rounded == {torch.bfloat16}
    assert not Rule(lr=1.0).rounds_stochastically(torch.zeros(1, dtype=torch.bfloat16))
