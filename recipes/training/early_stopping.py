"""Lightning's ``EarlyStopping`` in runs that end before their first validation."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from recipes.messages import tell


class StrictOnceValidated(Callback):
    """Lets ``EarlyStopping`` miss its metric until the first validation, and says so if there was none.

    At the end of an epoch, also of one that ``max_steps`` ends, EarlyStopping raises an error where its metric has not
    been logged. In a short run, such as the timing runs of ``recipes.compare``, that is no mistake.
    """

    def __init__(self) -> None:
        self._lenient: list[EarlyStopping] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the callbacks lenient."""
        early = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]
        self._lenient = [callback for callback in early if callback.strict]
        for callback in self._lenient:
            callback.strict = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes them strict again."""
        if not trainer.sanity_checking:
            for callback in self._lenient:
                callback.strict = True
            self._lenient = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names the metrics that were never there."""
        for callback in self._lenient:
            if callback.monitor not in trainer.callback_metrics:
                tell(
                    "trainer.callbacks: EarlyStopping had no effect, for nothing was validated, and "
                    f"{callback.monitor} was not logged"
                )
