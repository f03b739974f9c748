"""Whole runs of the classifier: from the command line, in two processes, and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import pipeline

from recipes import TextClassifier
from recipes.cli.main import main
from tests.recipes.text_classification.trainings import adafactor, data_of, trainer_of

CONFIG = """
model:
  class_path: recipes.TextClassifier
  init_args:
    pretrained: {model}
    optimizer:
      class_path: lightning_adafactor.Adafactor
      init_args: {{lr: 0.03, scale_parameter: false, relative_step: false}}
data:
  class_path: recipes.TextClassificationData
  init_args: {{text: headline, label: desk, train: {data}, test: 0.2, max_length: 16, batch_size: 12}}
trainer: {{max_epochs: 8, accelerator: cpu}}
"""


def test_the_command_line_fits_tests_and_predicts(
    tiny_model: Path,
    wires: pandas.DataFrame,
    wires_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("topics.yaml").write_text(CONFIG.format(model=tiny_model, data=wires_csv), encoding="utf-8")

    assert main(["fit", "--config", "topics.yaml"]) == 0
    run = Path("runs/topics/version_0")
    assert main(["test", "--config", "topics.yaml", "--ckpt_path", str(run)]) == 0
    assert main(["predict", "-c", "topics.yaml", "--ckpt_path", str(run), "--data.predict", str(wires_csv)]) == 0

    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["metrics"]["test/accuracy"] > 0.9
    tested = pandas.read_csv("runs/topics/version_1/metrics.csv")
    assert tested["test/accuracy"].tolist() == pytest.approx([report["metrics"]["test/accuracy"]])
    predicted = pandas.read_csv("runs/topics/version_2/predictions.csv")
    assert predicted["headline"].tolist() == wires["headline"].tolist()
    assert (predicted["predicted"] == wires["desk"]).mean() > 0.9
    classify = pipeline("text-classification", model=str(run / "model"))
    alone = [result["label"] for result in classify(wires["headline"].tolist(), truncation=True)]
    assert alone == predicted["predicted"].tolist()


@pytest.mark.slow
def test_two_processes_fit_and_predict_as_one(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "topics.yaml").write_text(CONFIG.format(model=tiny_model, data=wires_csv), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}

    for command in (["fit"], ["predict", "--ckpt_path=runs/topics/version_0", f"--data.predict={wires_csv}"]):
        shared = [
            "--config=topics.yaml",
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
            "--data.batch_size=6",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "recipes", command[0], *shared, *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    run = tmp_path / "runs/topics/version_0"
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 56  # 84 rows by 2 x 6, 8 times
    predicted = pandas.read_csv(tmp_path / "runs/topics/version_1/predictions.csv")
    assert predicted["headline"].tolist() == wires["headline"].tolist()
    classify = pipeline("text-classification", model=str(run / "model"))
    alone = [result["label"] for result in classify(wires["headline"].tolist(), truncation=True)]
    assert predicted["predicted"].tolist() == alone


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    def run(epochs: int, **arguments: Any) -> tuple[TextClassifier, Trainer]:
        seed_everything(1, verbose=False)
        model = TextClassifier(str(tiny_model), adafactor, schedule="constant", dropout=0.0)
        checkpoint = ModelCheckpoint(tmp_path / str(epochs), save_last=True)
        trainer = trainer_of(max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoint])
        trainer.fit(model, data_of(wires_csv), weights_only=True, **arguments)
        return model, trainer

    whole, _ = run(2)
    _, half = run(1)
    resumed, trainer = run(2, ckpt_path=half.checkpoint_callback.last_model_path)

    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
    history = next(c for c in trainer.callbacks if type(c).__name__ == "RunHistory")
    assert [step for step, _ in history.evaluations] == [7, 14]


def test_a_run_resumed_within_an_epoch_ends_where_an_uninterrupted_one_does(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    def run(name: str, **arguments: Any) -> TextClassifier:
        seed_everything(1, verbose=False)
        model = TextClassifier(str(tiny_model), adafactor, schedule="constant", dropout=0.0)
        checkpoint = ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_train_steps=3)
        trainer = trainer_of(max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint])
        trainer.fit(model, data_of(wires_csv), weights_only=True, **arguments)
        return model

    whole = run("whole")
    resumed = run("resumed", ckpt_path=next((tmp_path / "whole").glob("*step=3.ckpt")))

    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
