"""A model and data small enough to run the whole command line quickly; the tests import it by its name."""

import os
import signal

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from recipes.messages import RecipeError


class TinyModel(LightningModule):
    """One linear layer.

    Args:
        width: Inputs of the layer.
        rate: Stored in checkpoints and compared with them; otherwise not used.
        optimizer: The optimizer, without the parameters.
        nan_at: Step at which the loss becomes NaN. Null: never.
        interrupt_at: Step at which the process receives a signal. Null: never.
        interrupt_with: The signal that it receives.
        bug_at: Step at which the model raises an unexpected error. Null: never.
    """

    def __init__(
        self,
        width: int = 4,
        rate: float = 0.5,
        optimizer: OptimizerCallable = torch.optim.SGD,
        nan_at: int | None = None,
        interrupt_at: int | None = None,
        interrupt_with: int = signal.SIGINT.value,
        bug_at: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.optimizer = optimizer
        self.nan_at = nan_at
        self.interrupt_at = interrupt_at
        self.interrupt_with = interrupt_with
        self.bug_at = bug_at
        self.layer = nn.Linear(width, 2)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        if self.global_step == self.nan_at:
            loss = loss * float("nan")
        if self.global_step == self.interrupt_at:
            os.kill(os.getpid(), self.interrupt_with)
        if self.global_step == self.bug_at:
            raise ZeroDivisionError("a bug in the model")
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = self._loss(batch)
        self.log_dict({"val/loss": loss, "val/score": -loss}, sync_dist=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", self._loss(batch), sync_dist=True)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class TinyData(LightningDataModule):
    """Random numbers.

    Args:
        width: Numbers per example.
        size: Number of examples.
        batch_size: Examples per batch.
        missing: Whether to raise, on rank 0 only, that the data is missing.
    """

    def __init__(self, width: int = 4, size: int = 16, batch_size: int = 4, missing: bool = False) -> None:
        super().__init__()
        self.width = width
        self.size = size
        self.batch_size = batch_size
        self.missing = missing

    def prepare_data(self) -> None:
        if self.missing:
            raise RecipeError("data.missing is true: nothing to train on")

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        examples = torch.randn(self.size, self.width, generator=generator)
        return DataLoader(TensorDataset(examples), batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Leaf:
    """A class that takes plain values.

    Args:
        size: Any number.
        names: Any strings.
    """

    def __init__(self, size: int, names: list[str] | None = None) -> None:
        self.size, self.names = size, names


class Tree:
    """A class that takes other classes.

    Args:
        leaf: One of them.
        leaves: More of them.
        rate: A number or a tensor.
    """

    def __init__(self, leaf: Leaf, leaves: list[Leaf] | None = None, rate: float | Tensor = 0.1) -> None:
        self.leaf, self.leaves, self.rate = leaf, leaves, rate
