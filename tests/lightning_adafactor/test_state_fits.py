"""A state that does not fit its parameter is an error: implementations get addresses, and trust them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_adafactor import Adafactor
from lightning_adafactor.capture import check_state_for_capture
from lightning_adafactor.parameter_state import check_state, place_state
from tests.lightning_adafactor.compiled.available import needs_compiled


def stepped(shape: tuple[int, ...], steps: int = 2, **arguments: Any) -> tuple[nn.Parameter, Adafactor]:
    """A parameter and its optimizer after some steps."""
    torch.manual_seed(0)
    param = nn.Parameter(torch.randn(shape))
    optimizer = Adafactor([param], **arguments)
    for _ in range(steps):
        take_step(param, optimizer)
    return param, optimizer


def take_step(param: nn.Parameter, optimizer: Adafactor) -> None:
    param.grad = torch.randn_like(param)
    optimizer.step()


@pytest.mark.parametrize(
    ("saved", "loading", "sentence"),
    [
        (
            (8, 16),
            (52, 16),
            r"row_var of a parameter of shape \(52, 16\) should have shape \(52, 1\), but has \(8, 1\)",
        ),
        ((16, 8), (8, 16), r"row_var of a parameter of shape \(8, 16\) should have shape \(8, 1\), but has \(16, 1\)"),
        ((40,), (90,), r"variance of a parameter of shape \(90,\) should have shape \(90,\), but has \(40,\)"),
        ((10,), (3, 4), r"parameter of shape \(3, 4\) should have row_var and col_var, not variance"),
        ((3, 4), (10,), r"parameter of shape \(10,\) should have variance, not row_var"),
    ],
)
def test_the_state_of_another_shape_is_not_loaded(
    saved: tuple[int, ...], loading: tuple[int, ...], sentence: str, arguments: dict[str, Any]
) -> None:
    _, before = stepped(saved, **arguments)
    param, optimizer = stepped(loading, **arguments)
    kept = {name: value.clone() for name, value in optimizer.state[param].items()}
    with pytest.raises(ValueError, match=sentence):
        optimizer.load_state_dict(before.state_dict())
    assert {name: value.shape for name, value in optimizer.state[param].items()} == {
        name: value.shape for name, value in kept.items()
    }
    assert all(torch.equal(value, kept[name]) for name, value in optimizer.state[param].items())
    take_step(param, optimizer)


@pytest.mark.parametrize(("before", "after"), [((8, 16), (200, 16)), ((200, 16), (8, 16)), ((5,), (900,))])
def test_a_parameter_that_got_another_shape_is_an_error(
    before: tuple[int, ...], after: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    param, optimizer = stepped(before, **arguments)
    param.grad = None
    param.data = torch.randn(after)
    with pytest.raises(RuntimeError, match=r"does not fit it: .* let it start anew: del optimizer.state\[param\]"):
        take_step(param, optimizer)

    del optimizer.state[param]
    weights = param.detach().clone()
    take_step(param, optimizer)
    assert not torch.equal(param, weights)


def test_a_gradient_of_another_shape_is_an_error(arguments: dict[str, Any]) -> None:
    param, optimizer = stepped((8, 16), **arguments)
    param.grad = torch.randn_like(param)
    param.data = torch.randn(9, 16)
    with pytest.raises(RuntimeError, match=r"shape \(9, 16\) has a gradient of shape \(8, 16\)"):
        optimizer.step()


@pytest.mark.parametrize("arguments", ["plain", pytest.param("compiled", marks=needs_compiled)], indirect=True)
@pytest.mark.parametrize(("before", "after"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_after_a_change_of_dtype_the_state_is_loaded_again(
    before: torch.dtype, after: torch.dtype, arguments: dict[str, Any]
) -> None:
    module = nn.Linear(16, 8, dtype=before)
    optimizer = Adafactor(module.parameters(), **arguments)
    batch = torch.randn(4, 16)
    module(batch.to(before)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()

    module.to(after)
    module(batch.to(after)).sum().backward()
    with pytest.raises(RuntimeError, match=r"does not fit it: row_var should be .*load the state again"):
        optimizer.step()

    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert optimizer.state[module.weight]["step"] == 2
    assert optimizer.state[module.weight]["row_var"].dtype == after
    assert module.weight.isfinite().all()


def test_a_change_between_float32_and_bfloat16_needs_no_loading(arguments: dict[str, Any]) -> None:
    param, optimizer = stepped((8, 16), **arguments)
    param.grad = None
    param.data = param.data.bfloat16()
    take_step(param, optimizer)
    assert optimizer.state[param]["step"] == 3
    assert optimizer.state[param]["row_var"].dtype == torch.float32


def test_a_gradient_on_another_device_is_an_error() -> None:
    """As after ``param.data = param.data.cuda()``."""
    param, optimizer = stepped((8, 16))
    with pytest.raises(RuntimeError, match="is on cpu, and its gradient on meta"):
        check_state(param, torch.empty(8, 16, device="meta"), optimizer.state[param])


@pytest.mark.parametrize("what", ["no state", "a state elsewhere", "a state of views", "no average"])
def test_a_captured_step_makes_and_moves_no_state(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    param, optimizer = stepped((8, 16), steps=0 if what == "no state" else 1)
    state = optimizer.state[param]
    if what != "no state":
        check_state_for_capture(param, state, with_average=False)
    if what == "a state elsewhere":
        state["step"] = torch.empty((), device="meta")
    if what == "a state of views":
        state["row_var"] = torch.zeros(8, 2)[:, :1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="take one step, also after load_state_dict, and then capture"):
        check_state_for_capture(param, state, with_average=what == "no average")


def test_a_state_whose_second_moments_are_missing_is_an_error(arguments: dict[str, Any]) -> None:
    param, optimizer = stepped((8, 16), **arguments)
    del optimizer.state[param]["col_var"]
    with pytest.raises(RuntimeError, match=r"col_var should be float32 \(1, 16\) on cpu, and is missing"):
        take_step(param, optimizer)


def test_memory_that_a_state_tensor_gets_later_is_used(arguments: dict[str, Any]) -> None:
    moved, optimizer = stepped((8, 16), steps=0, **arguments)
    stays, other = stepped((8, 16), steps=0, **arguments)
    for _ in range(3):
        moved.grad = torch.randn_like(moved)
        assert moved.grad is not None
        stays.grad = moved.grad.clone()
        optimizer.step()
        other.step()
        for value in optimizer.state[moved].values():  # as when the state is taken to another device, and back
            value.data = value.data.clone()
    assert torch.equal(moved, stays)
    for name, value in other.state[stays].items():
        assert torch.equal(optimizer.state[moved][name], value)


def test_torchs_default_device_does_not_matter(arguments: dict[str, Any]) -> None:
    param, optimizer = stepped((8, 16), steps=0, **arguments)
    same, other = stepped((8, 16), steps=2, **arguments)
    torch.manual_seed(0)
    torch.randn(8, 16)
    for device in ("cpu", "meta"):
        gradient = torch.randn(8, 16)
        torch.set_default_device(device)
        try:
            param.grad = gradient
            optimizer.step()
        finally:
            torch.set_default_device(None)
    assert torch.equal(param, same)
    assert optimizer.state[param]["step"].device.type == "cpu"
    assert other.state[same]["step"] == 2


def test_averages_that_are_views_become_contiguous_for_the_kernels() -> None:
    param = torch.zeros(4, 3)
    average = torch.arange(8.0).view(4, 2)[:, :1]
    state = {"step": torch.tensor(1.0), "row_var": average, "col_var": torch.zeros(1, 3)}
    place_state(param, state, "fused")
    assert state["row_var"].is_contiguous()
    assert torch.equal(state["row_var"], average)
