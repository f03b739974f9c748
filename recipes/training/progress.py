"""The progress bar: Lightning's own on a terminal, lines of text in a file or a pipe."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


def progress_bar() -> ProgressBar:
    """The progress bar for the standard output of this process."""
    return RichProgressBar() if sys.stdout.isatty() else ProgressLines()


class ProgressLines(ProgressBar):
    """Prints the progress as a line every few seconds, and at the end of every epoch.

    In a log file, a progress bar that redraws itself would be one endless line.

    Args:
        seconds: Minimum time between two lines.
    """

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        super().__init__()
        self._seconds = seconds
        self._enabled = True
        self._started = self._printed = 0.0

    def enable(self) -> None:
        """Turns printing on."""
        self._enabled = True

    def disable(self) -> None:
        """Turns printing off; called on all ranks but the first."""
        self._enabled = False

    def _start(self) -> None:
        self._started = self._printed = time.monotonic()

    def _line(self, done: int, total: int | float, title: str, metrics: dict[str, Any] | None = None) -> None:
        now = time.monotonic()
        if not self._enabled or (now - self._printed < self._seconds and done != total):
            return
        self._printed = now
        known_total = int(total) if total != float("inf") else None
        shown = ", ".join(f"{name}={_short(value)}" for name, value in (metrics or {}).items() if name != "v_num")
        bar = tqdm.format_meter(
            done,
            known_total,
            now - self._started,
            ncols=60,
            prefix=title,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]" if known_total else None,
            ascii=True,
        )
        print(f"{bar} {shown}".rstrip(), flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of a training, or of an evaluation without one."""
        self._start()

    # The start of a training counts too: a resumed run does not start the epoch that it continues.
    on_train_epoch_start = on_test_epoch_start = on_predict_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints the progress of the epoch, with the metrics of the progress bar."""
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        title = f"epoch {trainer.current_epoch + 1}{epochs}"
        self._line(batch_idx + 1, self.total_train_batches, title, self.get_metrics(trainer, pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of a validation."""
        self._evaluation_started = time.monotonic()
        if trainer.state.fn != TrainerFn.FITTING:
            self._start()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Prints the progress of a validation, a test or predictions; not of a validation during training."""
        self.has_dataloader_changed(dataloader_idx)
        command = trainer.state.fn
        if command == TrainerFn.VALIDATING:
            self._line(batch_idx + 1, self.total_val_batches_current_dataloader, command.value)
        elif command == TrainerFn.TESTING:
            self._line(batch_idx + 1, self.total_test_batches_current_dataloader, command.value)
        elif command == TrainerFn.PREDICTING:
            self._line(batch_idx + 1, self.total_predict_batches_current_dataloader, command.value)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the metrics of a validation during training, and leaves its time out of the epoch's."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._started += time.monotonic() - self._evaluation_started
        found = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if self._enabled and found:
            shown = ", ".join(f"{name}={_short(value)}" for name, value in found.items())
            print(f"validation after step {trainer.global_step}: {shown}", flush=True)


def _short(value: Any) -> str:
    number = float(value)
    return f"{number:.4g}" if number else "0"
