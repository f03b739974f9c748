"""Callbacks and an optimizer that raise, or do harm, in a method of choice; the tests import them by their names."""

import shutil
from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor


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
