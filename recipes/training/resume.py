"""A run that resumes from a checkpoint keeps its own settings: those of the optimizer, and the batch size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from recipes.data.loader import ResumableLoader
from recipes.messages import RecipeError, tell
from recipes.runs.report import import_path
from recipes.training.checkpoints import LastCheckpoint

Groups = list[dict[str, Any]]
NOT_OPTIONS = {"params", "param_names", "initial_lr"}


class OptimizerAsGiven(Callback):
    """Restores the options of this run's optimizer that loading a checkpoint has replaced, and prints which.

    PyTorch's optimizers load their options together with their state: a new learning rate for the rest of a run would
    be ignored silently. A schedule continues at its step, with the new learning rate; without one, the rate is the
    given one and not what the schedule of the checkpoint had reached.
    """

    def __init__(self) -> None:
        self._given: list[Groups] = []
        self._classes: list[str] = []
        self._saved_classes: list[str] = []
        self._saved_options: list[set[str]] = []
        self._saved_sizes: list[list[int]] = []
        self._had_schedule = True

    def state_dict(self) -> dict[str, Any]:
        """The classes of the optimizers, for a resumed run."""
        return {"optimizers": self._classes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Records the classes of the optimizers whose state the checkpoint holds."""
        self._saved_classes = list(state_dict.get("optimizers", []))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Records the options that the checkpoint holds."""
        states = checkpoint.get("optimizer_states", [])
        self._saved_options = [{key for group in state["param_groups"] for key in group} for state in states]
        self._saved_sizes = [[len(group["params"]) for group in state["param_groups"]] for state in states]
        self._had_schedule = bool(checkpoint.get("lr_schedulers"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the options, before Lightning loads the checkpoint's."""
        self._given = []
        self._classes = [import_path(type(optimizer)) for optimizer in trainer.optimizers]
        if trainer.ckpt_path:
            self._refuse_other_classes(trainer)
            self._refuse_other_groups(trainer)
            self._given = [[_options(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def _refuse_other_classes(self, trainer: Trainer) -> None:
        for i, (optimizer, name) in enumerate(zip(trainer.optimizers, self._classes, strict=True)):
            own = {key for group in optimizer.param_groups for key in group} - NOT_OPTIONS
            saved = self._saved_options[i] - NOT_OPTIONS if i < len(self._saved_options) else own
            before = self._saved_classes[i] if i < len(self._saved_classes) else name
            if before != name or not (own <= saved or saved <= own):
                other = before if before != name else f"another one, with the options {', '.join(sorted(saved))}"
                raise RecipeError(
                    f"--ckpt_path {trainer.ckpt_path}: the optimizer is {name}, and the state in the checkpoint is of "
                    f"{other}: resume with the optimizer of the run, or start a new run without --ckpt_path"
                )

    def _refuse_other_groups(self, trainer: Trainer) -> None:
        for optimizer, before in zip(trainer.optimizers, self._saved_sizes, strict=False):
            sizes = [len(group["params"]) for group in optimizer.param_groups]
            if sizes != before:
                raise RecipeError(
                    f"--ckpt_path {trainer.ckpt_path}: the optimizer has {sum(sizes)} parameters in {len(sizes)} "
                    f"groups, and that of the checkpoint {sum(before)} in {len(before)}: resume with the settings of "
                    "the run that determine them, such as model.layer_lr_decay and model.freeze"
                )

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
            if not _is_scheduled(trainer, optimizer):
                notes |= {
                    note
                    for group, given in zip(optimizer.param_groups, given_groups, strict=False)
                    for note in _end_schedule(group, given["lr"])
                }
        if self._given and not self._had_schedule:
            notes |= set(_begin_schedules(trainer))
        for note in sorted(notes):
            tell(note)


class RowsOfEpoch(Callback):
    """Counts the batches of an interrupted epoch as if they had this run's batch size.

    The training loader yields the remaining rows. Lightning compares the checkpoint's number of batches with the length
    of the loader: with another batch size the epoch would end too early or too late.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called once the loader is set up, and before the first batch is drawn from it."""
        loader = trainer.train_dataloader
        left = loader.batches_left if isinstance(loader, ResumableLoader) else None
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if left is None or not trainer.ckpt_path:
            return
        assert isinstance(loader, ResumableLoader)
        done = min(len(loader) - left, int(trainer.num_training_batches))
        change = done - progress.processed
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, getattr(progress, name) + change)


def how_to_resume(trainer: Trainer) -> str:
    """How to resume a training, such as ``resume with --ckpt_path ...``; empty if there is nothing to resume from.

    Args:
        trainer: The trainer of the run; no other process is asked.
    """
    last = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)), None)
    if last is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return ""
    if last.path and Path(last.path).is_file():
        return f"resume with --ckpt_path {last.path}"
    run = Path(trainer.default_root_dir)
    return f"resume with --ckpt_path {run}" if any((run / "checkpoints").rglob("*.ckpt")) else ""


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


def _is_scheduled(trainer: Trainer, optimizer: Any) -> bool:
    return any(getattr(config.scheduler, "optimizer", None) is optimizer for config in trainer.lr_scheduler_configs)


def _end_schedule(group: dict[str, Any], rate: Any) -> Iterator[str]:
    """Sets the rate of a group that had a schedule and has none now; yields a note if it changes."""
    if group.pop("initial_lr", None) is None or _plain(group["lr"]) == rate:
        return
    yield f"optimizer.lr is {rate} from here on, without a schedule; the checkpoint's had reached {_plain(group['lr'])}"
    _set_rate(group, rate)


def _begin_schedules(trainer: Trainer) -> Iterator[str]:
    """Advances schedules that the checkpoint does not have by the steps taken; yields a note for each.

    Other schedules than ``LambdaLR``, as recipes have, or by epochs, start at their beginning.
    """
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if config.interval != "step" or not isinstance(scheduler, LambdaLR) or trainer.global_step == 0:
            continue
        scheduler.last_epoch = trainer.global_step
        rates = [
            base * rate(scheduler.last_epoch)
            for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, base, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, rates, strict=True):
            group["initial_lr"] = base  # which the groups of the checkpoint do not have
            _set_rate(group, rate)
        yield f"the checkpoint has no schedule: the new one starts at step {trainer.global_step:,}"


def _set_rate(group: dict[str, Any], rate: Any) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _restore_rate(trainer: Trainer, optimizer: Any, i: int, rate: float, loaded: float) -> None:
    group = optimizer.param_groups[i]
    _set_rate(group, rate * (_plain(group["lr"]) / loaded) if loaded else rate)
    if "initial_lr" in group:
        group["initial_lr"] = rate
    for config in trainer.lr_scheduler_configs:
        if getattr(config.scheduler, "optimizer", None) is optimizer and hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs[i] = rate
