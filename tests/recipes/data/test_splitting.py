"""Fractions of the training rows become splits: which rows they are, which command needs them, and what is said."""

from functools import partial
from typing import Any

import pytest
from datasets import Dataset

from recipes.data.splitting import cut_off, split_fractions, split_off
from recipes.messages import RecipeError

FRACTIONS = {"train": None, "validation": 0.1, "test": 0.2}


def rows(count: int) -> Dataset:
    return Dataset.from_dict({"row": list(range(count))})


def test_pieces_of_a_running_text_are_cut_off_its_end_in_order() -> None:
    splits = {"train": rows(10)}

    split_fractions(splits, {**FRACTIONS, "train": "a.csv"}, cut_off)

    found = {name: split["row"][:] for name, split in splits.items()}
    assert found == {"train": list(range(7)), "validation": [7], "test": [8, 9]}


@pytest.mark.parametrize("split", [partial(split_off, seed=1), cut_off], ids=["at random", "the end"])
def test_the_fraction_is_named_as_it_was_given(split: Any) -> None:
    splits = {"train": rows(10)}

    with pytest.raises(RecipeError, match=r"data\.validation is 0\.04, which splits off 0 of 8 training rows"):
        split_fractions(splits, {"validation": 0.04, "test": 0.2}, split)


@pytest.mark.parametrize(("command", "unneeded"), [("test", "validation"), ("validate", "test"), ("predict", "test")])
def test_a_fraction_that_the_command_does_not_need_asks_for_no_training_rows(command: str, unneeded: str) -> None:
    splits: dict[str, Dataset] = {}

    split_fractions(splits, {"validation": None, "test": None, unneeded: 0.1}, cut_off, command)

    assert not splits


@pytest.mark.parametrize(("command", "key"), [("test", "test"), ("validate", "validation"), ("fit", "test")])
def test_a_fraction_that_the_command_needs_asks_for_training_rows_or_another_split(command: str, key: str) -> None:
    remedies = rf"data\.{key} is 0\.\d, .* null: give data\.train, or set data\.{key} to a file or split .* or to null"
    with pytest.raises(RecipeError, match=remedies):
        split_fractions({}, FRACTIONS, cut_off, command)
