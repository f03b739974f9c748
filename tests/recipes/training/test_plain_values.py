"""What a checkpoint may not hold is found, with its place and its type."""

from typing import Any

import numpy
import pytest
import torch

from recipes.training.plain_values import first_other


class Slots:
    __slots__ = ("mean",)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"a": [1, 2.0, None, "x", True, b"y"], "b": (torch.zeros(2), torch.float32), 3: {"c": {1, 2}}}, None),
        ({"state": [{0: {"mean": numpy.zeros(2)}}]}, "state[0].mean: numpy.ndarray"),
        ({"a": numpy.float64(1.0)}, "a: numpy.float64"),
        ([Slots()], f"[0]: {Slots.__module__}.Slots"),
        ({"a": {"b": object}}, "a.b: builtins.type"),
    ],
)
def test_the_first_value_that_is_not_plain_is_named(content: Any, found: str | None) -> None:
    assert first_other(content) == found
