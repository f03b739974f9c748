"""A model that was fine-tuned and saved is loaded again: with its labels and head, or a new head for other labels."""

from pathlib import Path

import pandas
import pytest
import torch
from transformers import pipeline

from recipes import TextClassifier
from tests.recipes.text_classification.trainings import FineTuned, adafactor, data_of, fit, trainer_of


def test_a_fine_tuned_model_is_loaded_by_pipeline_with_its_labels(fine_tuned: FineTuned) -> None:
    classify = pipeline("text-classification", model=str(fine_tuned.folder))

    assert [result["label"] for result in classify(["gold iron tin gold", "pear apple plum", "saw awl saw"])] == [
        "metal",
        "fruit",
        "tool",
    ]
    assert classify("gold " * 100, truncation=True)[0]["label"] == "metal"


def test_a_fine_tuned_model_keeps_its_head(
    fine_tuned: FineTuned, wires_csv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = TextClassifier(str(fine_tuned.folder), adafactor)
    (result,) = trainer_of().test(again, data_of(wires_csv), verbose=False)

    assert result["test/accuracy"] == pytest.approx(fine_tuned.metrics["test/accuracy"])
    assert "random" not in caplog.text


def test_other_labels_give_a_fine_tuned_model_a_new_head(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    model = TextClassifier(str(tiny_model), adafactor)
    fit(model, data_of(wires_csv), max_steps=1)
    model.save_pretrained(tmp_path / "model")
    wires.assign(desk=[str(number % 5) for number in range(120)]).to_csv(tmp_path / "five.csv", index=False)

    again = TextClassifier(str(tmp_path / "model"), adafactor)
    fit(again, data_of(tmp_path / "five.csv"), max_steps=1)

    assert again.model is not None
    assert list(again.model.config.id2label.values()) == ["0", "1", "2", "3", "4"]
    assert again.model.classifier.weight.shape[0] == 5


def test_other_labels_of_the_same_number_do_not_get_the_outputs_of_the_old_ones(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = TextClassifier(str(tiny_model), adafactor)
    fit(model, data_of(wires_csv), max_steps=1)
    model.save_pretrained(tmp_path / "model")
    wires.assign(desk=wires.desk + "s").to_csv(tmp_path / "plural.csv", index=False)

    again = TextClassifier(str(tmp_path / "model"), adafactor)
    fit(again, data_of(tmp_path / "plural.csv"), max_steps=0)

    assert "was trained on the labels 'fruit', 'metal', 'tool', and data.train has 'fruits'" in capsys.readouterr().err
    assert model.model is not None
    assert again.model is not None
    assert not torch.equal(again.model.classifier.weight, model.model.classifier.weight)
    assert torch.equal(again.model.classifier.bias, torch.zeros(3))
