"""Stops a training whose loss became NaN or infinite, before a checkpoint of it is written."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recipes.messages import TrainingDiverged


class StopOnDivergence(Callback):
    """Raises :class:`~recipes.messages.TrainingDiverged` when a training loss was NaN or infinite.

    Each step only records, on the device, the first step with such a loss. The record is read at the trainer's log
    interval and before every checkpoint: there is no synchronization with the GPU at every step, and no checkpoint of
    corrupted weights replaces a good one. All ranks stop together.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the record of an earlier training."""
        self._first = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records a bad loss; reads the record every ``log_every_n_steps`` batches and after the last one."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            bad = ~torch.isfinite(loss.detach()).all()
            if self._first is None:
                self._first = torch.full((), -1, dtype=torch.long, device=loss.device)
            fresh = bad & (self._first < 0)
            self._first = torch.where(fresh, trainer.global_step, self._first)
        every = max(trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]
        if (batch_idx + 1) % every == 0 or trainer.is_last_batch:
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the record before a validation."""
        self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reads the record before a checkpoint is written."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        step = -1 if self._first is None else int(self._first)
        if not trainer.strategy.reduce_boolean_decision(step >= 0, all=False):
            return
        self._first = None
        where = f"at step {step}" if step >= 0 else "on another rank"
        raise TrainingDiverged(
            f"the training loss became NaN or infinite {where}: try a lower learning rate, a longer warm-up "
            f"or trainer.gradient_clip_val; {_kept(trainer)}"
        )


def _kept(trainer: Trainer) -> str:
    """The last checkpoint file; a path that a callback was about to write does not count."""
    folders = {getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks}
    files = [file for folder in folders if folder for file in Path(folder).glob("*.ckpt")]
    if not files:
        return "no checkpoint had been written yet"
    return f"the last good checkpoint is {max(files, key=lambda file: file.stat().st_mtime_ns)}"
