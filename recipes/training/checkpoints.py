"""Checkpoints: how they are written, which ones a run keeps, and what is read from them."""

import math
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from recipes.messages import RecipeError
from recipes.runs import slurm
from recipes.runs.folder import check_exists
from recipes.runs.history import VALIDATION_LOSS
from recipes.training import lightning_internals, peers, whole_files
from recipes.training.stop_signals import StopSignals

LAST = "last.ckpt"
GLOBAL = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")
INHERITED = ("best_model_path", "best_model_score", "best_k_models", "kth_best_model_path", "kth_value")


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint whole or not at all, with a checksum that is verified when it is loaded.

    Lightning writes through the temporary folder: where that is on another file system, an interrupted or failed copy
    leaves a truncated checkpoint in place of the good one.

    Args:
        run: The folder of the run. Once it has been removed, nothing is saved, so that it is not created again with
            half of its files. None: not checked.
    """

    def __init__(self, run: Path | None = None) -> None:
        super().__init__()
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a local file with :func:`recipes.training.whole_files.write`, any other as Lightning does.

        Raises:
            FileNotFoundError: The folder of the run has been removed.
        """
        if self.run is not None:
            check_exists(self.run)
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        whole_files.write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint; ``map_location`` as :func:`torch.load` takes it.

        It is the CPU by its name, where Lightning passes a function that does the same: torch rebuilds tensor
        subclasses such as torchao's 8-bit state only on a device that is named.

        Raises:
            RecipeError: The file is not the one that was written.
        """
        if Path(path).is_file():
            verify(path)
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint, then its checksum."""
        super().remove_checkpoint(path)
        whole_files.sum_of(Path(path)).unlink(missing_ok=True)


def write_whole_files(trainer: Trainer, run: Path | None) -> None:
    """Makes a trainer use :class:`WholeFiles`, unless its strategy or settings have a checkpoint IO of their own.

    Args:
        trainer: The trainer.
        run: The folder of the run, if there is one.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles(run)


def verify(path: str | Path) -> None:
    """Compares a checkpoint with its checksum, if there is one.

    Raises:
        RecipeError: They differ.
    """
    if not whole_files.is_whole(Path(path)):
        raise RecipeError(
            f"--ckpt_path {path}: the file is corrupted, its sha256 is not that in {whole_files.sum_of(Path(path))}; "
            "use another checkpoint of the run, or a copy of this one"
        )


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint, including that of the run which is resumed; of equally good ones that of lower loss.

    Lightning resets it when the folder changes: the first checkpoint after a resume would become the best. It keeps the
    first one of several with the same score, and a metric such as F1 takes few values on a small validation split.
    """

    loss_of_best = math.nan
    """The validation loss of the best checkpoint, where one checkpoint is kept; NaN if it is not known."""

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is to be saved."""
        is_better = super().check_monitor_top_k(trainer, current)
        if self.save_top_k != 1:
            return is_better
        loss = float(trainer.callback_metrics.get(VALIDATION_LOSS, math.nan))
        if not is_better and current is not None and self.best_model_score is not None:
            is_better = float(current) == float(self.best_model_score) and loss < self.loss_of_best
            is_better = trainer.strategy.reduce_boolean_decision(is_better)  # for a loss that is not the same on all
        if is_better:
            self.loss_of_best = loss
        return is_better

    def state_dict(self) -> dict[str, Any]:
        """The state of Lightning's callback, with the loss of the best checkpoint."""
        return {**super().state_dict(), "loss_of_best": self.loss_of_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best checkpoint of the resumed run, if its file exists. It is never deleted."""
        if Path(state_dict["best_model_path"]).is_file():
            for name in INHERITED:
                setattr(self, name, state_dict[name])
            self.loss_of_best = state_dict.get("loss_of_best", math.nan)


class LastCheckpoint(ModelCheckpoint):
    """Saves ``last.ckpt`` after every validation, at the end of training, and when a signal stops the run.

    :class:`~lightning.pytorch.callbacks.ModelCheckpoint` with ``save_last=True`` saves it only together with a new best
    checkpoint: a run that no longer improves could not be resumed where it ended.

    After a signal (:class:`~recipes.training.stop_signals.StopSignals`) the current batch is completed, then the
    checkpoint is saved and the training ends. Lightning runs checkpoint callbacks last, so the checkpoint includes what
    other callbacks recorded for that batch.

    Attributes:
        stopped_by: Number of the signal that stopped the run; None without one.
    """

    def __init__(self) -> None:
        super().__init__(filename=LAST.removesuffix(".ckpt"), enable_version_counter=False)
        self._signals = StopSignals()
        self.stopped_by: int | None = None

    @property
    def path(self) -> str | None:
        """The file, once it has been written."""
        return self.best_model_path or None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignores the state: the last checkpoint of the resumed run is not that of this one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, a signal stops the run after the current batch."""
        super().on_train_start(trainer, pl_module)
        self.stopped_by = None
        self._signals.install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a signal, saves and stops; if a validation is due, which a resumed run would skip, after that."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._asked(trainer):
            if _ends_within_epoch(trainer):
                self._save_now(trainer)
            return
        if trainer.global_step:
            self._save_now(trainer)
        if trainer.global_step and lightning_internals.is_validation_due(trainer):
            # In case the process is killed during the validation, after which the checkpoint is saved again.
            lightning_internals.forget_saved_step(self)
            return
        self._leave(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves; stops after a signal."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._asked(trainer):
            self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the steps since the last validation; stops after a signal."""
        self.save_last_step(trainer, pl_module)
        asked = self._asked(trainer)
        self._signals.restore()
        if asked:
            self._leave(trainer)

    def save_last_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step unless it is saved already."""
        super().on_validation_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves nothing: the batch may be half done, the weights corrupted, or the other ranks gone."""
        self._signals.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the signal handlers."""
        self._signals.restore()

    def _asked(self, trainer: Trainer) -> bool:
        """Whether a signal has reached any of the ranks."""
        signum = self._signals.received or 0
        if trainer.world_size > 1:
            local = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(local, reduce_op="max"))
        self._signals.received = signum or None
        return bool(signum)

    def _save_now(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.best_model_path = self.format_checkpoint_name({})
        lightning_internals.save_checkpoint(self, trainer, self.best_model_path)

    def _leave(self, trainer: Trainer) -> None:
        """Ends this process; all of them call this after the same step."""
        self.stopped_by = self._signals.received
        assert self.stopped_by is not None
        if peers.current is not None:
            peers.current.ignore()  # another process may have left before this one has said why
        if trainer.is_global_zero and lightning_internals.requeues_at(trainer, self.stopped_by):
            slurm.requeue()
        self._signals.leave()


def _ends_within_epoch(trainer: Trainer) -> bool:
    """Whether the training ends here and leaves rows of the epoch, without a validation after which they are saved.

    Lightning counts the epoch as done: what is saved at the end could not be resumed with more steps.
    """
    is_over = trainer.should_stop or -1 < trainer.max_steps <= trainer.global_step
    return is_over and not trainer.is_last_batch and not lightning_internals.is_validation_due(trainer)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU; tensors and plain values only, never code.

    Raises:
        RecipeError: It is not a checkpoint, is corrupted, or holds objects that could run code.
    """
    verify(path)
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:
        found = GLOBAL.search(str(error))
        raise RecipeError(
            f"--ckpt_path {path}: not a checkpoint, or one that holds more than tensors and plain values"
            f"{f', such as {found[1]}' if found else ''}"
        ) from None
    except Exception:  # reading another file as a pickle can raise anything
        raise RecipeError(f"--ckpt_path {path}: not a checkpoint, or a corrupted one") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise RecipeError(f"--ckpt_path {path}: not a checkpoint of Lightning: it has no state_dict")
    return checkpoint


def check_contents(path: str | Path, checkpoint: Mapping[str, Any], command: str) -> None:
    """Checks that a checkpoint has what Lightning needs.

    Args:
        path: Where it is.
        checkpoint: What is in it.
        command: ``fit`` needs more of it than the other commands.

    Raises:
        RecipeError: Something is missing.
    """
    if not isinstance(checkpoint.get("pytorch-lightning_version"), str):
        raise RecipeError(f"--ckpt_path {path}: not a checkpoint of Lightning, it holds no pytorch-lightning_version")
    missing = [key for key in ("optimizer_states", "lr_schedulers", "loops") if key not in checkpoint]
    if command == "fit" and missing:
        raise RecipeError(
            f"--ckpt_path {path}: holds the weights only, no {' and no '.join(missing)}, so no training can "
            "resume from it; train with checkpoint.save_weights_only false, or start from the weights: model.pretrained"
        )


def nothing_left(checkpoint: Mapping[str, Any], trainer: Mapping[str, Any]) -> str | None:
    """A sentence for a checkpoint of a finished run; None if there is something left to train.

    Args:
        checkpoint: What is in it.
        trainer: Settings of the trainer, such as ``max_epochs``.
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    epochs = fit_loop["epoch_progress"]["current"]["processed"]
    batches = fit_loop["epoch_loop.batch_progress"]
    epochs += batches["is_last_batch"] and fit_loop["epoch_progress"]["current"]["ready"] > epochs
    max_epochs, max_steps, steps = trainer["max_epochs"], trainer["max_steps"], checkpoint["global_step"]
    if max_steps not in (None, -1) and steps >= max_steps:
        return f"nothing is left to train: {steps} steps are done; to continue, give --trainer.max_steps above {steps}"
    if max_epochs not in (None, -1) and epochs >= max_epochs:
        return (
            f"nothing is left to train: {epochs} epochs are done; to continue, give --trainer.max_epochs above {epochs}"
        )
    return None


def adopt(
    path: str | Path, checkpoint: Mapping[str, Any], class_path: str, current: Mapping[str, Any], given: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The model's arguments to load from a checkpoint, where its hyperparameters differ from those of this run.

    Arguments that the user gave, in a file or on the command line, are kept; only defaults are replaced by the
    checkpoint's.

    Args:
        path: The checkpoint.
        checkpoint: What is in it.
        class_path: Class of this run's model.
        current: Arguments of this run's model.
        given: Names of those arguments that the user gave.

    Returns:
        The arguments from the checkpoint, and a sentence for each difference.
    """
    saved = dict(checkpoint.get("hyper_parameters") or {})
    saved.pop("_instantiator", None)
    saved_class = saved.pop("_class_path", class_path)
    if saved_class != class_path:
        return {}, [f"{path} was saved by {saved_class}, and is loaded into {class_path} as given"]
    differing = {name: value for name, value in saved.items() if value != current.get(name, value)}
    adopted = {name: value for name, value in differing.items() if name not in given}
    notes = [
        f"model.{name} is {value!r} as in the checkpoint, since it was not given"
        if name in adopted
        else f"model.{name} is {current[name]!r} as given; the checkpoint was trained with {value!r}"
        for name, value in differing.items()
    ]
    return adopted, notes
