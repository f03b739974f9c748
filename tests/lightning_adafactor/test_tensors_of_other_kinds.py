"""Parameters and gradients that are no ordinary tensors, and what autograd learns of a step."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from lightning_adafactor import Adafactor, implementation
from lightning_adafactor.prediction import predict_state


def test_a_gradient_with_the_negative_bit_steps_in_its_own_direction(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(8, 16, dtype=torch.complex64)
    negative = nn.Parameter(torch.ones(8, 16))
    resolved = nn.Parameter(torch.ones(8, 16))
    for param, copied in ((negative, False), (resolved, True)):
        optimizer = Adafactor([param], **arguments)
        for step in (1, 2, 3):
            gradient = (numbers * step).conj().imag if step > 1 else (numbers * step).imag.clone()
            assert gradient.is_neg() is (step > 1)
            param.grad = gradient.resolve_neg().clone() if copied else gradient
            optimizer.step()
    assert torch.equal(negative, resolved)


def test_a_parameter_with_the_negative_bit_steps_against_its_gradient() -> None:
    memory = torch.full((8, 16), 2 - 1j, dtype=torch.complex64)
    negative, resolved = nn.Parameter(memory.conj().imag), nn.Parameter(torch.ones(8, 16))
    assert negative.is_neg()
    for param in (negative, resolved):
        optimizer = Adafactor([param], lr=0.1)
        for _ in range(2):
            param.grad = torch.ones(8, 16)
            optimizer.step()
    assert torch.equal(negative.resolve_neg(), resolved)
    assert (resolved < 1).all()


@pytest.mark.parametrize("argument", ["fused", "compiled"])
def test_a_parameter_with_the_negative_bit_is_refused_where_an_implementation_is_demanded(argument: str) -> None:
    param = nn.Parameter(torch.ones(8, 16, dtype=torch.complex64).conj().imag)
    with pytest.raises(RuntimeError, match=f"{argument}=True is not supported: .* holds the opposite sign"):
        Adafactor([param], **{argument: True})


@pytest.mark.parametrize("argument", ["fused", "compiled"])
def test_a_wrapper_of_tensors_is_refused_where_an_implementation_is_demanded(argument: str) -> None:
    param = nn.Parameter(TwoTensor(torch.ones(8, 16), torch.ones(8, 16)))
    with pytest.raises(RuntimeError, match=rf"{argument}=True is not supported: .* plain tensors, not "):
        Adafactor([param], **{argument: True})


def test_a_wrapper_of_tensors_is_stepped_in_torch_operations() -> None:
    param = nn.Parameter(TwoTensor(torch.ones(8, 16), torch.ones(8, 16)))
    optimizer = Adafactor([param])
    param.grad = TwoTensor(torch.ones(8, 16), torch.ones(8, 16))  # type: ignore[assignment]
    optimizer.step()
    assert optimizer.implementation()["0"].path == "plain"
    assert (param.a < 1).all()  # type: ignore[attr-defined]


def test_a_wrapper_as_gradient_is_refused_by_the_fused_step() -> None:
    param = nn.Parameter(torch.ones(8, 16))
    optimizer = Adafactor([param], fused=True)
    param.grad = TwoTensor(torch.ones(8, 16), torch.ones(8, 16))  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"fused=True is not supported: a gradient is a TwoTensor of float32"):
        optimizer.step()


def test_autograd_learns_that_a_step_has_changed_the_weights(arguments: dict[str, Any]) -> None:
    first, second = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = Adafactor([first, second], **arguments)
    loss = (torch.ones(4, 4) @ first @ second).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_state_that_is_replaced_by_loading_is_freed(arguments: dict[str, Any]) -> None:
    param = nn.Parameter(torch.ones(8, 16))
    optimizer = Adafactor([param], beta1=0.9, **arguments)
    for _ in range(2):
        param.grad = torch.ones(8, 16)
        optimizer.step()
    old = weakref.ref(optimizer.state[param]["exp_avg"])
    optimizer.load_state_dict(optimizer.state_dict())
    gc.collect()
    assert old() is None


def test_a_group_that_is_refused_is_not_added() -> None:
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = Adafactor([first])
    with pytest.raises(ValueError, match="on_nonfinite should be"):
        optimizer.add_param_group({"params": [second], "on_nonfinite": "skp"})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [second], "on_nonfinite": "skip"})
    assert len(optimizer.param_groups) == 2


def test_capturable_without_the_fused_step_is_a_contradiction() -> None:
    with pytest.raises(RuntimeError, match=r"capturable=True is not supported: .* fused=False leaves that out"):
        Adafactor([nn.Parameter(torch.ones(3))], capturable=True, fused=False)


def test_capturable_is_checked_when_the_optimizer_is_made() -> None:
    with pytest.raises(RuntimeError, match="capturable=True is not supported: the kernels support"):
        Adafactor([nn.Parameter(torch.ones(3, dtype=torch.float64))], capturable=True)


def test_on_cuda_the_compiled_step_is_refused_and_not_replaced() -> None:
    param: Any = SimpleNamespace(is_cuda=True, is_neg=lambda: False, device=torch.device("cuda"), dtype=torch.float32)
    group = {"fused": None, "compiled": True, "capturable": False}
    with pytest.raises(RuntimeError, match="compiled=True is not supported: the compiled step supports tensors on the"):
        implementation.choose(group, param)


def test_skipped_steps_are_counted_in_one_place() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = Adafactor([param], on_nonfinite="skip")
    counters: list[Tensor] = []
    for value in (1.0, torch.inf, torch.nan, 1.0):
        param.grad = torch.full((3,), value)
        optimizer.step()
        assert optimizer._nonfinite is not None
        assert optimizer._nonfinite._skipped is not None
        counters.append(optimizer._nonfinite._skipped)
    assert len({counter.data_ptr() for counter in counters}) == 1  # a captured graph adds to it at each replay
    assert optimizer.skipped_steps == 2


@pytest.mark.parametrize(
    "group", [lambda w: {"params": w}, lambda w: {"params": [("weight", w)]}], ids=["alone", "named"]
)
def test_the_state_of_a_group_is_predicted_however_its_parameters_are_given(group: Any) -> None:
    weight = nn.Parameter(torch.ones(30, 40))
    assert predict_state(Adafactor, [group(weight)]).elements == 71
