"""The private attributes of Lightning that checkpoints and resume need: named here and nowhere else.

``tests/recipes/training/test_lightning_internals.py`` names the one that a new version of Lightning has removed.
"""

from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy


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
