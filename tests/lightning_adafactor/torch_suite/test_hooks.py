"""PyTorch's tests of its own optimizers (TestOptimRenewed in its test/test_optim.py), applied to ours: hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.lightning_adafactor.torch_suite.regression import (
    Make,
    Regression,
)

pytestmark = pytest.mark.usefixtures("path")


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """A list to which global hooks write too, for the time of a test."""
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    yield calls
    for handle in handles:
        handle.remove()


def test_step_hooks_are_called_in_order_until_they_are_removed(make: Make, calls: list[str]) -> None:
    optimizer = make([torch.ones(2)])
    before = optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    after = optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step()
    assert calls == ["global pre", "pre", "post", "global post"]

    before.remove()
    after.remove()
    optimizer.step()
    assert calls[4:] == ["global pre", "global post"]


def test_step_pre_hook_may_replace_the_closure(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 7), {}))

    assert optimizer.step(lambda: 1) == 7


def test_state_dict_hooks_are_called_around_it(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    optimizer.register_state_dict_pre_hook(lambda opt: opt.state.update(test=1))
    assert optimizer.state_dict()["state"]["test"] == 1

    def take_out(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "test": state_dict["state"].pop("test")}

    optimizer.register_state_dict_post_hook(take_out)
    assert optimizer.state_dict()["test"] == 1
    assert "test" not in optimizer.state_dict()["state"]


def test_state_that_a_hook_has_put_in_is_saved_loaded_and_copied(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    optimizer.register_state_dict_pre_hook(lambda opt: opt.state.update(test=1))
    problem.train(optimizer, 1)
    other = make(problem.params)
    other.load_state_dict(optimizer.state_dict())
    problem.train(other, 1)

    assert other.state["test"] == 1
    assert copy.deepcopy(other).state["test"] == 1


def test_state_dict_hooks_are_not_called_by_loading(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    saved = optimizer.state_dict()
    calls = []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("post"))
    optimizer.load_state_dict(saved)

    assert not calls


def set_lr(value: float, replace: bool) -> Callable[[Optimizer, dict[str, Any]], dict[str, Any] | None]:
    def hook(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
        state_dict = copy.deepcopy(state_dict) if replace else state_dict
        state_dict["param_groups"][0]["lr"] = value
        return state_dict if replace else None

    return hook


def test_load_state_dict_pre_hooks_change_what_is_loaded_in_order(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(set_lr(0.002, replace=False))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.002

    optimizer.register_load_state_dict_pre_hook(set_lr(0.003, replace=True), prepend=True)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.002

    optimizer.register_load_state_dict_pre_hook(set_lr(0.004, replace=True))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.004


def test_load_state_dict_post_hooks_see_what_was_loaded(make: Make) -> None:
    problem = Regression()
    problem.weight.data = problem.weight.data.bfloat16()
    problem.weight.grad = torch.ones_like(problem.weight)
    optimizer = make(problem.params[:1])
    optimizer.step()
    seen = []
    optimizer.register_load_state_dict_pre_hook(set_lr(0.003, replace=True))
    optimizer.register_load_state_dict_post_hook(
        lambda opt: seen.append((opt.param_groups[0]["lr"], opt.state[problem.weight]["row_var"].dtype)), prepend=True
    )
    optimizer.load_state_dict(optimizer.state_dict())

    assert seen == [(0.003, torch.float32)]
