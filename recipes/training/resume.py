"""A run that goes on from a checkpoint keeps its own settings of the optimizer."""

from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recipes.messages import tell

Groups = list[dict[str, Any]]


class OptimizerAsGiven(Callback):
    """Puts back the options of this run's optimizer that loading a checkpoint has replaced, and tells which.

    PyTorch's optimizers load their options together with their state: a learning rate given for the rest of a
    run would be dropped without a word. A schedule goes on from its step, from the rate that was given.
    """

    def __init__(self) -> None:
        self._given: list[Groups] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the options, before Lightning loads the checkpoint's."""
        self._given = []
        if trainer.ckpt_path:
            self._given = [[_options(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares them with the checkpoint's."""
        told = set()
        for optimizer, given_groups in zip(trainer.optimizers, self._given, strict=False):
            for i, (group, given) in enumerate(zip(optimizer.param_groups, given_groups, strict=False)):
                for name, value, loaded in _differences(group, given):
                    if name == "lr":
                        _put_back_rate(trainer, optimizer, i, value, loaded)
                    else:
                        group[name] = value
                    told.add(f"optimizer.{name} is {value} as given; the checkpoint was trained with {loaded}")
        for note in sorted(told):
            tell(note)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """A group's options as plain values; the rate is the one given, not a schedule's."""
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


def _put_back_rate(trainer: Trainer, optimizer: Any, i: int, rate: float, loaded: float) -> None:
    group = optimizer.param_groups[i]
    today = rate * (_plain(group["lr"]) / loaded) if loaded else rate
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(today)
    else:
        group["lr"] = today
    if "initial_lr" in group:
        group["initial_lr"] = rate
    for config in trainer.lr_scheduler_configs:
        if getattr(config.scheduler, "optimizer", None) is optimizer and hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs[i] = rate
