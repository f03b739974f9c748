"""Types in words."""

import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytest
from lightning import Callback
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from recipes.cli.type_words import choices_in, classes_in, expected, takes_scalars
from recipes.ranges import FractionBelow1, PositiveInt


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (float | Tensor, "a number or Tensor"),
        (PositiveInt | None, "a whole number above 0 or null"),
        (FractionBelow1, "a number of at least 0 and below 1"),
        (list, "a list"),
        (bool | int, "true or false or a whole number"),
        (str | list[str], "a text or a list of text"),
        (dict[str, Any] | None, "a mapping of keys to values or null"),
        (Literal["float32", "bfloat16"], "one of float32, bfloat16"),
        (Literal[16, 32] | Literal["16", "bf16"] | None, "one of 16, 32, bf16 or null"),
        (Callback, "a Callback (class_path and init_args)"),
        (Iterable[Callback] | None, "a list of Callback (class_path and init_args) or null"),
        (OptimizerCallable, "an Optimizer (class_path and init_args)"),
    ],
    ids=str,
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert expected(hint) == words


def test_choices_are_found_at_any_depth() -> None:
    assert choices_in(Literal["a", 1] | Literal["b"] | None) == ["a", "1", "b"]
    assert choices_in(int | str) == []


def test_classes_are_those_that_take_class_path_and_init_args() -> None:
    assert classes_in(Callback | list[Callback] | bool | None) == {Callback: 0}
    assert classes_in(OptimizerCallable) == {Optimizer: 1}
    assert classes_in(Callable | None) == classes_in(typing.Callable | None) == {}  # type: ignore
    assert classes_in(int | str | PositiveInt | Tensor | Literal["a"] | dict[str, Any]) == {}


def test_scalars_are_told_from_classes_and_texts() -> None:
    assert takes_scalars(Callback | bool | None)
    assert takes_scalars(Literal["a"])
    assert not takes_scalars(Callback | str | None)
