"""Which processes of a run read different rows: all of them, but for those that share them in tensor parallelism."""

from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy


def data_parallel(trainer: Trainer) -> tuple[int, int]:
    """The number of processes, or groups of them, that read different rows, and which one this process is of.

    Args:
        trainer: The trainer, once its strategy has set up the processes.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):
        shard = strategy.distributed_sampler_kwargs
        return int(shard["num_replicas"]), int(shard["rank"])
    return trainer.world_size, trainer.global_rank
