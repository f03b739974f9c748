"""Known faults of other Adafactor implementations: a test for each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.traps import BOTH, CONSTANT_LR, Make, parameter, snapshot

pytestmark = pytest.mark.usefixtures("path")


# Low precision -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_of_low_precision_parameters_is_fp32(make: Make, dtype: torch.dtype) -> None:
    params = [parameter(6, 4, dtype=dtype), parameter(5, dtype=dtype), parameter(dtype=dtype)]
    optimizer = make(params, beta1=0.9)
    optimizer.step()

    assert {v.dtype for state in optimizer.state.values() for v in state.values()} == {torch.float32}


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_load_state_dict_keeps_every_bit_of_fp32_state(make: Make, dtype: torch.dtype) -> None:
    """Optimizer.load_state_dict rounds state to a parameter's dtype."""
    params = [parameter(6, 4, dtype=dtype), parameter(5, dtype=dtype), parameter(3, 2, 2, dtype=dtype)]
    optimizer = make(params, beta1=0.9)
    optimizer.step()
    other = make([nn.Parameter(param.detach().clone()) for param in params], beta1=0.9)
    other.load_state_dict(optimizer.state_dict())

    torch.testing.assert_close(snapshot(other), snapshot(optimizer), rtol=0, atol=0)
    assert {v.dtype for state in other.state.values() for v in state.values()} == {torch.float32}


def constant_gradient(dtype: torch.dtype, gradient: float = 0.01, **options: Any) -> Tensor:
    """How far each element of a parameter of ones moves in 300 steps that are far below its rounding."""
    param = nn.Parameter(torch.ones(64, 64, dtype=dtype))
    optimizer = Adafactor([param], lr=1e-4, scale_parameter=False, relative_step=False, **options)
    for _ in range(300):
        param.grad = torch.full_like(param, gradient)
        optimizer.step()
    return 1.0 - param.detach().float()


@pytest.mark.parametrize("gradient", [0.01, 1e-3, 1e-5])
def test_bf16_parameter_follows_the_fp32_one_with_stochastic_rounding(gradient: float) -> None:
    """Gradients below bfloat16's machine epsilon of 7.8e-3 too, which torch takes for ε₁ and damps them with."""
    exact, rounded = constant_gradient(torch.float32, gradient), constant_gradient(torch.bfloat16, gradient)

    assert exact.mean().item() == pytest.approx(0.03, rel=1e-3)
    # each element is a random walk whose steps are 2^-8 at most, and there are 4096 of them
    deviation = math.sqrt(0.03 * 2**-8 / rounded.numel())
    assert rounded.mean().item() == pytest.approx(0.03, abs=5 * deviation)


def test_bf16_parameter_stalls_without_stochastic_rounding() -> None:
    assert not constant_gradient(torch.bfloat16, stochastic_rounding=False).any()


def test_bf16_machine_epsilon_as_eps1_gives_torchs_numbers() -> None:
    ours, theirs = (nn.Parameter(torch.ones(8, 6, dtype=torch.bfloat16)) for _ in range(2))
    eps = (torch.finfo(torch.bfloat16).eps, 1e-3)
    for param, optimizer in (
        (ours, Adafactor([ours], lr=1.0, eps=eps, stochastic_rounding=False)),
        (theirs, torch.optim.Adafactor([theirs], lr=1.0)),
    ):
        param.grad = torch.full_like(param, 1e-3)
        optimizer.step()

    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=2**-8)
    assert 0.8 < ours.detach().max() < 0.9  # moved by lr·1e-3/ε₁, not by lr


def test_eps1_none_of_a_saved_bf16_state_means_the_machine_epsilon_of_the_arithmetic() -> None:
    param = parameter(4, 3, dtype=torch.bfloat16)
    saved = torch.optim.Adafactor([param], lr=0.01)
    saved.step()
    optimizer = Adafactor([param], eps=(1.0, 1e-3))
    optimizer.load_state_dict(saved.state_dict())

    assert optimizer.param_groups[0]["eps"][0] is None
    assert optimizer._rule(optimizer.param_groups[0]).epsilon1(param) == torch.finfo(torch.float32).eps


def test_bf16_average_of_squares_does_not_freeze() -> None:
    """In bf16, an average stops moving once ω < 2^-8: here after a thousand steps."""
    param = nn.Parameter(torch.zeros(4, 4, dtype=torch.bfloat16))
    optimizer = Adafactor([param])
    param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.state[param]["step"].fill_(2000)
    param.grad = torch.full_like(param, 2.0)
    optimizer.step()

    expected = 1 + 2001**-0.8 * 3
    torch.testing.assert_close(optimizer.state[param]["row_var"], torch.full((4, 1), expected))


# Odd tensors -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_parameters_without_elements_take_steps(make: Make, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """torch divides by zero."""
    empty, full = parameter(*shape, dtype=dtype), parameter(3, 2, dtype=dtype)
    before = full.detach().clone()
    optimizer = make([empty, full], beta1=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.step()

    assert optimizer.state[empty]["step"] == 3
    assert empty.shape == shape
    assert not torch.equal(full, before)
    assert full.isfinite().all()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scalar_parameter_keeps_its_shape(make: Make, dtype: torch.dtype) -> None:
    param = nn.Parameter(torch.tensor(2.0, dtype=dtype))
    optimizer = make([param], beta1=0.5)
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()

    assert param.shape == ()
    assert param < 2.0
    assert optimizer.state[param]["variance"].shape == ()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameter_is", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("gradient_is", ["contiguous", "transposed", "strided", "expanded"])
def test_memory_layout_does_not_matter(make: Make, dtype: torch.dtype, parameter_is: str, gradient_is: str) -> None:
    lay = {
        "contiguous": lambda x: x.clone(),
        "transposed": lambda x: x.mT.contiguous().mT,
        "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
        "expanded": lambda x: x[..., :1, :].expand_as(x),
    }
    start, grad = torch.randn(6, 5).to(dtype), torch.randn(6, 5).to(dtype)
    grad = lay[gradient_is](grad)
    params = [nn.Parameter(start.clone()), nn.Parameter(lay[parameter_is](start))]
    for param, given in zip(params, [grad.contiguous(), grad], strict=True):
        optimizer = make([param], beta1=0.9, weight_decay=0.1, stochastic_rounding=False)
        for _ in range(3):
            param.grad = given
            optimizer.step()

    assert params[1].stride() == lay[parameter_is](start).stride()
    torch.testing.assert_close(params[1], params[0])


def test_step_of_a_view_does_not_change_the_memory_around_it() -> None:
    whole = torch.ones(6, 8)
    param = nn.Parameter(whole[1:4, ::2])
    param.grad = torch.ones(3, 4)
    Adafactor([param], lr=0.5).step()

    assert (whole[1:4, ::2] != 1).all()
    assert (whole[1:4, 1::2] == 1).all()
    assert (whole[[0, 4, 5]] == 1).all()


@BOTH
def test_parameters_without_gradient_stay_unchanged(make: Make) -> None:
    params = [parameter(4, 3), parameter(4, 3), parameter(5)]
    optimizer = make(params, weight_decay=0.1)
    params[1].grad = None
    before = params[1].detach().clone()
    optimizer.step()

    torch.testing.assert_close(params[1].detach(), before, rtol=0, atol=0)
    assert params[1] not in optimizer.state


@BOTH
def test_skipped_step_is_not_counted(make: Make) -> None:
    params = [parameter(4, 3), parameter(4, 3)]
    optimizer = make(params)
    grad = params[1].grad
    for step in range(5):
        params[1].grad = grad if step % 2 else None
        optimizer.step()

    assert [int(optimizer.state[param]["step"]) for param in params] == [5, 2]


@BOTH
def test_no_gradients_at_all(make: Make) -> None:
    optimizer = make([nn.Parameter(torch.ones(3, 2))])
    assert optimizer.step() is None
    assert not optimizer.state


@BOTH
def test_sparse_gradient_raises_torchs_error(make: Make) -> None:
    param = parameter(4, 3)
    param.grad = torch.ones(4, 3).to_sparse()

    with pytest.raises(RuntimeError, match=r"^Adafactor does not support sparse gradients$"):
        make([param]).step()


@BOTH
def test_complex_parameter_raises_torchs_error(make: Make) -> None:
    param = torch.ones(4, 3, dtype=torch.complex64, requires_grad=True)
    param.grad = torch.ones_like(param)

    with pytest.raises(RuntimeError, match=r"^Adafactor does not support complex parameters$"):
        make([param]).step()


def test_errors_leave_every_parameter_as_it_was() -> None:
    params = [parameter(4, 3), parameter(4, 3)]
    params[1].grad = params[1].grad.to_sparse()
    before = params[0].detach().clone()
    with pytest.raises(RuntimeError):
        Adafactor(params).step()

    torch.testing.assert_close(params[0].detach(), before, rtol=0, atol=0)


# Odd numbers -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_or_infinity_in_one_gradient_affects_only_its_parameter(make: Make, bad: float, dtype: torch.dtype) -> None:
    shapes = [(4, 3), (4, 3), (5,), (2, 3, 3)]
    params = [parameter(*shape, dtype=dtype) for shape in shapes]
    spared = [nn.Parameter(param.detach().clone()) for param in params]
    for param, other in zip(params, spared, strict=True):
        other.grad = param.grad.clone()
    params[1].grad.view(-1)[2] = bad
    for optimizer in (make(params), make(spared)):
        for _ in range(2):
            optimizer.step()

    assert not params[1].isfinite().all()
    for number in (0, 2, 3):
        torch.testing.assert_close(params[number], spared[number], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "eps1"),
    [
        (Adafactor, None),
        (Adafactor, 0.0),
        (Adafactor, 1e-30),
        (TransformersAdafactor, 1e-30),
        (TransformersAdafactor, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_zero_gradients_move_nothing(make: Make, eps1: float | None, dtype: torch.dtype) -> None:
    params = [parameter(4, 3, dtype=dtype), parameter(5, dtype=dtype), parameter(dtype=dtype)]
    optimizer = make(params, eps=(eps1, 1e-3))
    before = [param.detach().clone() for param in params]
    for _ in range(3):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()

    torch.testing.assert_close([param.detach() for param in params], before, rtol=0, atol=0)
    assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())


@BOTH
@pytest.mark.parametrize("eps1", [0.0, 1e-30])
def test_rows_and_columns_without_gradient_make_no_nan(make: Make, eps1: float) -> None:
    """ε₁² underflows in float32: torch divides 0 by 0."""
    param = parameter(5, 4)
    optimizer = make([param], eps=(eps1, 1e-3))
    before = param.detach().clone()
    for _ in range(3):
        param.grad = torch.randn(5, 4)
        param.grad[2] = 0
        param.grad[:, 1] = 0
        optimizer.step()

    torch.testing.assert_close(param.detach()[2], before[2], rtol=0, atol=0)
    torch.testing.assert_close(param.detach()[:, 1], before[:, 1], rtol=0, atol=0)
    assert (param.detach()[[0, 1, 3, 4]][:, [0, 2, 3]] != before[[0, 1, 3, 4]][:, [0, 2, 3]]).all()
    assert param.isfinite().all()


# Distributed checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(Adafactor, {"weight_decay": 0.1}, id="torch"),
        pytest.param(Adafactor, {"weight_decay": 0.1, "beta1": 0.9, "relative_step": False}, id="torch-constant"),
        pytest.param(TransformersAdafactor, {}, id="transformers"),
        pytest.param(TransformersAdafactor, {"weight_decay": 0.1, "beta1": 0.9, **CONSTANT_LR}, id="constant"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distributed_checkpoint_creates_state_without_changing_parameters(
    make: Make, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """torch.distributed.checkpoint initializes state by a step with lr = 0 and gradients of zero."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(dtype) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    saved, fresh = (make(model.parameters(), **options) for model in models)
    for _ in range(2):
        for param in models[0].parameters():
            param.grad = torch.randn_like(param)
        saved.step()
    before = {name: value.clone() for name, value in models[1].state_dict().items()}
    set_optimizer_state_dict(models[1], fresh, get_optimizer_state_dict(models[0], saved))

    torch.testing.assert_close(models[1].state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(snapshot(fresh)[1], snapshot(saved)[1], rtol=0, atol=0)
    # in bf16, fp32 state above all
    assert {v.dtype for state in fresh.state.values() for v in state.values()} == {torch.float32}
