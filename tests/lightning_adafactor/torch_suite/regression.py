"""What the tests share: a problem to train on, and comparisons."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_adafactor import Adafactor

Make = Callable[..., Adafactor]


class Regression:
    """A weight, a bias, and a loss that falls."""

    def __init__(self, lay_out: Callable[[Tensor], Tensor] = Tensor.clone) -> None:
        self.weight = nn.Parameter(lay_out(torch.randn(10, 5)))
        self.bias = nn.Parameter(torch.randn(10))
        self.input = torch.randn(5)
        self.params = [self.weight, self.bias]

    def loss(self) -> Tensor:
        return (self.weight.mv(self.input) + self.bias).square().sum()

    def train(self, optimizer: Optimizer, steps: int, schedulers: tuple[LRScheduler, ...] = ()) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            optimizer.step()
            for scheduler in schedulers:
                args = (loss.item(),) if isinstance(scheduler, ReduceLROnPlateau) else ()
                scheduler.step(*args)

    def twin(self) -> Regression:
        return copy.deepcopy(self)


def assert_went_the_right_way(optimizer: Optimizer, before: float, after: float) -> None:
    assert after > before if optimizer.param_groups[0]["maximize"] else after < before


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def plain(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Without the names of parameters, which are optional."""
    groups = [{k: v for k, v in group.items() if k != "param_names"} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


def named(params: list[nn.Parameter], with_names: bool) -> list[Any]:
    return [(f"name{number}", param) for number, param in enumerate(params)] if with_names else params
