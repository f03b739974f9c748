"""The history of a run: losses and evaluations by step, seconds and number of examples."""

import time
from collections.abc import Iterable
from itertools import pairwise
from statistics import median
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.optim import Optimizer

from lightning_adafactor import GradientRelease
from lightning_adafactor.memory import StateSize, measure_state
from recipes.runs.fingerprint import weights_sha256
from recipes.sharding.weights import full_state_dict, is_sharded

VALIDATION_LOSS = "val/loss"
"""The validation loss, as recipes log it."""


class RunHistory(Callback):
    """Records what the report shows. A resumed run continues the curves in its checkpoint.

    Attributes:
        losses: ``(step, loss, seconds)`` every ``log_every_n_steps``: the mean training loss since the previous entry,
            over the batches of all processes, and the seconds of training until then, without validations and the
            checkpoints after them, at the end of an epoch and of the training; those of ``every_n_train_steps`` count.
        evaluations: For each validation ``(step, {metric: value})``.
        initial_weights: Fingerprint of the module before the first step of training.
        state: Size of the optimizers' state at the end of the training, on this process; None without a training.
            Afterwards Lightning moves it to the CPU, tensor by tensor: what parameters share has then a copy for each.
        total_state: The same of all processes.
        gradients: Size of the gradients at the first optimizer step, on this process; with gradient release the peak.
        seconds: ``setup`` from the creation of this callback to the first training step (data, model, evaluation before
            it), ``train`` the training loop including validation, ``test`` the test loop.
        samples: Training examples seen by this process.
        training_seconds: ``seconds["train"]`` without the same.
    """

    def __init__(self) -> None:
        self.losses: list[tuple[int, float, float]] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.seconds = {"setup": 0.0, "train": 0.0, "test": 0.0}
        self.initial_weights: str | None = None
        self.state: StateSize | None = None
        self.total_state: StateSize | None = None
        self.gradients = StateSize(0, 0)
        self.samples = 0
        self.training_seconds = 0.0
        self._mark = time.perf_counter()
        self._paused_since: float | None = None
        self._pauses = 0.0
        self._seconds_before = 0.0
        self._loss_sum: Tensor | None = None
        self._loss_count = 0
        self._loss_before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the weights' fingerprint; stops the clock of the setup and starts that of training."""
        if trainer.is_global_zero or is_sharded(pl_module):
            weights = full_state_dict(pl_module)
            self.initial_weights = weights_sha256(weights) if trainer.is_global_zero else None
        self._paused_since, self._pauses = None, 0.0  # without the sanity check
        self._lap("setup")
        self._seconds_before = self.losses[-1][2] if self.losses else 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training, and measures the optimizers' state."""
        self._resume()
        self._lap("train")
        self.training_seconds = self.seconds["train"] - self._pauses
        self.state, self.total_state = held_by(trainer.strategy.optimizers)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the test; a test before the training counts as setup."""
        if self.training_seconds:
            self._mark = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of the test."""
        if self.training_seconds:
            self._lap("test")

    def _lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._mark
        self._mark = now

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Measures the gradients, once."""
        if self.gradients.elements == 0:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.gradients = measure_state([gradients])
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, GradientRelease) and callback.peak is not None:
                    self.gradients = max(self.gradients, callback.peak, key=lambda size: size.bytes)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the examples and, every ``log_every_n_steps``, records the mean loss since the last time."""
        first = next((value for value in batch.values() if isinstance(value, Tensor)), None)
        self.samples += 0 if first is None else len(first)
        if isinstance(outputs, dict) and "loss" in outputs:
            # Lightning divides the loss by the number of accumulated batches. The sum on the device needs no
            # synchronization.
            loss = outputs["loss"].detach().float() * trainer.accumulate_grad_batches
            self._loss_sum = loss + self._loss_before if self._loss_sum is None else self._loss_sum + loss
            self._loss_before = 0.0
            self._loss_count += 1
        step = trainer.global_step
        due = trainer.is_last_batch or step % max(trainer.log_every_n_steps, 1) == 0  # type: ignore[attr-defined]
        noted = self.losses[-1][0] if self.losses else 0
        if self._loss_sum is not None and due and step > noted:
            if trainer.world_size > 1:
                self._loss_sum = trainer.strategy.reduce(self._loss_sum, reduce_op="mean")
            mean = self._loss_sum.item() / self._loss_count
            seconds = time.perf_counter() - self._mark - self._pauses  # .item() has synchronized
            self.losses.append((step, mean, self._seconds_before + seconds))
            self._loss_sum, self._loss_count = None, 0
        if trainer.should_stop or 0 <= trainer.max_steps <= step:
            self._pause()  # the last checkpoint is saved

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Goes on with the clock of training."""
        self._resume()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training until the next batch: checkpoints are saved."""
        self._pause()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training until the next batch: afterwards checkpoints are saved."""
        self._pause()

    def _pause(self) -> None:
        if self._paused_since is None:
            self._paused_since = time.perf_counter()

    def _resume(self) -> None:
        if self._paused_since is not None:
            self._pauses += time.perf_counter() - self._paused_since
            self._paused_since = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the metrics of a validation during training."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.evaluations.append((trainer.global_step, metrics))

    @property
    def seconds_per_step(self) -> float | None:
        """The median, over the entries of ``losses``, of the seconds per optimizer step.

        The first entry, which includes warm-up, counts only if there is no other; those from before a resume count
        too. None without an entry.
        """
        marks = [(0, 0.0), *((step, seconds) for step, _, seconds in self.losses)]
        each = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(marks)]
        return median(each[1:] or each) if each else None

    def state_dict(self) -> dict[str, Any]:
        """The curves, for a resumed run; the losses since the last entry of each process. All processes call it."""
        unnoted: list[Any] = [(0.0 if self._loss_sum is None else self._loss_sum.item(), self._loss_count)]
        if distributed.is_available() and distributed.is_initialized():
            mine, unnoted = unnoted[0], [None] * distributed.get_world_size()
            distributed.all_gather_object(unnoted, mine)
        return {"losses": self.losses, "evaluations": self.evaluations, "unnoted": [list(pair) for pair in unnoted]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the curves of the resumed run, not those of a checkpoint that is tested after this run."""
        if not self.losses:
            self.losses = list(state_dict["losses"])
            self.evaluations = list(state_dict["evaluations"])
            self._loss_before, self._loss_count = _of_this_process(state_dict.get("unnoted", [[0.0, 0]]))


def _of_this_process(unnoted: list[Any]) -> tuple[float, int]:
    """The losses that this process has summed up; the mean of all where there were not as many processes."""
    if not isinstance(unnoted[0], list | tuple):  # of an older version, of the first process
        unnoted = [unnoted]
    initialized = distributed.is_available() and distributed.is_initialized()
    if len(unnoted) == (distributed.get_world_size() if initialized else 1):
        total, count = unnoted[distributed.get_rank() if initialized else 0]
        return total, count
    return sum(total for total, _ in unnoted) / len(unnoted), unnoted[0][1]


def held_by(optimizers: Iterable[Optimizer]) -> tuple[StateSize, StateSize]:
    """The size of the optimizers' state on this process, and of all processes."""
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return measure_state(states), measure_state(states, total=True)
