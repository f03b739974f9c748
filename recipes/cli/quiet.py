"""Suppresses messages of other libraries that a user can do nothing about."""

import logging
import os
import sys
import warnings

USELESS_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning uses what torch deprecates
    r".*You are using `torch.load` with `weights_only=False`.*",
    r".*callbacks used to create the checkpoint need to be provided.*",  # the callbacks of fit, when testing
    r".*is not supported by the model summary.*",  # the table gives the size in float32
    r".*does not have many workers.*",  # texts are tokenized beforehand, so the loaders have little to do
    r".*Checkpoint directory .* exists and is not empty.*",  # best and last share a folder, on purpose
    r".*does not implement _stable_hash_for_caching.*",  # torchao's state compiles nevertheless
    r".*WeightAveraging callback with a model that overrides the configure_model.*",  # sharded models are refused
    r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",  # it has the averaged weights
    r".*To copy construct from a tensor.*",  # LearningRateMonitor copies torchao's learning rate
)
USELESS_RECORDS = {
    "lightning.pytorch.utilities.rank_zero": "💡 Tip:",
    "lightning.pytorch.trainer.connectors.signal_connector": "SLURM auto-requeueing enabled",  # once for each stage
    # Kernels that the 8-bit optimizers do not need.
    "torchao": "Failed to load ",
    "bitsandbytes.backends.cpu.ops": "Failed to load ",
    "torch.utils._pytree": "<enum ",
}


class _NotBeginningWith(logging.Filter):
    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._beginning)


def no_bars_in_files() -> None:
    """Turns off the progress bars of Hugging Face's libraries where standard error is not a terminal.

    The libraries read these variables once, when they are imported.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def silence() -> None:
    """Suppresses advertisements and warnings that do not apply here."""
    for name, beginning in USELESS_RECORDS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _NotBeginningWith) for known in logger.filters):
            logger.addFilter(_NotBeginningWith(beginning))
    for message in USELESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
