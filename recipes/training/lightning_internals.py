"""The private attributes of Lightning that checkpoints and resume need: named here and nowhere else.

``tests/recipes/training/test_lightning_internals.py`` names the one that a new version of Lightning has removed.
"""

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim.swa_utils import AveragedModel


def is_validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the batch that has just ended."""
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the batch that has just ended is not the last one of its optimizer step."""
    return trainer.accumulate_grad_batches > 1 and trainer.fit_loop._should_accumulate()


def save_checkpoint(callback: ModelCheckpoint, trainer: Trainer, path: str) -> None:
    """Saves as the callback does by itself, updating its state and the trainer's loggers."""
    callback._save_checkpoint(trainer, path)


def forget_saved_step(callback: ModelCheckpoint) -> None:
    """Lets a callback save the same step once more."""
    callback._last_global_step_saved = -1


def saves_shards(strategy: ModelParallelStrategy) -> bool:
    """Whether each process saves a checkpoint of its own."""
    return strategy._save_distributed_checkpoint


def mesh_sizes(strategy: ModelParallelStrategy) -> dict[str, int]:
    """The sizes of the mesh by their argument, as they are used; before the processes are set up, too."""
    sizes = {"data_parallel_size": strategy._data_parallel_size, "tensor_parallel_size": strategy._tensor_parallel_size}
    automatic = {"data_parallel_size": strategy.num_nodes, "tensor_parallel_size": strategy.num_processes}
    return {name: automatic[name] if size == "auto" else int(size) for name, size in sizes.items()}


def requeues_at(trainer: Trainer, signum: int) -> bool:
    """Whether a signal asks for the job of SLURM to be requeued."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return False
    return signum == environment.requeue_signal


def average_of(callback: WeightAveraging) -> AveragedModel | None:
    """The averaged weights during a training; else None."""
    return callback._average_model


def average_parameters_only(callback: WeightAveraging, device: torch.device) -> None:
    """Lets a callback copy buffers instead of averaging them, and keep the average on a device unless it names one.

    Args:
        callback: The callback, before its setup.
        device: The device of the training. Lightning would take that of the model, which is still on the CPU.
    """
    callback._use_buffers = False
    if callback._device is None:
        callback._device = device


def forget_average(callback: WeightAveraging) -> None:
    """Frees the averaged weights after a training: a checkpoint that is loaded later does not replace them."""
    callback._average_model = None
