"""A Lightning callback that logs the size of the optimizer's state beside the validation metrics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from lightning_adafactor.memory import StateSize, adamw_state, measure_state

try:
    import rich
    from rich.table import Table
    from rich.text import Text
except ImportError:
    _RICH_AVAILABLE = False
else:
    _RICH_AVAILABLE = True


class OptimizerStateMonitor(Callback):
    """Logs the size of the optimizer's state, and prints at the end what AdamW's would have been.

    To every logger it logs ``optimizer/state_mb`` (MB meaning MiB) and ``optimizer/state_elements``: in a row
    of their own after the first optimizer step, and whenever further parameters get their first state (a
    second optimizer, a layer that is unfrozen); and at each validation in the row of the validation metrics,
    so that memory, accuracy and F1 are side by side. On CUDA ``memory/peak_gpu_mb`` is beside them: the peak
    of allocated memory since the fit began. Where an optimizer skips steps (``on_nonfinite``),
    ``optimizer/skipped_steps`` counts them. With several optimizers these names hold the sum, and
    ``optimizer/state_mb/0``, ``optimizer/state_elements/0`` and so on the values of each one.

    It works with any optimizer, manual optimization, gradient accumulation and resumed runs. In distributed
    training each process measures its own state, without communication, and rank 0 reports its own.
    Where the state is sharded (DTensor), ``optimizer/total_state_mb`` and ``optimizer/total_state_elements`` tell what
    all processes hold together, replicas counted once.

    Args:
        print_table: Whether to print a short table when the fit ends: this optimizer's state, AdamW's for the
            same parameters, and the last validation metrics (those whose names start with ``val``).

    Attributes:
        state: The last measurement, all optimizers together; None before the first.
        states: The same for each optimizer.
        total_state: The state of all processes together; equal to ``state`` where it is not sharded.
        adamw: The size that AdamW's state would have; None before the first measurement.
        peak_gpu_mb: Peak GPU memory in MB; None where there is no CUDA device.
    """

    def __init__(self, print_table: bool = True) -> None:
        self.print_table = print_table
        self._reset()

    def _reset(self) -> None:
        self.state: StateSize | None = None
        self.states: list[StateSize] = []
        self.total_state: StateSize | None = None
        self.adamw: StateSize | None = None
        self.peak_gpu_mb: float | None = None
        self._validation_metrics: dict[str, float] = {}
        self._first_step = 0
        self._progress: tuple[Any, ...] = ()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resets the measurements and the peak of GPU memory."""
        self._reset()
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records where a (resumed) run starts."""
        self._first_step = trainer.global_step
        self._progress = self._progress_of(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs after the first optimizer step, and after a step that created state of further parameters."""
        progress = self._progress_of(trainer)
        if progress == self._progress:
            return
        self._progress = progress
        metrics = self._measure(trainer)
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # the step under which Lightning logs this batch
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=step)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds the measurement to the metrics that this validation logs."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = self._measure(trainer)
        if trainer.barebones:
            return
        for name, value in metrics.items():
            # A tensor, because Lightning would keep a Python number in float32, which rounds counts above 2**24;
            # `max`, because `mean` would weight it by the batch size. The last two arguments together keep Lightning
            # from synchronizing ranks and from warning that it does not.
            pl_module.log(
                name,
                torch.tensor(value, dtype=torch.float64),
                on_step=False,
                on_epoch=True,
                reduce_fx="max",
                sync_dist=True,
                rank_zero_only=True,
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the validation metrics for the table."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validation_metrics = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")
            }

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures a last time, before the state may be moved or released."""
        self._measure(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the table."""
        if self.state is None:  # no step was taken: the checkpoint is that of a finished run
            self._measure(trainer)
        # in manual optimization Lightning does not count the steps of an optimizer that it has not wrapped
        has_stepped = trainer.global_step > 0 or (self.state is not None and self.state.elements > 0)
        if self.print_table and trainer.is_global_zero and has_stepped:
            self._print_table(trainer)

    def _progress_of(self, trainer: pl.Trainer) -> tuple[Any, ...]:
        """Returns a value that changes with the first step of this fit and with every parameter's first state."""
        stepped = trainer.global_step > self._first_step
        return stepped, *(len(optimizer.state) for optimizer in trainer.strategy.optimizers)

    def _measure(self, trainer: pl.Trainer) -> dict[str, float]:
        """Measures all optimizers, keeps the result and returns it by logged name."""
        optimizers = trainer.strategy.optimizers
        self.states = [measure_state(optimizer.state) for optimizer in optimizers]
        states = [state for optimizer in optimizers for state in optimizer.state.values()]
        self.state = measure_state(states)
        self.total_state = measure_state(states, total=True)
        self.adamw = adamw_state(chain.from_iterable(_parameters(optimizer) for optimizer in optimizers))
        metrics = _named(self.state, "")
        if len(self.states) > 1:
            for index, state in enumerate(self.states):
                metrics |= _named(state, f"/{index}")
        if self.total_state != self.state:
            metrics["optimizer/total_state_mb"] = self.total_state.megabytes
            metrics["optimizer/total_state_elements"] = float(self.total_state.elements)
        skipped = [getattr(optimizer, "skipped_steps", None) for optimizer in optimizers]
        if any(count is not None for count in skipped):
            metrics["optimizer/skipped_steps"] = float(sum(count or 0 for count in skipped))
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.peak_gpu_mb = torch.cuda.max_memory_allocated(device) / 2**20
            metrics["memory/peak_gpu_mb"] = self.peak_gpu_mb
        return metrics

    def _print_table(self, trainer: pl.Trainer) -> None:
        assert self.state is not None
        assert self.adamw is not None
        names = [type(optimizer).__name__ for optimizer in trainer.strategy.optimizers]
        rows = [_row(name, state, self.adamw) for name, state in zip(names, self.states, strict=True)]
        if len(rows) > 1:
            rows.append(_row("together", self.state, self.adamw))
        rows.append(_row("AdamW would hold", self.adamw, self.adamw))
        notes = [f"{name} {value:.4g}" for name, value in self._validation_metrics.items()]
        if self.total_state is not None and self.total_state != self.state:
            notes.append(f"state of all processes {self.total_state.megabytes:,.2f} MB")
        if self.peak_gpu_mb is not None:
            notes.append(f"peak GPU memory {self.peak_gpu_mb:,.0f} MB")
        steps = trainer.global_step
        when = f"{steps:,} step{'s' * (steps > 1)}" if steps else "the training"
        title = f"Optimizer state after {when}"
        _print(title, ("optimizer", "elements", "MB", "of AdamW's MB"), rows, "  ".join(notes))


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _named(state: StateSize, suffix: str) -> dict[str, float]:
    return {
        f"optimizer/state_mb{suffix}": state.megabytes,
        f"optimizer/state_elements{suffix}": float(state.elements),
    }


def _row(name: str, state: StateSize, adamw: StateSize) -> tuple[str, ...]:
    share = f"{state.bytes / adamw.bytes:.2%}" if adamw.bytes else "–"
    return name, f"{state.elements:,}", f"{state.megabytes:,.2f}", share


def _print(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Prints a table, names in its first column and numbers in the others; as plain text where rich is missing."""
    if not _RICH_AVAILABLE:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        print(title)
        for name, *numbers in (header, *rows):
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
            print("  ".join([name.ljust(widths[0]), *cells]))
        print(caption, end="\n" if caption else "")
        return
    table = Table(title=title, caption=Text(caption) if caption else None)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    rich.print(table)
