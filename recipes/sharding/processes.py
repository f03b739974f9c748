"""Which processes of a run read different rows: all of them, but for those that share them in tensor parallelism."""

from lightning import Trainer


def data_parallel(trainer: Trainer) -> tuple[int, int]:
    """The number of processes, or groups of them, that read different rows, and which one this process is of.

    Args:
        trainer: The trainer, once its strategy has set up the processes.
    """
    shard = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}  # None for one device
    return int(shard["num_replicas"]), int(shard["rank"])
