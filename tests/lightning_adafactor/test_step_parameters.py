"""``step_parameters``: a step in parts is the step of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor

SHAPES = [(4, 6), (6,), (2, 3, 4), (), (6, 4), (0,)]


def params() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in SHAPES]


def optimizer_of(of: Any, made: list[Tensor]) -> Any:
    options: dict[str, Any] = {"stochastic_rounding": True, "compiled": False}
    return of([{"params": made[:3], "weight_decay": 0.1}, {"params": made[3:]}], **options)


def set_gradients(made: list[Tensor], step: int, missing: int | None = None) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for number, param in enumerate(made):
        gradient = torch.randn(param.shape, generator=generator).bfloat16()
        param.grad = None if number == missing else gradient


def assert_same(one: list[Tensor], other: list[Tensor], optimizers: tuple[Any, Any]) -> None:
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)
        states = optimizers[0].state[left], optimizers[1].state[right]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@settings(deadline=None, max_examples=30)
@given(
    order=st.permutations(range(len(SHAPES))),
    cut=st.integers(0, len(SHAPES)),
    missing=st.none() | st.integers(0, len(SHAPES) - 1),
    of=st.sampled_from([Adafactor, TransformersAdafactor]),
)
def test_parts_and_the_rest_are_one_step(order: list[int], cut: int, missing: int | None, of: Any) -> None:
    whole, parted = params(), params()
    optimizers = optimizer_of(of, whole), optimizer_of(of, parted)
    for step in range(2):
        set_gradients(whole, step, missing)
        set_gradients(parted, step, missing)
        optimizers[0].step()
        part = [parted[number] for number in order[:cut]]
        optimizers[1].step_parameters(part)
        for param in part:
            param.grad = None
        optimizers[1].step()
    assert_same(whole, parted, optimizers)


def test_found_inf_leaves_out_a_part() -> None:
    made = params()
    before = [param.detach().clone() for param in made]
    optimizer = optimizer_of(Adafactor, made)
    set_gradients(made, 0)
    optimizer.found_inf = torch.ones(1)
    optimizer.step_parameters(made[:2])
    assert all(torch.equal(param, old) for param, old in zip(made, before, strict=True))


def test_grad_scale_is_divided_out_of_a_part() -> None:
    scaled, plain = params(), params()
    optimizers = optimizer_of(Adafactor, scaled), optimizer_of(Adafactor, plain)
    set_gradients(scaled, 0)
    set_gradients(plain, 0)
    for param in scaled:
        assert param.grad is not None
        param.grad *= 8
    optimizers[0].grad_scale = torch.tensor(8.0)
    optimizers[0].step_parameters(scaled[:4])
    for param in scaled[:4]:
        param.grad = None
    optimizers[0].step()
    optimizers[1].step()
    assert_same(scaled, plain, optimizers)


def test_nothing_is_a_part() -> None:
    optimizer_of(Adafactor, params()).step_parameters([])


@pytest.mark.parametrize("value", ["skip", "raise"])
def test_a_decision_about_whole_steps_has_no_parts(value: Any) -> None:
    made = params()
    with pytest.raises(RuntimeError, match=f"on_nonfinite='{value}' .* set on_nonfinite='ignore'"):
        Adafactor(made, on_nonfinite=value).step_parameters(made)
