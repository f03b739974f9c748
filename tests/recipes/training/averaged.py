"""Trainings whose weights are averaged, and the averages by hand."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.training.checkpoints import BestCheckpoint, LastCheckpoint
from recipes.training.defaults import default_callbacks

STEPS = 5
"""Of an epoch: 60 rows by 12."""


class Noted(Callback):
    """Keeps the weights after each step, and the averages by hand: e = 0.5 e + 0.5 w from the given step on.

    Args:
        start: The first step, from 0.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.steps: list[dict[str, Tensor]] = []
        self.average: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.steps.append(now)
        if len(self.steps) > self.start:
            before = self.average or now
            self.average = {name: 0.5 * before[name] + 0.5 * value for name, value in now.items()}


class Run:
    """Trainings of one kind, without dropout.

    Args:
        model: The folder of the encoder.
        csv: The data.
        folder: Where checkpoints go.
    """

    def __init__(self, model: Path, csv: Path, folder: Path) -> None:
        self.model, self.csv, self.folder = model, csv, folder

    def __call__(
        self,
        name: str,
        averaging: list[Callback],
        ckpt_path: Any = None,
        noted: Callback | None = None,
        **settings: Any,
    ) -> tuple[TextClassifier, Trainer]:
        seed_everything(1, verbose=False)
        module = TextClassifier(
            str(self.model), lambda groups: Adafactor(groups, lr=3e-2), schedule="constant", dropout=0.0
        )
        data = TextClassificationData(
            "headline", "desk", str(self.csv), validation=0.25, test=0.25, max_length=16, batch_size=12
        )
        defaults = {"barebones": False, "enable_progress_bar": False, "logger": False, "enable_checkpointing": True}
        defaults["callbacks"] = averaging + ([noted] if noted else [])
        best = BestCheckpoint(monitor="val/loss", mode="min", filename="best")
        callbacks = default_callbacks("fit", defaults, best)
        for callback in callbacks:
            if isinstance(callback, BestCheckpoint | LastCheckpoint):
                callback.dirpath = str(self.folder / name)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(callbacks=callbacks, **{**options, "max_epochs": 2, **settings})
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer


def check_weights(found: Any, expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
