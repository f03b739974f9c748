"""EarlyStopping in runs that end before their first validation, and in others."""

from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringModel

from recipes.training.early_stopping import StrictOnceValidated


class _Validated(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.step(batch))


def _fit(monitor: str, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        limit_train_batches=4,
        limit_val_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StrictOnceValidated(), EarlyStopping(monitor)],
        **options,
    )
    trainer.fit(_Validated())
    return trainer


def test_a_run_that_ends_before_its_first_validation_needs_no_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert _fit("val/loss", max_steps=2).global_step == 2
    assert (
        "EarlyStopping had no effect, for nothing was validated, and val/loss was not logged" in capsys.readouterr().err
    )


def test_a_metric_that_was_logged_is_not_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    _fit("val/loss", max_epochs=1)
    assert "EarlyStopping" not in capsys.readouterr().err


def test_a_metric_that_no_validation_logs_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="conditioned on metric `val/f1` which is not available"):
        _fit("val/f1", max_epochs=2)
