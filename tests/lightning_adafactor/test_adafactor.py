"""``Adafactor``: torch's signature, checks and state, and what is added to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_adafactor import Adafactor


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    param = nn.Parameter(torch.randn(shape).to(dtype))
    param.grad = torch.randn(shape).to(dtype)
    return param


def test_signature_begins_with_torchs() -> None:
    ours, theirs = inspect.signature(Adafactor).parameters, inspect.signature(torch.optim.Adafactor).parameters
    added = list(ours.values())[len(theirs) :]

    assert [(p.name, p.default, p.kind) for p in list(ours.values())[: len(theirs)]] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]
    assert {p.kind for p in added} == {inspect.Parameter.KEYWORD_ONLY}


def test_defaults_are_those_of_torch() -> None:
    ours, theirs = Adafactor([parameter(2)]).defaults, torch.optim.Adafactor([parameter(2)]).defaults

    assert {key: ours[key] for key in theirs} == theirs


def error_of(make: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[type, str]:
    with pytest.raises((TypeError, ValueError)) as raised:
        make(*args, **kwargs)
    return raised.type, str(raised.value)


PARAM = parameter(1, 1)
INVALID = {
    "parameter instead of a list": (PARAM, {}),
    "no parameters": ([], {}),
    "not a tensor": ([1], {}),
    "not a leaf": ([PARAM * 2], {}),
    "in two groups": ([{"params": PARAM}, {"params": PARAM}], {}),
    "some named": ([("weight", PARAM), parameter(1)], {}),
    "one group named": ([{"params": [PARAM]}, {"params": [("weight", parameter(1))]}], {}),
    "group of a set": ([{"params": {PARAM}}], {}),
    "lr of two elements": ([PARAM], {"lr": torch.tensor([0.1, 0.2])}),
    "lr below 0": ([PARAM], {"lr": -1e-3}),
    "tensor lr below 0": ([PARAM], {"lr": torch.tensor(-1e-3)}),
    "lr is nan": ([PARAM], {"lr": float("nan")}),
    "beta2_decay above 0": ([PARAM], {"beta2_decay": 0.8}),
    "eps1 below 0": ([PARAM], {"eps": (-1e-30, 1e-3)}),
    "eps2 below 0": ([PARAM], {"eps": (None, -1e-3)}),
    "d below 1": ([PARAM], {"d": 0.5}),
    "weight_decay below 0": ([PARAM], {"weight_decay": -0.1}),
    "unknown argument": ([PARAM], {"clip": 1}),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise_torchs_errors_verbatim(case: str) -> None:
    params, options = INVALID[case]
    kind, message = error_of(torch.optim.Adafactor, params, **options)

    assert error_of(Adafactor, params, **options) == (kind, message)


def test_the_same_parameter_twice_in_a_group_raises_torchs_warning() -> None:
    with pytest.warns(UserWarning, match="optimizer contains a parameter group with duplicate parameters"):
        Adafactor([PARAM, PARAM])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta1": 1.0}, "beta1 should be None or in [0, 1) but is: 1.0"),
        ({"beta1": -0.1}, "beta1 should be None or in [0, 1) but is: -0.1"),
        ({"warmup_init": True, "relative_step": False}, "warmup_init=True requires relative_step=True"),
    ],
)
def test_invalid_values_of_added_arguments_raise(options: dict[str, Any], message: str) -> None:
    assert error_of(Adafactor, [PARAM], **options) == (ValueError, message)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 4), {"row_var": (6, 1), "col_var": (1, 4)}),
        ((2, 6, 4), {"row_var": (2, 6, 1), "col_var": (2, 1, 4)}),
        ((5, 3, 2, 2), {"row_var": (5, 3, 2, 1), "col_var": (5, 3, 1, 2)}),
        ((7,), {"variance": (7,)}),
        ((), {"variance": ()}),
        ((1, 4), {"row_var": (1, 1), "col_var": (1, 4)}),
    ],
)
def test_state_has_torchs_names_shapes_and_step(shape: tuple[int, ...], expected: dict[str, Any]) -> None:
    params = [parameter(*shape), parameter(*shape)]
    ours, theirs = Adafactor(params[:1]), torch.optim.Adafactor(params[1:])
    ours.step()
    theirs.step()
    own, other = ours.state[params[0]], theirs.state[params[1]]

    assert {key: tuple(value.shape) for key, value in own.items()} == {"step": (), **expected}
    assert {key: (v.shape, v.dtype, v.device) for key, v in own.items()} == {
        key: (v.shape, v.dtype, v.device) for key, v in other.items()
    }


def test_momentum_adds_one_number_per_element() -> None:
    params = [parameter(6, 4), parameter(5)]
    optimizer = Adafactor(params, beta1=0.9)
    optimizer.step()

    assert [optimizer.state[param]["exp_avg"].shape for param in params] == [(6, 4), (5,)]


def test_momentum_can_be_switched_on_later() -> None:
    param = parameter(6, 4)
    optimizer = Adafactor([param])
    optimizer.step()
    optimizer.param_groups[0]["beta1"] = 0.9
    optimizer.step()

    assert optimizer.state[param]["exp_avg"].any()


def test_state_is_created_with_the_first_gradient() -> None:
    param = parameter(6, 4)
    optimizer = Adafactor([param])
    assert not optimizer.state
    optimizer.step()
    assert set(optimizer.state[param]) == {"step", "row_var", "col_var"}


def test_foreach_changes_nothing() -> None:
    start, grad = torch.randn(6, 4), torch.randn(6, 4)
    written = []
    for foreach in (None, False, True):
        param = nn.Parameter(start.clone())
        param.grad = grad.clone()
        Adafactor([param], foreach=foreach).step()
        written.append(param.detach())

    assert torch.equal(written[0], written[1])
    assert torch.equal(written[0], written[2])


def test_group_added_later_gets_the_defaults_and_takes_steps() -> None:
    params = [parameter(3, 2), parameter(3, 2)]
    optimizer = Adafactor(params[:1], lr=0.5, beta1=0.5)
    optimizer.step()
    optimizer.add_param_group({"params": params[1:], "lr": 0.1})
    optimizer.step()

    assert optimizer.param_groups[1]["lr"] == 0.1
    assert optimizer.param_groups[1]["beta1"] == 0.5
    assert [int(optimizer.state[param]["step"]) for param in params] == [2, 1]


def test_step_counter_takes_the_default_dtype_float64() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        param = parameter(3, 2)
        optimizer = Adafactor([param])
        optimizer.step()
        theirs = torch.optim.Adafactor([param])
        theirs.step()
    finally:
        torch.set_default_dtype(torch.float32)

    assert optimizer.state[param]["step"].dtype == theirs.state[param]["step"].dtype == torch.float64


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16])
def test_low_precision_default_dtype_changes_nothing(default: torch.dtype) -> None:
    param, other = parameter(3, 2), parameter(3, 2)
    other.data.copy_(param.data)
    other.grad = param.grad
    Adafactor([other]).step()
    torch.set_default_dtype(default)
    try:
        optimizer = Adafactor([param])
        optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)

    assert torch.equal(param, other)
    assert {value.dtype for value in optimizer.state[param].values()} == {torch.float32}


def test_parameters_of_different_dtypes_share_an_optimizer() -> None:
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    params = [parameter(2, 3, dtype=dtype) for dtype in dtypes]
    before = [param.detach().clone() for param in params]
    optimizer = Adafactor(params, lr=0.1)
    for _ in range(7):
        optimizer.step()

    assert [param.dtype for param in params] == dtypes
    assert all((param != old).any() for param, old in zip(params, before, strict=True))
    assert [optimizer.state[param]["row_var"].dtype for param in params] == [torch.float64, *[torch.float32] * 3]


def test_fused_raises_with_the_reason_where_it_is_not_supported() -> None:
    with pytest.raises(RuntimeError, match=r"^fused=True is not supported: the kernels support .* not float64$"):
        Adafactor([parameter(2, 3, dtype=torch.float64)], fused=True)


@pytest.mark.parametrize("option", ["fused", "compiled"])
def test_frozen_parameters_may_have_any_dtype(option: str) -> None:
    quantized = nn.Parameter(torch.zeros(2, 3, dtype=torch.uint8), requires_grad=False)
    float8 = nn.Parameter(torch.zeros(2, 3, dtype=torch.float8_e5m2), requires_grad=False)
    optimizer = Adafactor([quantized, float8], **{option: True})
    optimizer.step()
    assert not optimizer.state
    assert not optimizer.implementation()


def test_a_frozen_parameter_that_is_trained_later_is_checked_then() -> None:
    param = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64), requires_grad=False)
    optimizer = Adafactor([param], fused=True)
    param.requires_grad_().grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match=r"^fused=True is not supported: the kernels support .* not float64$"):
        optimizer.step()


def test_fused_and_foreach_exclude_each_other() -> None:
    with pytest.raises(RuntimeError, match=r"^`fused` and `foreach` cannot be `True` together\.$"):
        Adafactor([parameter(2, 3)], fused=True, foreach=True)
