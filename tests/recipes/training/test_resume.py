"""Resuming from a checkpoint with other optimizer settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from recipes.training.resume import OptimizerAsGiven


class _Model(BoringModel):
    def __init__(self, scheduled: bool, **options: Any) -> None:
        super().__init__()
        self.scheduled, self.options = scheduled, options
        self.rates: list[float] = []

    def configure_optimizers(self) -> Any:
        decayed, plain = [self.layer.weight], [self.layer.bias]
        optimizer = torch.optim.SGD([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], **self.options)
        if not self.scheduled:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def _fit(model: _Model, epochs: int, checkpoint: Path | None = None, batches: int = 4) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=batches,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[OptimizerAsGiven()],
    )
    trainer.fit(model, ckpt_path=checkpoint)
    return trainer


@pytest.fixture(params=[False, True], ids=["constant", "scheduled"])
def scheduled(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def checkpoint(scheduled: bool, tmp_path: Path) -> Path:
    """After one epoch of four steps at the rate 0.1."""
    path = tmp_path / "first.ckpt"
    _fit(_Model(scheduled, lr=0.1, weight_decay=0.01), epochs=1).save_checkpoint(path)
    return path


def test_a_new_learning_rate_is_used_and_printed(
    scheduled: bool, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _Model(scheduled, lr=0.02, weight_decay=0.01)
    _fit(model, epochs=2, checkpoint=checkpoint)
    expected = [0.02 * (1 - step / 8) for step in range(4, 8)] if scheduled else [0.02] * 4
    assert model.rates == pytest.approx(expected)
    told = capsys.readouterr().err
    assert told == "note: optimizer.lr is 0.02 as given; the checkpoint was trained with 0.1\n"


def test_other_options_are_restored_for_each_group(
    scheduled: bool, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = _fit(_Model(scheduled, lr=0.1, weight_decay=0.3), epochs=2, checkpoint=checkpoint)
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.3, 0.0]
    assert "weight_decay is 0.3 as given; the checkpoint was trained with 0.01" in capsys.readouterr().err


def test_nothing_is_printed_if_nothing_differs(
    scheduled: bool, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _Model(scheduled, lr=0.1, weight_decay=0.01)
    _fit(model, epochs=2, checkpoint=checkpoint)
    expected = [0.1 * (1 - step / 8) for step in range(4, 8)] if scheduled else [0.1] * 4
    assert model.rates == pytest.approx(expected)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("scheduled", [True], ids=["scheduled"], indirect=True)
def test_without_a_schedule_the_rate_is_the_given_one_and_not_what_the_old_schedule_had_reached(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _Model(scheduled=False, lr=0.1, weight_decay=0.01)
    _fit(model, epochs=2, checkpoint=checkpoint)
    assert model.rates == [0.1] * 4
    told = capsys.readouterr().err
    assert told == "note: optimizer.lr is 0.1 from here on, without a schedule; the checkpoint's had reached 0.05\n"


@pytest.mark.parametrize("scheduled", [False], ids=["constant"], indirect=True)
def test_a_schedule_that_the_checkpoint_had_not_begins_at_the_step_of_the_checkpoint(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _Model(scheduled=True, lr=0.1, weight_decay=0.01)
    _fit(model, epochs=2, checkpoint=checkpoint)
    assert model.rates == pytest.approx([0.1 * (1 - step / 8) for step in range(4, 8)])
    assert capsys.readouterr().err == "note: the checkpoint has no schedule: the new one starts at step 4\n"


@pytest.mark.parametrize("scheduled", [False], ids=["constant"], indirect=True)
def test_a_run_that_began_a_schedule_is_resumed_at_its_rate(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second.ckpt"
    trainer = _fit(_Model(scheduled=True, lr=0.1, weight_decay=0.01), epochs=2, checkpoint=checkpoint, batches=2)
    trainer.save_checkpoint(second)
    capsys.readouterr()
    model = _Model(scheduled=True, lr=0.1, weight_decay=0.01)
    _fit(model, epochs=3, checkpoint=second, batches=2)
    assert model.rates == pytest.approx([0.1 * (1 - step / 8) for step in range(trainer.global_step, 8)])
    assert capsys.readouterr().err == ""
