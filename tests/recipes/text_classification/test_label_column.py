"""Labels come from a column of the data, or are those of a trained model; doubtful ones are pointed out."""

from pathlib import Path

import pandas
import pytest
from datasets import ClassLabel, Dataset
from transformers import AutoConfig, AutoTokenizer

from recipes.messages import RecipeError
from tests.recipes.text_classification.test_data import load


def test_labels_are_numbered_in_alphabetical_order(tiny_model: Path, wires_csv: Path) -> None:
    assert load(tiny_model, train=str(wires_csv)).labels == ["fruit", "metal", "tool"]


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        ([10, 9, 2] * 4, ["2", "9", "10"]),
        ([2.0, 1.0, None] * 4, ["1", "2"]),
        ([True, False, True] * 4, ["False", "True"]),
        (["b ", "a", " b"] * 4, ["a", "b"]),
    ],
    ids=["whole numbers", "floats with gaps", "truth values", "padded names"],
)
def test_labels_of_other_types_get_names(column: list, labels: list[str], tiny_model: Path, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"headline": ["apple pear", "iron", "saw awl"] * 4, "desk": column})
    frame.to_parquet(tmp_path / "a.parquet")

    data = load(tiny_model, train=str(tmp_path / "a.parquet"), validation=0.25)

    assert data.labels == labels


def test_class_names_of_a_dataset_are_the_labels(tiny_model: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"headline": ["apple", "iron"] * 10, "desk": [1, 0] * 10})
    rows.cast_column("desk", ClassLabel(names=["yes", "no"])).to_parquet(tmp_path / "train.parquet")

    data = load(tiny_model, path=str(tmp_path), train="train")

    assert data.labels == ["no", "yes"]


def test_a_model_that_knows_the_labels_keeps_its_order(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tiny_model)
    config.id2label = dict(enumerate(["tool", "paper", "metal", "fruit"]))
    config.save_pretrained(tmp_path)

    assert load(tmp_path, train=str(wires_csv)).labels == ["tool", "paper", "metal", "fruit"]


def model_with_labels(tiny_model: Path, folder: Path, labels: list[str]) -> Path:
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    config = AutoConfig.from_pretrained(tiny_model)
    config.id2label = dict(enumerate(labels))
    config.save_pretrained(folder)
    return folder


def test_labels_of_the_model_in_another_case_are_matched(
    tiny_model: Path, wires_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load(model_with_labels(tiny_model, tmp_path, ["TOOL", "METAL", "FRUIT"]), train=str(wires_csv))

    assert data.labels == ["TOOL", "METAL", "FRUIT"]
    assert "'fruit' is read as 'FRUIT'" in capsys.readouterr().err


def test_a_model_of_other_labels_is_trained_on_these_but_not_tested(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    folder = model_with_labels(tiny_model, tmp_path, ["a", "b", "c"])

    assert load(folder, train=str(wires_csv)).labels == ["fruit", "metal", "tool"]
    with pytest.raises(RecipeError, match="was trained on the labels 'a', 'b', 'c'"):
        load(folder, "test", train=str(wires_csv), test=str(wires_csv))


def test_a_trained_model_is_tested_without_a_training_split_that_a_fraction_is_validated_on(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    folder = model_with_labels(tiny_model, tmp_path, ["fruit", "metal", "tool"])

    assert load(folder, "test", validation=0.1, test=str(wires_csv)).splits.keys() == {"test"}


def test_names_that_are_taken_for_placeholders_are_told(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    folder = model_with_labels(tiny_model, tmp_path, ["LABEL_0", "LABEL_1"])

    with pytest.raises(RecipeError, match=r"knows no labels \(names like LABEL_0 are taken for placeholders"):
        load(folder, "test", test=str(wires_csv))


def test_labels_written_in_another_way_in_the_validation_are_pointed_out(tiny_model: Path, tmp_path: Path) -> None:
    for name, labels in (("train", ["0", "1"]), ("val", ["0.0", "1.0"])):
        pandas.DataFrame({"headline": ["apple", "iron"] * 10, "desk": labels * 10}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )

    with pytest.raises(RecipeError, match=r"'0\.0' is there as '0'"):
        load(tiny_model, train=str(tmp_path / "train.csv"), validation=str(tmp_path / "val.csv"))


def test_labels_that_differ_only_in_case_are_pointed_out(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = {"headline": ["apple", "iron", "saw"] * 10, "desk": ["pos", "Pos", "neg"] * 10}
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)

    assert load(tiny_model, train=str(tmp_path / "a.csv")).labels == ["Pos", "neg", "pos"]
    assert "'Pos', 'pos' differ only in case" in capsys.readouterr().err


def test_as_many_labels_as_rows_are_accepted_if_max_labels_allows_it(tiny_model: Path, tmp_path: Path) -> None:
    rows = pandas.DataFrame({"headline": ["apple"] * 150, "desk": [f"desk {i}" for i in range(150)]})
    rows.to_csv(tmp_path / "a.csv", index=False)

    with pytest.raises(RecipeError, match=r"data\.max_labels to 150"):
        load(tiny_model, train=str(tmp_path / "a.csv"))
    data = load(tiny_model, train=str(tmp_path / "a.csv"), validation=0.1, max_labels=150)
    assert (len(data.labels), len(data.splits["validation"])) == (150, 15)
