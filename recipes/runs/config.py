"""``config.yaml``: all settings of a run, to run it again on any machine."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from recipes import resolvers
from recipes.runs import slurm

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch.cli import LightningArgumentParser

FILE = "config.yaml"


def recorded_config(parser: "LightningArgumentParser", config: "Namespace") -> str:
    """All settings of a run as YAML, defaults included.

    Paths within wheels are replaced by their ``${wheel:...}`` reference: wheels are installed to other folders in other
    environments.
    """
    text = parser.dump(config, skip_none=False)
    for located, reference in resolvers.located().items():
        text = text.replace(located, reference)
    return text


class RecordConfig(SaveConfigCallback):
    """Writes :func:`recorded_config` into the run's folder before the training.

    Attributes:
        text: What it has written; empty before the setup, and on all ranks but the first.
    """

    text = ""
    _folder: str | None = None

    @property
    def folder(self) -> Path | None:
        """The run's folder; None before the setup."""
        return Path(self._folder) if self._folder else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gets the run's folder on all ranks: ``trainer.log_dir`` is broadcast from the first one."""
        self._folder = trainer.log_dir
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0 alone."""
        if self._folder is None:
            return
        file = Path(self._folder) / FILE
        self.text = recorded_config(self.parser, self.config)
        with file.open("x", encoding="utf-8") as written:
            written.write(self.text)
        slurm.note_job(file.parent)
