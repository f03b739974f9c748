"""Gradient release as a Lightning callback."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_adafactor.gradient_release import unsupported
from lightning_adafactor.gradient_release.blocks import By
from lightning_adafactor.gradient_release.release import ReleasedGradients, release_gradients
from lightning_adafactor.memory import StateSize


class GradientRelease(Callback):
    """Steps each block of parameters during the backward pass, as soon as its gradients are complete, and frees them.

    At any time the gradients take the bytes of the largest block, not of the whole model. Losses, parameters,
    checkpoints and schedules are those of a training without it, to the bit; where more than two processes share a
    parameter, sums over them may be added up in another order. It pays where gradients outweigh activations: with
    activation checkpointing, small batches, large models.

    A loss that is not finite does not reach the parameters: its step is left out. Code that reads gradients in
    ``on_before_optimizer_step`` or ``on_after_backward`` finds none. A model that is compiled as a whole
    (``torch.compile(model)``) computes all gradients before the first one is used; compile its blocks instead.

    Args:
        by: "block" to step a transformer block, or another module, at a time; "parameter" to step each parameter
            alone, which holds the least memory and takes the most calls.
        clipping_follows_trainer: Whether a ``configure_gradient_clipping`` of the module's own clips only if
            ``trainer.gradient_clip_val`` is set; otherwise a module that has one is not supported.

    Raises:
        MisconfigurationException: Something is not supported: accumulation, clipping of gradients, a gradient scaler
            (``16-mixed``), any strategy other than one device or ``ModelParallelStrategy`` (FSDP2), manual
            optimization, several optimizers, an optimizer that has no ``step_parameters``, or its ``on_nonfinite``.
    """

    def __init__(self, by: By = "block", clipping_follows_trainer: bool = False) -> None:
        self.by: By = by
        self.clipping_follows_trainer = clipping_follows_trainer
        self._released: ReleasedGradients | None = None
        self._trainable: list[bool] = []

    @property
    def peak(self) -> StateSize | None:
        """The largest size that the complete gradients have had at a time; None before the training."""
        return None if self._released is None else self._released.peak

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Checks the settings before anything is loaded."""
        if stage == "fit":
            check_settings(trainer, pl_module, self.clipping_follows_trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins the release, with the parameters that are trained at first."""
        self._attach(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins anew where other parameters are trained now, such as layers that were unfrozen."""
        if self._trainable != _trainable(trainer):
            self._attach(trainer, pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keeps a loss that is not finite from the parameters."""
        if self._released is not None:
            self._released.guard(loss)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the release."""
        self._detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Ends the release."""
        self._detach()

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._detach()
        if len(trainer.optimizers) != 1:
            raise MisconfigurationException(
                f"gradient release needs one optimizer, and configure_optimizers returned {len(trainer.optimizers)}: "
                "give one optimizer several parameter groups"
            )
        try:
            self._released = release_gradients(trainer.optimizers[0], pl_module, by=self.by)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        self._trainable = _trainable(trainer)

    def _detach(self) -> None:
        if self._released is not None:
            self._released.remove()


def _trainable(trainer: pl.Trainer) -> list[bool]:
    return [
        param.requires_grad
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for param in group["params"]
    ]


def check_settings(trainer: pl.Trainer, pl_module: pl.LightningModule, clipping_follows_trainer: bool = False) -> None:
    """Checks what is known before anything is loaded; the optimizer is checked when the training starts.

    Args:
        trainer: The trainer.
        pl_module: The module.
        clipping_follows_trainer: As for :class:`GradientRelease`.

    Raises:
        MisconfigurationException: A setting is not supported.
    """
    if trainer.accumulate_grad_batches > 1:
        problem = f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, and {unsupported.ACCUMULATES}"
    elif any(
        isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches()
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    ):
        problem = f"GradientAccumulationScheduler accumulates gradients, and {unsupported.ACCUMULATES}"
    elif trainer.gradient_clip_val:
        problem = f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, and {unsupported.CLIPS}"
    elif not clipping_follows_trainer and is_overridden("configure_gradient_clipping", pl_module):
        problem = f"{type(pl_module).__name__} has a configure_gradient_clipping, and {unsupported.CLIPS}"
    elif isinstance(trainer.precision_plugin, MixedPrecision) and trainer.precision_plugin.scaler is not None:
        problem = f"trainer.precision is {trainer.precision}, and {unsupported.SCALES}"
    elif not isinstance(trainer.strategy, SingleDeviceStrategy | ModelParallelStrategy):
        name = type(trainer.strategy).__name__
        problem = f"trainer.strategy is {name}, which {unsupported.KEEPS_GRADIENTS}: {unsupported.SHARD_INSTEAD}"
    elif not pl_module.automatic_optimization:
        problem = (
            f"{type(pl_module).__name__} has automatic_optimization=False: call "
            "lightning_adafactor.release_gradients(optimizer, model) in place of the callback"
        )
    else:
        return
    raise MisconfigurationException(problem)
