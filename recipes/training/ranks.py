"""When the first of several processes ends with a sentence, the others end without a word."""

import signal

from lightning import Callback, LightningModule, Trainer

from recipes.messages import RecipeError


class EndOtherRanks(Callback):
    """Stops the processes that this one has started, before they find it gone and print a traceback each."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Called while the other ranks still wait for this one."""
        kill = getattr(trainer.strategy.launcher, "kill", None)
        if isinstance(exception, RecipeError) and trainer.is_global_zero and kill is not None:
            kill(signal.SIGTERM)
