"""Logs the learning rates, where there are any: an optimizer whose ``lr`` is null computes its own."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor


class GivenRates(LearningRateMonitor):
    """:class:`~lightning.pytorch.callbacks.LearningRateMonitor` that logs nothing for a learning rate of None."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Finds the names of the rates."""
        if _have_rates(trainer):
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Logs the rates of a step."""
        if _have_rates(trainer):
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Logs the rates of an epoch."""
        if _have_rates(trainer):
            super().on_train_epoch_start(trainer, *args, **kwargs)


def _have_rates(trainer: Trainer) -> bool:
    return all(group.get("lr") is not None for optimizer in trainer.optimizers for group in optimizer.param_groups)
