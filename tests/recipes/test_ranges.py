"""Ranges of numbers as types."""

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser

from recipes import LanguageModel, LanguageModelingData, TextClassificationData, TextClassifier, ranges

BOUNDS: dict[str, tuple[float, float]] = {
    "PositiveInt": (1, float("inf")),
    "NonNegativeInt": (0, float("inf")),
    "IntFrom2": (2, float("inf")),
    "IntFrom3": (3, float("inf")),
    "IntFrom257": (257, float("inf")),
    "NonNegativeFloat": (0, float("inf")),
    "FractionBelow1": (0, 1),
    "FractionAbove0": (math.nextafter(0, 1), math.nextafter(1, 2)),
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
@settings(max_examples=30)
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
    assert {kind.__name__ for kind in ranges.WORDS} == {*BOUNDS, "Percentage"}


def test_a_checkpoint_may_hold_the_numbers() -> None:
    file = io.BytesIO()
    torch.save([taken(getattr(ranges, name), max(least, 0.5), True) for name, (least, _) in BOUNDS.items()], file)
    file.seek(0)
    assert len(torch.load(file, weights_only=True)) == len(BOUNDS)


def refused(task: type, arguments: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a task's own signature refuses a value that a configuration gives to one of its arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(task, "task", fail_untyped=False)
    parser.parse_object({"task": arguments})
    try:
        parser.parse_object({"task": {**arguments, key: value}})
    except ArgumentError as error:
        return key in str(error)
    return False


@pytest.mark.parametrize(
    ("task", "arguments", "key", "value"),
    [
        (TextClassifier, {"pretrained": "x"}, "warmup", -1.0),
        (TextClassifier, {"pretrained": "x"}, "label_smoothing", 1.0),
        (TextClassifier, {"pretrained": "x"}, "dropout", -0.1),
        (TextClassifier, {"pretrained": "x"}, "layer_lr_decay", 0.0),
        (TextClassificationData, {"text": "a", "label": "b"}, "max_length", 2),
        (TextClassificationData, {"text": "a", "label": "b"}, "pad_to_multiple_of", 0),
        (TextClassificationData, {"text": "a", "label": "b"}, "num_workers", -1),
        (LanguageModel, {"pretrained": "x"}, "sample_tokens", 0),
        (LanguageModel, {"pretrained": "x"}, "sample_temperature", -1.0),
        (LanguageModelingData, {}, "block_size", 1),
        (LanguageModelingData, {}, "batch_size", 0),
        (LanguageModelingData, {}, "eval_batch_size", 0),
        (LanguageModelingData, {}, "vocabulary_size", 256),
    ],
)
def test_a_task_refuses_a_number_out_of_the_range_of_its_argument(
    task: type, arguments: dict[str, Any], key: str, value: Any
) -> None:
    assert refused(task, arguments, key, value)
