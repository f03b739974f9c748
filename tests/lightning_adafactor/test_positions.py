"""Positions of parameters stay right when groups change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adafactor.positions import Positions, all_positions


def groups(*sizes: int) -> list[dict[str, Any]]:
    return [{"params": [torch.zeros(()) for _ in range(size)]} for size in sizes]


@given(st.lists(st.integers(0, 4), max_size=5), st.data())
def test_the_positions_of_some_are_those_among_all(sizes: list[int], data: st.DataObject) -> None:
    made = groups(*sizes)
    every = list(all_positions(made))
    assert [position.number for position in every] == list(range(sum(sizes)))
    some = data.draw(st.lists(st.sampled_from(every), unique_by=id) if every else st.just([]))
    found = Positions().of(made, [position.param for position in some])
    assert found == sorted(some, key=lambda position: position.number)


@pytest.mark.parametrize("change", ["a new group", "a new parameter", "another parameter", "swapped groups"])
def test_a_change_of_the_groups_is_noticed(change: str) -> None:
    made = groups(2, 2)
    positions = Positions()
    positions.of(made, made[1]["params"])
    if change == "a new group":
        made.append({"params": [torch.zeros(())]})
    elif change == "a new parameter":
        made[0]["params"].append(torch.zeros(()))
    elif change == "another parameter":
        made[1]["params"][0] = torch.zeros(())
    else:
        made.reverse()
    params = [made[-1]["params"][0]]
    assert positions.of(made, params) == [position for position in all_positions(made) if position.param is params[0]]


def test_the_same_parameter_twice_counts_once() -> None:
    made = groups(3)
    param = made[0]["params"][1]
    assert len(Positions().of(made, [param, param])) == 1


def test_a_parameter_of_another_optimizer_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a parameter of shape \(2, 3\) is not one of the optimizer's parameters"):
        Positions().of(groups(2), [torch.zeros(2, 3)])
