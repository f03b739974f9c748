"""Entries are reused exactly as long as they describe the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.entry_cache import EntryCache
from lightning_adafactor.rule import Rule


class Parameter:
    """What an optimizer hands to the cache for one parameter."""

    def __init__(self, shape: tuple[int, ...] = (4, 3)) -> None:
        self.index, self.group = 2, 0
        self.param = torch.zeros(shape)
        self.grad = torch.ones(shape)
        self.state: dict[str, Tensor] = {"step": torch.tensor(0.0)}
        if len(shape) > 1:
            self.state |= {"row_var": torch.zeros(shape[0], 1), "col_var": torch.zeros(1, shape[1])}
        else:
            self.state |= {"variance": torch.zeros(shape)}
        self.rule = Rule(lr=0.1)

    def keep(self, cache: EntryCache) -> Entry:
        entry = Entry.of(self.param, self.grad, self.state, self.index, self.rule)
        cache.keep(entry, self.group, self.param, self.grad, self.state)
        return entry

    def find(self, cache: EntryCache) -> Entry | None:
        return cache.find(self.index, self.group, self.param, self.grad, self.state, self.rule)


def test_an_entry_comes_back_with_the_new_gradient_and_the_new_rule() -> None:
    cache, parameter = EntryCache(), Parameter()
    entry = parameter.keep(cache)
    parameter.grad, parameter.rule = torch.full((4, 3), 2.0), Rule(lr=0.2)
    assert parameter.find(cache) is entry
    assert entry.grad is parameter.grad
    assert entry.rule is parameter.rule


def test_the_gradient_of_a_transposed_parameter_is_transposed_too() -> None:
    cache, parameter = EntryCache(), Parameter()
    parameter.param, parameter.grad = torch.zeros(3, 4).t(), torch.ones(3, 4).t()
    entry = parameter.keep(cache)
    parameter.grad = torch.rand(3, 4).t()
    assert parameter.find(cache) is entry
    assert torch.equal(entry.grad, parameter.grad.t())


def _set_data(parameter: Parameter, data: Tensor) -> None:
    parameter.param.data = data


CHANGES: dict[str, Callable[[Parameter], Any]] = {
    "parameter": lambda it: setattr(it, "param", it.param.clone()),
    "memory of the parameter": lambda it: _set_data(it, torch.zeros(4, 3)),
    "strides of the parameter": lambda it: _set_data(it, it.param.as_strided((4, 3), (1, 4))),
    "shape of the parameter": lambda it: _set_data(it, it.param[:2]),
    "dtype of the parameter": lambda it: _set_data(it, it.param.view(torch.int32)),
    "index": lambda it: setattr(it, "index", 3),
    "group": lambda it: setattr(it, "group", 1),
    "device of the gradient": lambda it: setattr(it, "grad", torch.ones(4, 3, device="meta")),
    "dtype of the gradient": lambda it: setattr(it, "grad", it.grad.bfloat16()),
    "strides of the gradient": lambda it: setattr(it, "grad", torch.ones(3, 4).t()),
    "state": lambda it: setattr(it, "state", dict(it.state)),
    "row_var": lambda it: it.state.update(row_var=torch.zeros(4, 1)),
    "col_var": lambda it: it.state.update(col_var=torch.zeros(1, 3)),
    "step": lambda it: it.state.update(step=torch.tensor(0.0)),
    "memory of row_var": lambda it: setattr(it.state["row_var"], "data", torch.zeros(4, 1)),
    "memory of step": lambda it: setattr(it.state["step"], "data", torch.tensor(0.0)),
    "shape of the gradient": lambda it: setattr(it, "grad", torch.ones(8, 3)[:2]),
    "kind of the gradient": lambda it: setattr(it, "grad", torch.nn.Parameter(it.grad)),
    "sign of the gradient": lambda it: setattr(it, "grad", torch._neg_view(it.grad)),
    "RMS": lambda it: it.state.update(RMS=torch.tensor(0.0)),
    "momentum in the state": lambda it: it.state.update(exp_avg=torch.zeros(4, 3)),
    "momentum in the options": lambda it: setattr(it, "rule", Rule(lr=0.1, beta1=0.9)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_new_entry_is_needed_for_another(what: str) -> None:
    cache, parameter = EntryCache(), Parameter()
    parameter.keep(cache)
    kept_alive = [parameter.param.data, parameter.grad, dict(parameter.state)]  # no address is used again
    CHANGES[what](parameter)
    assert parameter.find(cache) is None
    assert kept_alive


@pytest.mark.parametrize("what", ["variance", "memory of variance"])
def test_a_new_entry_is_needed_for_another_second_moment_of_a_vector(what: str) -> None:
    cache, parameter = EntryCache(), Parameter((5,))
    parameter.keep(cache)
    kept_alive = parameter.state["variance"].data
    if what == "variance":
        parameter.state.update(variance=torch.zeros(5))
    else:
        parameter.state["variance"].data = torch.zeros(5)
    assert parameter.find(cache) is None
    assert kept_alive is not None


def test_an_entry_whose_gradient_was_released_comes_back_with_the_next_one() -> None:
    cache, parameter = EntryCache(), Parameter((5,))
    entry = parameter.keep(cache)
    entry.release_gradient()
    assert entry.grad is not parameter.grad
    assert parameter.find(cache) is entry
    assert entry.grad is parameter.grad
