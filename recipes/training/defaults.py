"""The defaults of every run's trainer: loggers, progress bar, callbacks."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_adafactor import OptimizerStateMonitor
from recipes.runs.folder import RunFolder
from recipes.training.averaging import AveragedWeights, WeightsBehindAverage
from recipes.training.checkpoints import LastCheckpoint
from recipes.training.divergence import StopOnDivergence
from recipes.training.early_stopping import StrictOnceValidated
from recipes.training.exactness import ExactResume
from recipes.training.named_state import NamedOptimizerState
from recipes.training.plain_values import PlainOptimizerState
from recipes.training.progress import progress_bar
from recipes.training.ranks import EndOtherRanks
from recipes.training.rate_logging import GivenRates
from recipes.training.resume import OptimizerAsGiven, RowsOfEpoch


def loggers_of(run: RunFolder, trainer: Mapping[str, Any]) -> list[Logger] | bool:
    """The loggers of a run: metrics.csv and TensorBoard events in its folder, then those of ``trainer.logger``.

    Lightning takes ``trainer.log_dir``, the run's folder, from the first logger, so that one is always ours;
    ``trainer.logger: false`` turns all off.
    """
    own = trainer["logger"]
    if own is False or trainer["barebones"]:
        return False
    ours: list[Logger] = [
        CSVLogger(run.root, run.name, run.version, flush_logs_every_n_steps=1),
        TensorBoardLogger(run.root, run.name, run.version, default_hp_metric=False),
    ]
    if own is None or own is True:
        return ours
    return [*ours, *([own] if isinstance(own, Logger) else own)]


def default_callbacks(command: str, trainer: Mapping[str, Any], best: ModelCheckpoint) -> list[Callback]:
    """The callbacks of a run: those of ``trainer.callbacks``, then each default of which they have none.

    Args:
        command: The callbacks for training are for ``fit`` only.
        trainer: Arguments of the trainer.
        best: The callback that keeps the best checkpoint.
    """
    configured = trainer["callbacks"] or []
    callbacks = [configured] if isinstance(configured, Callback) else list(configured)
    if trainer["barebones"]:
        return callbacks
    averaging = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    callbacks = [*map(AveragedWeights, averaging), *callbacks]

    def add(callback: Callback, kind: type[Callback]) -> None:
        if not any(isinstance(known, kind) for known in callbacks):
            callbacks.append(callback)

    add(EndOtherRanks(), EndOtherRanks)
    if trainer["enable_progress_bar"] is not False:
        add(progress_bar(), ProgressBar)
    if command != "fit":
        return callbacks
    add(StrictOnceValidated(), StrictOnceValidated)
    if not averaging:
        add(WeightsBehindAverage(), WeightsBehindAverage)
    add(StopOnDivergence(), StopOnDivergence)
    add(OptimizerAsGiven(), OptimizerAsGiven)
    add(RowsOfEpoch(), RowsOfEpoch)
    add(ExactResume(), ExactResume)
    add(PlainOptimizerState(), PlainOptimizerState)
    add(NamedOptimizerState(), NamedOptimizerState)
    add(OptimizerStateMonitor(), OptimizerStateMonitor)
    if trainer["logger"] is not False:
        add(GivenRates("step"), LearningRateMonitor)
    if trainer["enable_checkpointing"] is not False:
        # Lightning takes the first one as trainer.checkpoint_callback, which is to be the best.
        add(best, ModelCheckpoint)
        add(LastCheckpoint(), LastCheckpoint)
    return callbacks
