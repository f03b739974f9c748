"""Label names and their order."""

import pytest
from transformers import BertConfig

from recipes.messages import RecipeError
from recipes.text_classification.labels import alike, doubtful, label_name, ordered, trained_labels


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (" spam ", "spam"),
        (3, "3"),
        (3.0, "3"),
        (True, "True"),
        (None, ""),
        (float("nan"), ""),
        ("", ""),
        (-1, "-1"),
    ],
)
def test_a_value_has_one_name(value: object, name: str) -> None:
    assert label_name(value) == name


def test_a_number_of_a_class_has_its_name() -> None:
    assert label_name(1, ["no", "yes"]) == "yes"
    assert label_name(-1, ["no", "yes"]) == ""


@pytest.mark.parametrize("number", [-2, 2])
def test_a_number_that_no_class_has_stays_a_number(number: int) -> None:
    assert label_name(number, ["no", "yes"]) == str(number)


@pytest.mark.parametrize("value", [0.5, ["a"], {"a": 1}])
def test_what_is_no_label_is_refused(value: object) -> None:
    with pytest.raises(RecipeError, match=r"data\.label"):
        label_name(value)


def test_names_are_ordered_by_alphabet_and_numbers_by_value() -> None:
    assert ordered({"b", "a", "10"}) == ["10", "a", "b"]
    assert ordered({"10", "9", "-1"}) == ["-1", "9", "10"]


def test_measurements_are_refused() -> None:
    with pytest.raises(RecipeError, match="measurements"):
        ordered({"0.1", "0.25", "1"})


def test_the_label_that_is_named_is_a_measurement() -> None:
    with pytest.raises(RecipeError, match=r"'0\.25' is not a label"):
        ordered({"0", "0.25", "1"})


def test_a_base_model_knows_no_labels_and_a_tuned_one_its_own() -> None:
    assert trained_labels(BertConfig()) == []
    assert trained_labels(BertConfig(id2label={1: "no", 0: "yes"})) == ["yes", "no"]


@pytest.mark.parametrize("name", ["\u2460", "\u00b2", "--1", "1-", "1" * 5000])
def test_what_only_looks_like_a_number_is_a_name(name: str) -> None:
    assert ordered({name, "0"}) == sorted([name, "0"])


def test_labels_of_one_value_have_one_order() -> None:
    assert all(ordered(set(names)) == ["01", "1", "2"] for names in (["1", "01", "2"], ["01", "2", "1"]))


def test_labels_that_differ_only_in_how_they_are_written_are_found() -> None:
    assert alike({"Pos", "pos", "neg", "0", "0.0", "-0", "a b", "A  b"}) == [
        ["-0", "0", "0.0"],
        ["A  b", "a b"],
        ["Pos", "pos"],
    ]


def test_words_for_missing_values_are_pointed_out() -> None:
    assert doubtful({"NaN", "pos"}) == ["'NaN' is a label like any other, not a missing one"]
