"""Callbacks and an optimizer that raise, or do harm, in a method of choice; the tests import them by their names."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from lightning_adafactor.sharded.layout import local
from recipes.messages import RecipeError

SECONDS = 60.0
"""How long a process waits for the words of the others."""


class RaisingCallback(Callback):
    """Raises ``ArithmeticError`` from one hook.

    Args:
        hook: Its name.
    """

    def __init__(self, hook: str) -> None:
        def raising(*args: Any, **kwargs: Any) -> None:
            raise ArithmeticError(f"{hook} does not work")

        if hook == "__init__":
            raising()
        setattr(self, hook, raising)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": 1}


class Remover(Callback):
    """Removes the folder of the run in one hook.

    Args:
        hook: Its name.
    """

    def __init__(self, hook: str) -> None:
        def remove(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            shutil.rmtree(trainer.default_root_dir)

        setattr(self, hook, remove)


class TroubleOnRank(Callback):
    """Kills, signals or fails one process of several at the end of a training step.

    Args:
        rank: The process.
        step: The step.
        kind: ``kill``, ``error``, ``mistake``, ``full`` (disk) or the name of a signal.
    """

    def __init__(self, rank: int, step: int, kind: str) -> None:
        self.rank, self.step, self.kind = rank, step, kind

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank != self.rank or trainer.global_step != self.step:
            return
        if self.kind == "error":
            raise ArithmeticError("this rank cannot count")
        if self.kind == "mistake":
            raise RecipeError("data.train: this rank has a bad row")
        if self.kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        os.kill(os.getpid(), signal.SIGKILL if self.kind == "kill" else signal.Signals[self.kind])


class NanOnRank(Callback):
    """Makes the loss or a gradient of one process of several NaN; each writes why it ends to ``said.RANK.txt``.

    Args:
        rank: The process.
        step: The number of steps before.
        kind: ``loss`` or ``gradient``.
    """

    def __init__(self, rank: int, step: int, kind: str) -> None:
        self.rank, self.step, self.kind = rank, step, kind

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        vars(pl_module).pop("training_step", None)
        if self.kind == "loss" and trainer.global_rank == self.rank and trainer.global_step == self.step:
            step = pl_module.training_step
            pl_module.training_step = lambda *args: step(*args) * float("nan")

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if self.kind == "gradient" and trainer.global_rank == self.rank and trainer.global_step == self.step:
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            local(next(gradient for gradient in gradients if local(gradient).numel())).fill_(float("nan"))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        said = [Path(f"said.{rank}.txt") for rank in range(trainer.world_size)]
        part = Path(f"said.{trainer.global_rank}.part")
        part.write_text(str(exception), encoding="utf-8")
        part.replace(said[trainer.global_rank])
        # The process that reports its error ends the others, of which one may not have come here yet.
        deadline = time.monotonic() + SECONDS
        while not all(file.exists() for file in said) and time.monotonic() < deadline:
            time.sleep(0.05)


class RaisingSGD(torch.optim.SGD):
    """Raises ``ArithmeticError`` from one method.

    Args:
        params: The parameters.
        method: Its name.
        lr: The learning rate.
    """

    def __init__(self, params: Iterable[Tensor], method: str, lr: float = 0.1) -> None:
        def raising(*args: Any, **kwargs: Any) -> None:
            raise ArithmeticError(f"{method} does not work")

        if method == "__init__":
            raising()
        self.__class__ = type("RaisingSGD", (RaisingSGD,), {method: raising})
        super().__init__(params, lr=lr)


def raising_optimizer(params: Iterable[Tensor], lr: float = 0.1) -> torch.optim.Optimizer:
    """Raises ``ArithmeticError``."""
    raise ArithmeticError("the function does not work")
