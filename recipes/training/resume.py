"""A run that resumes from a checkpoint keeps its own optimizer settings."""

from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recipes.messages import tell

Groups = list[dict[str, Any]]


class OptimizerAsGiven(Callback):
    """Restores the options of this run's optimizer that loading a checkpoint has replaced, and prints which.

    PyTorch's optimizers load their options together with their state: a new learning rate for the rest of a run would
    be ignored silently. A schedule continues at its step, with the new learning rate.
    """

    def __init__(self) -> None:
        self._given: list[Groups] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the options, before Lightning loads the checkpoint's."""
        self._given = []
        if trainer.ckpt_path:
            self._given = [[_options(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the options that the checkpoint has replaced."""
        notes = set()
        for optimizer, given_groups in zip(trainer.optimizers, self._given, strict=False):
            for i, (group, given) in enumerate(zip(optimizer.param_groups, given_groups, strict=False)):
                for name, value, loaded in _differences(group, given):
                    if name == "lr":
                        _restore_rate(trainer, optimizer, i, value, loaded)
                    else:
                        group[name] = value
                    notes.add(f"optimizer.{name} is {value} as given; the checkpoint was trained with {loaded}")
        for note in sorted(notes):
            tell(note)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """A group's options as plain values; the learning rate is the initial one, not the schedule's."""
    options = {name: _plain(value) for name, value in group.items() if name != "params"}
    options["lr"] = options.pop("initial_lr", options.get("lr"))
    return options


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _differences(group: dict[str, Any], given: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    loaded = _options(group)
    for name, value in given.items():
        if name in loaded and loaded[name] != value:
            yield name, value, loaded[name]


def _restore_rate(trainer: Trainer, optimizer: Any, i: int, rate: float, loaded: float) -> None:
    group = optimizer.param_groups[i]
    current = rate * (_plain(group["lr"]) / loaded) if loaded else rate
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(current)
    else:
        group["lr"] = current
    if "initial_lr" in group:
        group["initial_lr"] = rate
    for config in trainer.lr_scheduler_configs:
        if getattr(config.scheduler, "optimizer", None) is optimizer and hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs[i] = rate
