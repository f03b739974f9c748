"""Validates after the last step of a training that ends within an epoch, as one with a budget of steps may."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ValidateLastStep(Callback):
    """Asks for a validation after step ``max_steps``: Lightning has none there unless an interval ends.

    Without it the steps since the last validation would not count where the best checkpoint is tested.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the last step asks the trainer to stop, before which it validates."""
        if -1 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True
