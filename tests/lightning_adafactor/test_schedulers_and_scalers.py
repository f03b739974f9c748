"""Schedulers, gradient scalers and closures: known faults of other Adafactor implementations, a test for each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.specs import Implementation
from tests.lightning_adafactor.traps import BOTH, Make, parameter, snapshot

pytestmark = pytest.mark.usefixtures("path")


@BOTH
@pytest.mark.parametrize("lr", [0.02, torch.tensor(0.02)], ids=["float", "tensor"])
def test_learning_rate_of_the_group_is_never_written(make: Make, lr: float | Tensor) -> None:
    optimizer = make([parameter(4, 3)], lr=lr, relative_step=False, weight_decay=0.1)
    given = optimizer.param_groups[0]["lr"]
    for _ in range(3):
        optimizer.step()

    assert optimizer.param_groups[0]["lr"] is given
    assert float(given) == pytest.approx(0.02)


def test_relative_step_writes_no_learning_rate_either() -> None:
    optimizer = TransformersAdafactor([parameter(4, 3)])
    optimizer.step()

    assert optimizer.param_groups[0]["lr"] is None


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5, dtype=torch.float64)], ids=["float", "tensor"])
def test_learning_rate_of_the_scheduler_is_used(lr: float | Tensor) -> None:
    lr = lr.clone() if isinstance(lr, Tensor) else lr  # which the scheduler writes to
    param = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = Adafactor([param], lr=lr, scale_parameter=False, relative_step=False)
    scheduler = LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    moved = []
    for _ in range(3):
        before = param.detach().clone()
        param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
        moved.append((before - param.detach()).mean().item())

    assert moved == pytest.approx([0.5, 0.25, 0.5 / 3])


@BOTH
@pytest.mark.parametrize("fused", [None, False])
def test_unscaling_is_left_to_the_scaler_unless_the_fused_step_was_asked_for(make: Make, fused: bool | None) -> None:
    """Lightning refuses to clip gradients for optimizers that claim to unscale them."""
    optimizer = make([parameter(2, 2)], fused=fused)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not hasattr(optimizer, "_step_supports_amp_scaling")


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_divided_by_grad_scale(make: Make, dtype: torch.dtype, implementation: Implementation) -> None:
    plain = [parameter(20, 6, dtype=dtype), parameter(5, dtype=dtype)]
    scaled = [nn.Parameter(param.detach().clone()) for param in plain]
    one = make(plain, beta1=0.9, **implementation.arguments)
    other = make(scaled, beta1=0.9, **implementation.arguments)
    other.grad_scale, other.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    for _ in range(3):
        for param, scaled_param in zip(plain, scaled, strict=True):
            scaled_param.grad = param.grad * 1024
        one.step()
        other.step()

    torch.testing.assert_close(snapshot(other), snapshot(one))


@BOTH
@pytest.mark.parametrize("steps_before", [0, 2])
def test_found_inf_leaves_parameters_state_and_step_untouched(make: Make, steps_before: int) -> None:
    params = [parameter(4, 3), parameter(5)]
    optimizer = make(params, weight_decay=0.1)
    for _ in range(steps_before):
        optimizer.step()
    before = snapshot(optimizer)
    for param in params:
        param.grad.fill_(math.inf)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    optimizer.step()

    params_after, state_after = snapshot(optimizer)
    torch.testing.assert_close(params_after, before[0], rtol=0, atol=0)
    if steps_before:
        torch.testing.assert_close(state_after, before[1], rtol=0, atol=0)
    assert all(not value.any() for state in state_after.values() for value in state.values()) or steps_before
    assert {float(state["step"]) for state in state_after.values()} <= {float(steps_before)}


@BOTH
def test_closure_is_evaluated_first_with_gradients_enabled(make: Make) -> None:
    param = nn.Parameter(torch.ones(3, 2))
    optimizer = make([param])
    seen = []

    def closure() -> Tensor:
        seen.append((torch.is_grad_enabled(), param.detach().clone()))
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)

    assert loss == 6.0
    assert loss.requires_grad
    assert len(seen) == 1
    assert seen[0][0]
    assert (seen[0][1] == 1).all()
    assert (param < 1).all()


@BOTH
def test_step_leaves_no_autograd_history(make: Make) -> None:
    param = nn.Parameter(torch.ones(3, 2))
    param.square().sum().backward()
    make([param], beta1=0.9).step()

    assert param.is_leaf
    assert param.requires_grad
    assert param.grad is not None


@BOTH
def test_gradients_are_not_written(make: Make) -> None:
    params = [parameter(8, 3), parameter(5), parameter(8, 3, dtype=torch.bfloat16)]
    grads = [param.grad.clone() for param in params]
    optimizer = make(params, beta1=0.9, maximize=True)
    for _ in range(2):
        optimizer.step()

    torch.testing.assert_close([param.grad for param in params], grads, rtol=0, atol=0)
