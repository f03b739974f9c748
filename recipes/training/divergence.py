"""Stops a training whose loss or weights are no longer finite, before a checkpoint of it is written."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from lightning_adafactor.sharded.layout import local
from lightning_adafactor.sharded.reduction import first_found
from recipes.messages import TrainingDiverged


class StopOnDivergence(Callback):
    """Raises :class:`~recipes.messages.TrainingDiverged` when a training loss or a parameter is NaN or infinite.

    Each step only records, on the device, the first step with a bad loss. The record is read at the trainer's log
    interval and before every checkpoint, so that no step waits for the GPU. The parameters are checked before every
    validation and checkpoint and at the end, because the loss of a step is that of the weights before it: no checkpoint
    of corrupted weights replaces a good one. All ranks stop together, with one sentence.
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
        """Reads the record and checks the parameters before time is spent on validation."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._check(trainer)
            self._check_parameters(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the parameters once more, for a run without validation and checkpoints."""
        self._check(trainer)
        self._check_parameters(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reads the record and checks the parameters before a checkpoint is written."""
        self._check(trainer)
        self._check_parameters(trainer, pl_module)

    def _check_parameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        corrupted = not are_finite(pl_module)
        if not trainer.strategy.reduce_boolean_decision(corrupted, all=False):
            return
        named = enumerate(pl_module.named_parameters())
        own = next(((place, name) for place, (name, value) in named if corrupted and not _is_finite(value)), None)
        raise TrainingDiverged(
            f"{first_found(own)[1]} became NaN or infinite by step {trainer.global_step}, so these weights are not "
            f"saved: try a lower learning rate, a longer warm-up or trainer.gradient_clip_val; {_kept(trainer)}"
        )

    def _check(self, trainer: Trainer) -> None:
        step = -1 if self._first is None else int(self._first)
        if not trainer.strategy.reduce_boolean_decision(step >= 0, all=False):
            return
        self._first = None
        step = first_found(step if step >= 0 else None)
        raise TrainingDiverged(
            f"the training loss became NaN or infinite at step {step}: try a lower learning rate, a longer warm-up "
            f"or trainer.gradient_clip_val; {_kept(trainer)}"
        )


def are_finite(module: nn.Module) -> bool:
    """Whether all parameters of a module on this process are finite, with one synchronization."""
    shards = [local(parameter.detach()) for parameter in module.parameters()]
    floats = [values for values in shards if values.is_floating_point() and values.numel() and not values.is_meta]
    # The maximum of the absolute values: unlike a sum of squares it does not overflow.
    return not floats or bool(get_total_norm(floats, norm_type=float("inf")).isfinite())


def _is_finite(parameter: Tensor) -> bool:
    values = local(parameter.detach())
    return not values.is_floating_point() or bool(values.isfinite().all())


def _kept(trainer: Trainer) -> str:
    """The last checkpoint file; a path that a callback was about to write does not count."""
    folders = {getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks}
    files = [file for folder in folders if folder for file in Path(folder).rglob("*.ckpt")]
    if not files:
        return "no checkpoint had been written yet"
    return f"the last good checkpoint is {max(files, key=lambda file: file.stat().st_mtime_ns)}"
