"""Stops a training that is far behind another one, as ``recipes.compare`` does in a sweep of learning rates."""

import math
from typing import Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from recipes.messages import TrainingHopeless
from recipes.ranges import FractionBelow1


class StopWhenHopeless(Callback):
    """Raises :class:`~recipes.messages.TrainingHopeless` when a validation metric stays behind a target.

    Args:
        metric: Name of the metric, such as ``val/f1``; the same on all ranks.
        mode: ``max`` if a higher value is better, ``min`` if a lower one is.
        target: The value that the best validation so far must have reached.
        after: Fraction of the steps after which it must have.
    """

    def __init__(self, metric: str, mode: Literal["min", "max"], target: float, after: FractionBelow1 = 0.5) -> None:
        self.metric = metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.target = target
        self.after = after
        self.best = -math.inf

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the best value so far with the target."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or value is None:
            return
        self.best = max(self.best, self.sign * float(value))
        steps = trainer.estimated_stepping_batches
        if self.after * steps <= trainer.global_step < steps and self.best < self.sign * self.target:
            raise TrainingHopeless(
                f"hopeless: {self.metric} has reached {self.sign * self.best:.4g} after {trainer.global_step} of "
                f"{int(steps)} steps, and the best run so far was better than {self.target:.4g} after fewer"
            )
