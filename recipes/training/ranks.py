"""When the first rank ends with an error message, the others end silently."""

import signal

from lightning import Callback, LightningModule, Trainer

from recipes.messages import RecipeError


class EndOtherRanks(Callback):
    """Terminates the processes that this one has started, before each prints a traceback about its exit."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Terminates them while they still wait for this rank."""
        kill = getattr(trainer.strategy.launcher, "kill", None)
        if isinstance(exception, RecipeError) and trainer.is_global_zero and kill is not None:
            kill(signal.SIGTERM)
