"""Ranges of numbers as types."""

import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser

from recipes import ranges

BOUNDS: dict[str, tuple[float, float]] = {
    "PositiveInt": (1, float("inf")),
    "NonNegativeInt": (0, float("inf")),
    "IntFrom2": (2, float("inf")),
    "IntFrom3": (3, float("inf")),
    "IntFrom257": (257, float("inf")),
    "NonNegativeFloat": (0, float("inf")),
    "FractionBelow1": (0, 1),
}
"""The least number that each type takes, and the first above that it does not."""


def parser(kind: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--number", type=kind)
    return parser


def taken(kind: Any, value: Any, typed: bool) -> Any:
    """The number that an argument gets from a file, or from the command line; None if it is refused."""
    try:
        if typed:
            return parser(kind).parse_args([f"--number={value}"]).number
        return parser(kind).parse_object({"number": value}).number
    except ArgumentError:
        return None


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("typed", [False, True])
@given(st.one_of(st.integers(-5, 300), st.floats(-2, 3)))
def test_a_number_is_taken_if_it_lies_in_the_range(name: str, typed: bool, number: float) -> None:
    least, end = BOUNDS[name]
    whole = "Int" in name
    if whole and isinstance(number, float):
        number = int(number)
    value = taken(getattr(ranges, name), number, typed)
    if least <= number < end:
        assert value == number
        assert type(value) is (int if whole else float)
    else:
        assert value is None


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", ["x", "nan", "true", "[1]", ""])
def test_what_is_no_number_is_refused(name: str, value: str) -> None:
    assert taken(getattr(ranges, name), value, typed=True) is None


def test_a_fraction_is_no_whole_number() -> None:
    assert taken(ranges.PositiveInt, 1.5, typed=False) is None


def test_null_is_taken_where_the_type_allows_it() -> None:
    assert parser(ranges.PositiveInt | None).parse_args(["--number=null"]).number is None
    assert taken(ranges.PositiveInt | None, 0, typed=True) is None


def test_every_type_has_words() -> None:
    assert {kind.__name__ for kind in ranges.WORDS} == set(BOUNDS)


def test_a_checkpoint_may_hold_the_numbers() -> None:
    file = io.BytesIO()
    torch.save([taken(getattr(ranges, name), max(least, 0.5), True) for name, (least, _) in BOUNDS.items()], file)
    file.seek(0)
    assert len(torch.load(file, weights_only=True)) == len(BOUNDS)
