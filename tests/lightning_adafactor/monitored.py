"""Modules that are trained while the monitor measures, and how: what the tests of the monitor share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adafactor.memory import StateSize

# Linear(4, 3): 12 weights and 3 biases. AdamW: two moments of each and a step for each of the two tensors.
PARAMETERS = 15
ADAMW = StateSize(elements=2 * PARAMETERS + 2, bytes=4 * (2 * PARAMETERS + 2))


def batches(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(count, 4), torch.zeros(count).long()), batch_size=1)


class Classifier(pl.LightningModule):
    def __init__(self, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layer(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({"val/accuracy": 0.75, "val/f1": 0.5})

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Adversaries(pl.LightningModule):
    """Two optimizers stepped by hand, the second one only from the third batch on."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 3)
        self.discriminator = nn.Linear(4, 5)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, _ = batch
        generator, discriminator = self.optimizers()
        optimizer = generator if batch_idx < 2 else discriminator
        optimizer.zero_grad()
        self.manual_backward(self.generator(x).sum() + self.discriminator(x).sum())
        optimizer.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", 0.75)

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.AdamW(self.generator.parameters()),
            torch.optim.SGD(self.discriminator.parameters(), momentum=0.9),
        )


Fit = Callable[..., pl.Trainer]


def fit_in(tmp_path: Path) -> Fit:
    def run(module: pl.LightningModule, *callbacks: pl.Callback, count: int = 4, **arguments: Any) -> pl.Trainer:
        ckpt_path = arguments.pop("ckpt_path", None)
        defaults: dict[str, Any] = {
            "default_root_dir": tmp_path,
            "accelerator": "cpu",
            "logger": CSVLogger(tmp_path, name="csv"),
            "max_epochs": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "log_every_n_steps": 1000,
        }
        trainer = pl.Trainer(callbacks=list(callbacks), **{**defaults, **arguments})
        trainer.fit(module, batches(count), batches(2), ckpt_path=ckpt_path)
        return trainer

    return run
