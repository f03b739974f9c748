"""What was understood of the data is counted, printed before training and kept in the report."""

from pathlib import Path

import pytest
from lightning import Trainer

from recipes import LanguageModelingData, TextClassificationData
from recipes.data.summary import count_duplicates, padding_share, print_summary
from recipes.recipe_data import RecipeData


def fitted(data: RecipeData, model: Path) -> RecipeData:
    data.trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    data.tokenize_for(str(model))
    data.setup("fit")
    return data


def test_padding_is_counted_in_the_order_of_the_batches() -> None:
    assert padding_share([1, 4, 1, 4], [0, 2, 1, 3], 2, int) == 0.0
    assert padding_share([1, 4, 1, 4], [0, 1, 2, 3], 2, int) == 0.375
    assert padding_share([3], [0], 2, lambda longest: 8) == 0.625


def test_duplicates_are_counted_each_time() -> None:
    assert count_duplicates(["a", "a", "b"], ["a", "c"]) == 2


def test_of_labeled_texts_labels_drops_cuts_and_duplicates_are_counted_and_printed(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train = ["headline,desk", *["apple,fruit", "iron,metal"] * 10, "apple pear plum cherry,fruit", ",fruit"]
    (tmp_path / "a.csv").write_text("\n".join(train) + "\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("headline,desk\napple,fruit\ntitanium,metal\n", encoding="utf-8")
    data = TextClassificationData(
        "headline", "desk", str(tmp_path / "a.csv"), validation=str(tmp_path / "b.csv"), max_length=5
    )

    summary = fitted(data, tiny_model).summary()

    assert summary["train"].pop("share_of_padding") > 0
    assert summary == {
        "train": {
            "rows": 21,
            "labels": {"fruit": 11, "metal": 10},
            "rows_dropped_without_text_or_label": 1,
            "tokens_cut_off": 1,
            "unknown_tokens": 0,
        },
        "validation": {
            "rows": 2,
            "labels": {"fruit": 1, "metal": 1},
            "rows_dropped_without_text_or_label": 0,
            "tokens_cut_off": 0,
            "unknown_tokens": 1,
            "duplicates_of_training_rows": 1,
        },
    }
    printed = capsys.readouterr().out
    assert "label 'fruit'" in printed
    assert "share of padding" in printed


def test_names_in_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture) -> None:
    print_summary({"train": {"rows": 2, "labels": {"news[us]": 1, "[/code]": 1}}})

    printed = capsys.readouterr().out
    assert "label 'news[us]'" in printed
    assert "label '[/code]'" in printed


def test_of_running_text_documents_tokens_and_duplicates_are_counted(tiny_lm: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "Once there was a saw\n" * 20 + "\n", encoding="utf-8")
    data = LanguageModelingData(str(tmp_path / "a.csv"), validation=0.2, block_size=8)

    summary = fitted(data, tiny_lm).summary()

    assert summary["train"]["documents"] == 16
    assert summary["train"]["blank_documents_dropped"] == 1
    assert summary["validation"]["duplicates_of_training_documents"] == 4
    assert summary["train"]["tokens"] == 8 * summary["train"]["blocks"]
