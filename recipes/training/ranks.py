"""Several processes of a run end together: with one message, and within seconds."""

import os
import signal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from recipes.messages import RecipeError, TrainingDiverged, TrainingHopeless
from recipes.training import peers
from recipes.training.resume import how_to_resume


class EndOtherRanks(Callback):
    """Ends all processes when one of them ends, and lets one process report an error; see :mod:`.peers`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the processes, unless the data has done so already."""
        connect(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Decides which process reports the error. The others wait until it has, then end with its status."""
        if peers.current is None:
            _end_children(trainer, exception)
        elif isinstance(exception, KeyboardInterrupt | SIGTERMException):
            peers.current.ignore()  # the signal has stopped all of them
        elif not peers.may_report(wait=not isinstance(exception, RecipeError | TrainingDiverged | TrainingHopeless)):
            for logger in trainer.loggers:
                logger.finalize("failed")
            peers.current.wait_for_the_end()


def connect(trainer: Trainer) -> None:
    """Connects the processes of a run, once; all of them call this after the strategy has set them up.

    Args:
        trainer: The trainer.
    """
    if peers.current is not None or trainer.world_size == 1 or not torch.distributed.is_initialized():
        return
    rank, size, listener = trainer.global_rank, trainer.world_size, None
    address: peers.Address | None = None
    if rank == 0:
        environment = getattr(trainer.strategy, "cluster_environment", None)
        host = getattr(environment, "main_address", None) or os.environ.get("MASTER_ADDR", "127.0.0.1")
        listener, address = peers.listen(trainer.num_nodes == 1, host)
    address = trainer.strategy.broadcast(address)
    assert address is not None
    connections = peers.accept(listener, size, address[2]) if listener is not None else peers.connect(address, rank)
    complete = len(connections) == (size - 1 if rank == 0 else 1)
    if not trainer.strategy.reduce_boolean_decision(complete):
        for connection in connections.values():
            connection.close()
        rank_zero_warn(
            f"The processes of this run cannot connect to port {address[1]} of {address[0]}: if one of them is killed, "
            "the others wait for it until the timeout of their collectives."
        )
        return
    launched = getattr(trainer.strategy.launcher, "procs", [])
    peers.current = peers.Peers(rank, size, connections, lambda: how_to_resume(trainer), launched)
    # Lightning kills this process, without a message, up to five seconds after one of those has ended.
    launched[:] = []


def _end_children(trainer: Trainer, exception: BaseException) -> None:
    """Terminates the processes that this one has started, before each prints a traceback about its exit."""
    kill = getattr(trainer.strategy.launcher, "kill", None)
    if isinstance(exception, Exception) and trainer.is_global_zero and kill is not None:
        kill(signal.SIGTERM)
        trainer.strategy.launcher.procs[:] = []  # type: ignore[union-attr]  # Lightning would kill this process for it
