"""Trainings of a tiny classifier on the wires, as tests start them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer, seed_everything

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier


def data_of(wires_csv: Path, **arguments: Any) -> TextClassificationData:
    defaults = {"text": "headline", "label": "desk", "train": str(wires_csv), "test": 0.2, "max_length": 16}
    return TextClassificationData(**{**defaults, "batch_size": 12, **arguments})


def trainer_of(**arguments: Any) -> Trainer:
    defaults = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(**{**defaults, "accelerator": "cpu", "enable_model_summary": False, **arguments})


def adafactor(params: Any) -> Adafactor:
    return Adafactor(params, lr=3e-2, scale_parameter=False, relative_step=False)


def fit(model: TextClassifier, data: TextClassificationData, **arguments: Any) -> Trainer:
    seed_everything(1, verbose=False)
    trainer = trainer_of(**arguments)
    trainer.fit(model, data)
    return trainer


@dataclass(frozen=True)
class FineTuned:
    """A classifier trained for eight epochs: its metrics, and the folder that it was saved to."""

    metrics: dict[str, float]
    folder: Path
