"""Predictions reach their file in the order of the rows, and never a file that exists."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer, seed_everything

from recipes import TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from recipes.text_classification.predictions import PredictionWriter, write

ROWS = [{"id": "7", "text": 'a, "b"\nc'}, {"id": "5", "text": "é"}]
PROBABILITIES = torch.tensor([[0.25, 0.75], [0.9, 0.1]])


def test_a_csv_has_the_source_the_label_and_all_probabilities(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", ROWS, PROBABILITIES, ["no", "yes"])

    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "text", "predicted", "probability", "p(no)", "p(yes)"]
    assert [row["text"] for row in rows] == ['a, "b"\nc', "é"]
    assert [(row["predicted"], float(row["probability"])) for row in rows] == [("yes", 0.75), ("no", 0.9)]
    assert [float(row["p(no)"]) for row in rows] == [0.25, 0.9]


def test_a_jsonl_has_one_object_a_row(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", ROWS, PROBABILITIES, ["no", "yes"])

    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {
        "id": "5",
        "text": "é",
        "predicted": "no",
        "probability": 0.9,
        "probabilities": {"no": 0.9, "yes": 0.1},
    }
    assert len(lines) == 2


def predict(model: Path, file: str, **arguments: Any) -> Trainer:
    seed_everything(1, verbose=False)
    data = TextClassificationData(text="headline", label="desk", max_length=16, eval_batch_size=5, **arguments)
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.predict(TextClassifier(str(model), predictions=file), data)
    return trainer


def test_predict_labels_every_row_in_its_order(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out" / "p.csv"

    trainer = predict(tiny_model, str(file), train=str(wires_csv), predict=str(wires_csv))

    frame = pandas.read_csv(file)
    assert frame["headline"].tolist() == wires["headline"].tolist()
    probabilities = frame[["p(fruit)", "p(metal)", "p(tool)"]]
    assert probabilities.sum(axis=1).tolist() == pytest.approx([1.0] * 120, abs=1e-5)
    assert [f"p({label})" for label in frame["predicted"]] == probabilities.idxmax(axis=1).tolist()
    row = trainer.datamodule.tokenizer(wires["headline"][77], return_tensors="pt")
    with torch.no_grad():
        alone = trainer.lightning_module.eval()(**row).softmax(dim=-1)[0].tolist()
    assert probabilities.iloc[77].tolist() == pytest.approx(alone, abs=1e-5)


def test_an_existing_file_stops_the_run_before_it_computes(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("precious", encoding="utf-8")

    with pytest.raises(RecipeError, match="exists already"):
        predict(tiny_model, str(file), train=str(wires_csv), predict=str(wires_csv))

    assert file.read_text(encoding="utf-8") == "precious"


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.predictions is 'p\.xlsx'"):
        PredictionWriter("p.xlsx")


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_columns_of_the_source_are_kept_beside_ours(name: str, tmp_path: Path) -> None:
    rows = [{"predicted": "mine", "predicted_2": "too", "p(no)": "0.5", "probabilities": "x"}]

    write(tmp_path / name, rows, PROBABILITIES[:1], ["no", "yes"])

    text = (tmp_path / name).read_text(encoding="utf-8")
    written = json.loads(text) if name == "p.jsonl" else next(csv.DictReader(text.splitlines()))
    assert rows[0].items() <= written.items()
    assert written["predicted_3"] == "yes"
