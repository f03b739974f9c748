"""What a run's history notes, batch by batch."""

import time
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adafactor.memory import StateSize
from recipes.runs.history import RunHistory, held_by


class _Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[float] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = (self.layer(batch["x"]) - batch_idx).square().mean()
        self.seen.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class _Sharing(torch.optim.SGD):
    """Keeps a map that all parameters share, as bitsandbytes does."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("map", self.shared)
        return super().step(closure)

    shared = torch.zeros(256)


def _fit(module: _Model | None = None, **arguments: object) -> tuple[_Model, RunHistory]:
    module, history = module or _Model(), RunHistory()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[history],
        **arguments,
    )
    trainer.fit(module, DataLoader([{"x": torch.ones(1)} for _ in range(8)], batch_size=2))
    return module, history


@pytest.mark.parametrize(
    ("accumulated", "every", "steps"),
    [(1, 2, [2, 4]), (2, 1, [1, 2]), (3, 1, [1, 2])],
    ids=["no accumulation", "two batches a step", "three batches a step, the last step of one"],
)
def test_a_recorded_loss_is_the_mean_over_its_batches_for_any_accumulation(
    accumulated: int, every: int, steps: list[int]
) -> None:
    module, history = _fit(accumulate_grad_batches=accumulated, log_every_n_steps=every)

    assert [step for step, _, _ in history.losses] == steps
    batches = [accumulated * every] * (len(steps) - 1)
    batches.append(len(module.seen) - sum(batches))
    starts = [sum(batches[:i]) for i in range(len(batches))]
    expected = [sum(module.seen[start : start + n]) / n for start, n in zip(starts, batches, strict=True)]
    assert [loss for _, loss, _ in history.losses] == pytest.approx(expected)


class _SlowValidation(_Model):
    """Two batches of validation take half a second."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        time.sleep(0.25)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([{"x": torch.ones(1)} for _ in range(4)], batch_size=2)


def test_the_seconds_of_training_are_without_validation() -> None:
    _, history = _fit(_SlowValidation(), num_sanity_val_steps=0, val_check_interval=2, log_every_n_steps=1)

    assert len(history.evaluations) == 2
    assert history.training_seconds <= history.seconds["train"] - 2 * 2 * 0.25
    assert history.losses[-1][2] <= history.training_seconds


class _SlowSaving(ModelCheckpoint):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(0.5)


def test_the_seconds_of_training_are_without_checkpoints_at_the_end_of_an_epoch() -> None:
    history = RunHistory()
    Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[history, _SlowSaving()],
    ).fit(_Model(), DataLoader([{"x": torch.ones(1)} for _ in range(2)], batch_size=2))

    assert history.seconds["train"] > 1.5
    assert history.training_seconds <= history.seconds["train"] - 1.5
    assert history.losses[-1][2] <= history.training_seconds
    assert history.seconds_per_step is not None
    assert history.seconds_per_step <= history.training_seconds  # which the half second of a checkpoint would exceed


def test_every_example_is_counted_once() -> None:
    _, history = _fit()

    assert history.samples == 8


def test_the_state_is_measured_before_lightning_moves_it_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(value: Any, device: object) -> Any:  # as from a GPU
        return value.clone() if isinstance(value, Tensor) else value

    monkeypatch.setattr("lightning.fabric.utilities.optimizer.move_data_to_device", move)
    module = _Model()
    optimizer = _Sharing(module.parameters(), lr=1e-2)
    monkeypatch.setattr(module, "configure_optimizers", lambda: optimizer)

    _, history = _fit(module)

    assert history.state == history.total_state == StateSize(elements=2 * 256, bytes=4 * 256)
    assert held_by([optimizer])[0].bytes == 2 * 4 * 256
