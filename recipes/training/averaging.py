"""Averaged weights: what Lightning's ``WeightAveraging`` and ``EMAWeightAveraging`` need beside them in a run.

In YAML::

    trainer:
      callbacks:
        - class_path: lightning.pytorch.callbacks.EMAWeightAveraging
          init_args: {decay: 0.99}

or ``recipes.RecentWeightAveraging``, which is one of them. The averaged weights are validated; checkpoints hold them as
``state_dict`` (and those that training resumes from beside them), so that the best checkpoint, the test and ``model/``
have them too.
"""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy

from recipes.messages import RecipeError, tell
from recipes.training import lightning_internals
from recipes.training.checkpoints import LastCheckpoint


class WeightsBehindAverage(Callback):
    """Resumes from a checkpoint whose ``state_dict`` is an average with the weights behind it; for runs without one."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Loads the weights of the checkpoint's last step; called after Lightning has loaded the average.

        Raises:
            RecipeError: Processes share the model, where only ``state_dict`` is loaded.
        """
        weights = checkpoint.get("current_model_state")
        if weights is None:
            return
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise RecipeError(
                f"--ckpt_path {trainer.ckpt_path}: its weights are an average, from which no training can go on, and "
                "trainer.strategy ModelParallelStrategy loads no others: resume on one device or with ddp, or begin "
                "a new run with model.pretrained set to the run's model/"
            )
        pl_module.load_state_dict(weights, strict=pl_module.strict_loading)
        tell(
            "the run averaged its weights, and this one does not: it resumes from those of the last step, not from "
            "their average"
        )


class AveragedWeights(Callback):
    """Works around four traps of a weight-averaging callback; it comes before that in the list of callbacks.

    - Before its first update (``update_starting_at_step``), Lightning validates, saves and in the end keeps the
      weights that training started from. Here they are the current ones until then.
    - It averages buffers by default: decay * 3 + (1 - decay) * 3 is a little less than 3, and the position 3 becomes 2
      when it is stored as a whole number. Here only parameters are averaged, and buffers are the current ones.
    - It puts the average into the model before the last checkpoint is saved, from which no run could resume exactly.
    - A test after the training loads the weights of the last step instead of the average.

    Args:
        averaging: The callback.
    """

    def __init__(self, averaging: WeightAveraging) -> None:
        self._averaging = averaging

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turns off the averaging of buffers, and puts the average on the device of the training.

        Raises:
            RecipeError: Processes share the model, which the callback does not support, or checkpoints would be
                without the average.
        """
        if stage != "fit":
            return
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise RecipeError(
                f"trainer.callbacks: {type(self._averaging).__name__} copies the whole model, which is not supported "
                "with trainer.strategy ModelParallelStrategy: leave it out (--trainer.callbacks null), or use ddp"
            )
        if any(getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks):
            raise RecipeError(
                f"trainer.callbacks: {type(self._averaging).__name__} adds the average to complete checkpoints only, "
                "and with save_weights_only the weights before averaging would be tested and kept: leave "
                "save_weights_only out, or the callback (--trainer.callbacks null)"
            )
        lightning_internals.average_parameters_only(self._averaging, trainer.strategy.root_device)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses weights in half precision.

        Raises:
            RecipeError: The average, which has the weights' dtype, would lose most of what each step adds to it.
        """
        half = {parameter.dtype for parameter in pl_module.parameters()} & {torch.bfloat16, torch.float16}
        if half:
            raise RecipeError(
                f"trainer.callbacks: {type(self._averaging).__name__} would average weights in "
                f"{str(half.pop()).removeprefix('torch.')}, where the small changes of an average are lost: set "
                "model.dtype to float32, with trainer.precision bf16-mixed, or leave it out (--trainer.callbacks null)"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before Lightning puts the average into the model."""
        self._follow(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called before Lightning puts the average into the checkpoint."""
        self._follow(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before Lightning puts the average into the model for good."""
        if self._follow(pl_module):
            name = type(self._averaging).__name__
            tell(
                f"trainer.callbacks: {name} averaged nothing in {trainer.global_step} steps, so the weights are those "
                "of the last step: let it start earlier"
            )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.save_last_step(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Frees the average, which the model has by now."""
        if stage == "fit":
            lightning_internals.forget_average(self._averaging)

    def _follow(self, pl_module: LightningModule) -> bool:
        """Before the first update, sets the average to the current weights; whether it did."""
        average = lightning_internals.average_of(self._averaging)
        if average is None or int(average.n_averaged) > 0:
            return False
        average.module.load_state_dict(pl_module.state_dict())
        return True
