"""Models, settings and checkpoints that the classifier cannot use are refused, each in a sentence."""

import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer
from transformers import Adafactor as TheirAdafactor
from transformers import AutoTokenizer

from recipes import TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from tests.recipes.text_classification.trainings import adafactor, data_of, fit, trainer_of

MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]] = {
    "no such model": ({"pretrained": "no/such"}, {}, {}, ["model.pretrained", "no/such", "network"]),
    "folder without weights": ({"pretrained": "bare"}, {}, {}, ["model.pretrained", "'bare'", "no weights"]),
    "pickled weights": ({"pretrained": "pickled"}, {}, {}, ["model.pretrained", "pickled weights"]),
    "damaged weights": ({"pretrained": "damaged"}, {}, {}, ["model.pretrained", "'damaged'"]),
    "another tokenizer": ({}, {"tokenizer": "wordy"}, {}, ["data.tokenizer", "21 tokens", "embeds 20"]),
    "texts too long": ({}, {"max_length": 64}, {}, ["data.max_length", "64", "32"]),
    "no end": ({}, {}, {"max_epochs": -1, "max_steps": -1}, ["model.schedule", "trainer.max_epochs"]),
    "no rate": (
        {"optimizer": TheirAdafactor},
        {},
        {},
        ["model.schedule", "null"],
    ),
    "a checkpoint as the model": ({"pretrained": "last.ckpt"}, {}, {}, ["model.pretrained", "--ckpt_path"]),
    "a run as the model": ({"pretrained": "run"}, {}, {}, ["'run' is the folder of a run", "run/model"]),
    "wrong schedule arguments": (
        {"schedule_args": {"cycles": 2}},
        {},
        {},
        ["model.schedule_args", "'linear'"],
    ),
}


@pytest.mark.parametrize(("model", "data", "trainer", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_a_sentence(
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    words: list[str],
    tiny_model: Path,
    wires_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bare", "pickled", "damaged"):
        shutil.copytree(tiny_model, folder)
        Path(folder, "model.safetensors").unlink()
    shutil.copytree(tiny_model, "run/model")
    torch.save({"state_dict": {}}, "last.ckpt")
    torch.save({}, "pickled/pytorch_model.bin")
    Path("damaged/model.safetensors").write_bytes(b"\x00" * 64)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained("wordy")

    with pytest.raises(RecipeError) as raised:
        fit(
            TextClassifier(**{"pretrained": str(tiny_model), "optimizer": adafactor, **model}),
            data_of(wires_csv, **data),
            **trainer,
        )

    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_testing_without_a_test_split_is_reported_in_a_sentence(tiny_model: Path, wires_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.test is null"):
        trainer_of().test(TextClassifier(str(tiny_model)), data_of(wires_csv, test=None))


def run(model: Path, file: Path, command: str, max_length: int = 16, **arguments: Any) -> Trainer:
    data = TextClassificationData("headline", "desk", str(file), validation=0.2, test=str(file), max_length=max_length)
    trainer = Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu", max_steps=1
    )
    getattr(trainer, command)(TextClassifier(str(model)), datamodule=data, **arguments)
    return trainer


def test_a_checkpoint_of_other_labels_is_refused(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    run(tiny_model, wires_csv, "fit").save_checkpoint(tmp_path / "a.ckpt")
    wires.assign(desk=wires["desk"].map({"fruit": "A", "metal": "B", "tool": "C"})).to_csv(tmp_path / "b.csv")

    run(tiny_model, wires_csv, "test", ckpt_path=str(tmp_path / "a.ckpt"))
    for command in ("test", "fit"):
        with pytest.raises(RecipeError, match="trained on the labels 'fruit', 'metal', 'tool'"):
            run(tiny_model, tmp_path / "b.csv", command, ckpt_path=str(tmp_path / "a.ckpt"))


def test_a_checkpoint_that_was_trained_with_other_lengths_is_told_of(
    tiny_model: Path, wires_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_model, wires_csv, "fit", 16).save_checkpoint(tmp_path / "a.ckpt")
    capsys.readouterr()
    run(tiny_model, wires_csv, "test", 16, ckpt_path=str(tmp_path / "a.ckpt"))
    assert "data.max_length" not in capsys.readouterr().err
    run(tiny_model, wires_csv, "test", 8, ckpt_path=str(tmp_path / "a.ckpt"))
    assert "note: data.max_length is 8, and the checkpoint was trained with 16" in capsys.readouterr().err
