"""``config.yaml``: all settings of a run, in a form that another machine can run again."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from recipes import resolvers

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch.cli import LightningArgumentParser

FILE = "config.yaml"


def recorded_config(parser: "LightningArgumentParser", config: "Namespace") -> str:
    """All settings of a run as YAML, defaults included.

    Paths within wheels are written as the ``${wheel:...}`` that they came from: where a wheel lies differs from one
    environment to the next.
    """
    text = parser.dump(config, skip_none=False)
    for located, reference in resolvers.located().items():
        text = text.replace(located, reference)
    return text


class RecordConfig(SaveConfigCallback):
    """Writes :func:`recorded_config` into the run's folder before anything is trained."""

    _folder: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Asks for the folder on all ranks: the first one tells it to the others, who have to listen."""
        self._folder = trainer.log_dir
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0 alone."""
        if self._folder is None:
            return
        file = Path(self._folder) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as written:
            written.write(recorded_config(self.parser, self.config))
