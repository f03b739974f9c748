"""Settings of the trainer that Lightning accepts but that do not work: errors before anything is trained."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from lightning_adafactor.gradient_release.callback import check_settings
from lightning_adafactor.gradient_release.unsupported import check_optimizer
from recipes.messages import RecipeError
from recipes.training.lightning_internals import mesh_sizes, saves_shards

ABOVE_0 = ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch")
IN_OTHER_PROCESSES = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def refuse_settings(trainer: Mapping[str, Any]) -> None:
    """Checks the arguments of the trainer.

    Args:
        trainer: The arguments; classes among them may be instances already.

    Raises:
        RecipeError: One of them is not supported.
    """
    for name in ABOVE_0:
        value = trainer.get(name)
        if isinstance(value, Real) and value <= 0:
            raise RecipeError(f"trainer.{name} is {value}: expected a number above 0")
    strategy = trainer.get("strategy")
    if isinstance(strategy, str) and strategy.startswith(IN_OTHER_PROCESSES):
        raise RecipeError(
            f"trainer.strategy is '{strategy}', which trains in child processes, and the trained model "
            "and the metrics are lost when they exit: use ddp"
        )


def refuse_for_recipe(trainer: Any) -> None:
    """Checks for what a recipe does not support, since its loader has its own order and its model is loaded late.

    Args:
        trainer: The trainer.

    Raises:
        RecipeError: Something is not supported.
    """
    if trainer.overfit_batches:
        raise RecipeError(
            f"trainer.overfit_batches is {trainer.overfit_batches}, which recipes do not support: set "
            "trainer.limit_train_batches to it"
        )
    if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
        raise RecipeError(
            "trainer.callbacks: StochasticWeightAveraging copies the model before a recipe has loaded it, and would "
            "average nothing: use lightning.pytorch.callbacks.EMAWeightAveraging or WeightAveraging"
        )
    if isinstance(trainer.strategy, ModelParallelStrategy):
        _refuse_mesh(trainer.strategy, trainer.world_size)


def _refuse_mesh(strategy: ModelParallelStrategy, processes: int) -> None:
    key = "trainer.strategy.init_args"
    if saves_shards(strategy):
        raise RecipeError(
            f"{key}.save_distributed_checkpoint is true, and a folder of shards is not supported as a checkpoint: set "
            "it to false, as configs/trainer/fsdp2.yaml does; any number of processes then loads the one file"
        )
    if processes == 1:
        raise RecipeError(
            "trainer.strategy shards the model over several devices, and trainer.devices and trainer.num_nodes make "
            "one: leave out the file of configs/trainer, or give more trainer.devices"
        )
    sizes = mesh_sizes(strategy)
    if math.prod(sizes.values()) != processes:
        given = " and ".join(f"{key}.{name} {size}" for name, size in sizes.items())
        raise RecipeError(
            f"{given} make {math.prod(sizes.values())} processes, but trainer.devices and trainer.num_nodes "
            f"make {processes}: give sizes whose product is {processes}, and trainer.devices as a number"
        )


def refuse_for_release(trainer: Trainer, module: LightningModule) -> None:
    """Checks for what ``model.gradient_release`` does not work with, before any data is read.

    Args:
        trainer: The trainer.
        module: The recipe.

    Raises:
        RecipeError: A setting is not supported.
    """
    try:
        check_settings(trainer, module, clipping_follows_trainer=True)
    except MisconfigurationException as error:
        raise RecipeError(f"model.gradient_release is true, but {error}") from error


def refuse_to_release(optimizer: Optimizer) -> None:
    """Checks whether an optimizer can step a part of its parameters.

    Args:
        optimizer: The optimizer.

    Raises:
        RecipeError: It cannot.
    """
    try:
        check_optimizer(optimizer)
    except ValueError as error:
        raise RecipeError(f"model.gradient_release is true, but model.optimizer is unsuitable: {error}") from error
