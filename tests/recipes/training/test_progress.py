"""The progress bar."""

import sys

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel

from recipes.training.progress import ProgressLines, progress_bar


class _Model(BoringModel):
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.step(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.step(batch))


def _trainer(bar: ProgressLines) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=2,
        limit_test_batches=3,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar],
    )


def test_a_terminal_gets_lightnings_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(progress_bar(), RichProgressBar)


def test_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert isinstance(progress_bar(), ProgressLines)


def test_every_epoch_ends_with_a_line_and_the_validation_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    _trainer(ProgressLines(seconds=1000)).fit(_Model())
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(("epoch", "validation"))]
    assert "\r" not in printed
    assert [line.split(":")[0] for line in lines] == [
        "epoch 1/2",
        "validation after step 4",
        "epoch 2/2",
        "validation after step 8",
    ]
    assert all(part in lines[0] for part in ("100%", "4/4", "train/loss="))
    assert "val/loss=" in lines[1]


def test_a_line_is_printed_when_enough_time_has_passed(capsys: pytest.CaptureFixture[str]) -> None:
    _trainer(ProgressLines(seconds=0)).fit(_Model())
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/2")]
    assert [f"{step}/4" in line for step, line in enumerate(done, start=1)] == [True] * 4


def test_evaluations_and_predictions_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = _trainer(ProgressLines(seconds=1000))
    trainer.validate(_Model(), verbose=False)
    trainer.test(_Model(), verbose=False)
    trainer.predict(_Model())
    printed = capsys.readouterr().out
    assert "validate: 100%" in printed
    assert "validation after step" not in printed
    assert "test: 100%" in printed
    assert "predict: 100%" in printed


def test_a_disabled_bar_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressLines(seconds=0)
    bar.disable()
    _trainer(bar).fit(_Model())
    assert "epoch" not in capsys.readouterr().out
