"""PyTorch's tests of its own optimizers (TestOptimRenewed in its test/test_optim.py), applied to ours: the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from tests.lightning_adafactor.torch_suite.regression import (
    Make,
    Regression,
    assert_same,
    assert_went_the_right_way,
)

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize(
    "lay_out", [Tensor.clone, lambda x: torch.stack([x, x], dim=-1)[..., 0]], ids=["dense", "gaps"]
)
def test_loss_moves_in_the_right_direction(make: Make, lay_out: Callable[[Tensor], Tensor]) -> None:
    problem = Regression(lay_out)
    optimizer = make(problem.params)
    before = problem.loss().item()
    problem.train(optimizer, 20)

    assert_went_the_right_way(optimizer, before, problem.loss().item())


def test_loss_moves_in_the_right_direction_with_schedulers(make_with_lr: Make) -> None:
    problem = Regression()
    optimizer = make_with_lr(problem.params)
    before = problem.loss().item()
    problem.train(optimizer, 20, (StepLR(optimizer, gamma=0.9, step_size=10), ReduceLROnPlateau(optimizer)))

    assert_went_the_right_way(optimizer, before, problem.loss().item())
    assert optimizer.param_groups[0]["lr"] < 1e-2


def test_schedulers_work_with_groups_of_different_lr(make_with_lr: Make) -> None:
    problem = Regression()
    optimizer = make_with_lr([{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.02}])
    before = problem.loss().item()
    problem.train(optimizer, 20, (StepLR(optimizer, gamma=0.9, step_size=10),))

    assert_went_the_right_way(optimizer, before, problem.loss().item())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.81e-2, 1.62e-2])


@pytest.mark.parametrize("lr", [torch.tensor(1e-3), torch.tensor([1e-3])], ids=["0-dim", "1-dim"])
def test_tensor_lr_is_a_float_lr(make_with_lr: Make, lr: Tensor) -> None:
    one = Regression()
    other = one.twin()
    one.train(make_with_lr(one.params, lr=lr.item()), 5)
    optimizer = make_with_lr(other.params, lr=lr)
    other.train(optimizer, 5)

    assert_same(one.params, other.params)
    assert optimizer.param_groups[0]["lr"] is lr


def test_tensor_lr_is_scheduled_in_place_or_replaced(make_with_lr: Make) -> None:
    one = Regression()
    other = one.twin()
    for problem, lr in ((one, 0.125), (other, torch.tensor(0.125))):
        optimizer = make_with_lr(problem.params, lr=lr)
        problem.train(optimizer, 6, (StepLR(optimizer, gamma=0.5, step_size=2),))
        assert float(optimizer.param_groups[0]["lr"]) == 0.125 / 8

    assert_same(one.params, other.params)


def test_groups_have_their_own_weight_decay(make: Make) -> None:
    problem = Regression()
    optimizer = make([{"params": [problem.weight]}, {"params": [problem.bias], "weight_decay": 0.0}])
    before = problem.loss().item()
    problem.train(optimizer, 20)

    assert_went_the_right_way(optimizer, before, problem.loss().item())


def test_groups_have_their_own_lr(make_with_lr: Make) -> None:
    problem = Regression()
    irrelevant = nn.Parameter(torch.randn(2))
    irrelevant.grad = torch.rand(2)
    unmoved = irrelevant.detach().clone()
    optimizer = make_with_lr([{"params": problem.params, "lr": 1e-3}, {"params": [irrelevant]}], lr=1e-28)
    before = problem.loss().item()
    problem.train(optimizer, 20)

    assert_went_the_right_way(optimizer, before, problem.loss().item())
    assert_same(irrelevant.detach(), unmoved)


def test_foreach_is_the_for_loop(make: Make) -> None:
    """With a layer frozen for two steps, all gradients missing in one, and a scalar besides."""

    def run(foreach: bool) -> tuple[list[Tensor], dict[str, Any]]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).double()
        scalar = nn.Parameter(torch.rand((), dtype=torch.float64))
        params = [*model.parameters(), scalar]
        groups = [{"params": params, "foreach": foreach}]
        optimizer = make(groups)
        for step in range(7):
            optimizer.zero_grad()
            model[2].requires_grad_(step not in (3, 4))
            if step != 2:
                (model(torch.rand(3, 2, dtype=torch.float64)).sum() + scalar.square()).backward()
            optimizer.step()
        return [param.detach() for param in params], optimizer.state_dict()["state"]

    assert_same(run(True), run(False))


def test_step_is_a_noop_without_gradients(make: Make) -> None:
    params = [torch.randn(2, 3) for _ in range(2)]
    before = [param.clone() for param in params]
    loss = make(params).step(lambda: torch.tensor([1.0]))

    assert_same(params, before)
    assert loss == 1.0


def test_step_is_a_noop_for_zero_gradients(make: Make) -> None:
    param = nn.Parameter(torch.randn(5, 1))
    before = param.detach().clone()
    param.grad = torch.zeros(5, 1)
    make([param], weight_decay=0.0).step(lambda: torch.tensor([1.0]))

    assert_same(param.detach(), before)


def test_step_is_named_in_profiles(make: Make) -> None:
    optimizer = make([nn.Parameter(torch.ones(2, 2))])
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()

    assert any(event.name == f"Optimizer.step#{type(optimizer).__name__}.step" for event in profile.function_events)
