"""Lightning's ``EarlyStopping`` in runs that end before their first validation."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class StrictOnceValidated(Callback):
    """Lets ``EarlyStopping`` miss its metric until the first validation; it comes before that in the callbacks.

    At the end of an epoch, also of one that ``max_steps`` ends, EarlyStopping raises an error where its metric has not
    been logged. Where nothing has been validated yet, that is no mistake: a short run, such as the timing runs of
    ``recipes.compare``.
    """

    def __init__(self) -> None:
        self._strict: list[EarlyStopping] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the callbacks lenient."""
        early = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]
        self._strict = [callback for callback in early if callback.strict]
        for callback in self._strict:
            callback.strict = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes them strict again."""
        if not trainer.sanity_checking:
            for callback in self._strict:
                callback.strict = True
            self._strict = []
