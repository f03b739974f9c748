"""Checkpoints: the last one of a run, the one that ``--ckpt_path`` means, and the hyperparameters in it."""

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from recipes.messages import RecipeError
from recipes.runs.folder import RunFolder, versions

LAST = "last.ckpt"
INHERITED = ("best_model_path", "best_model_score", "best_k_models", "kth_best_model_path", "kth_value")


class LoadedByName(TorchCheckpointIO):
    """Loads checkpoints with ``map_location="cpu"``; Lightning passes a function to the same effect.

    torch loads tensor subclasses such as torchao's 8-bit state only with the name of a device.
    """

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint; ``map_location`` as :func:`torch.load` takes it."""
        return super().load_checkpoint(path, map_location, weights_only)


def load_by_name(trainer: Trainer) -> None:
    """Makes a trainer use :class:`LoadedByName`, unless its strategy or its settings have their own checkpoint IO."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = LoadedByName()


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint; a resumed run knows the best one of the run before.

    Lightning forgets it when the folder changes, so that the first checkpoint after a resume would become the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the best checkpoint of the run before, if its file exists. It is never deleted."""
        if Path(state_dict["best_model_path"]).is_file():
            for name in INHERITED:
                setattr(self, name, state_dict[name])


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, written after every validation, at the end, and when the user interrupts the run.

    :class:`~lightning.pytorch.callbacks.ModelCheckpoint` with ``save_last=True`` writes it only together with the best
    checkpoint, so that a run which no longer improves could not be resumed from its end.
    """

    def __init__(self) -> None:
        super().__init__(filename=LAST.removesuffix(".ckpt"), enable_version_counter=False)

    @property
    def path(self) -> str | None:
        """The file, once it has been written."""
        return self.best_model_path or None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignores the state: the file of the run before is not this run's last."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the steps since the last validation."""
        self.on_validation_end(trainer, pl_module)  # saves nothing if the last step is saved

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves on Ctrl-C; not after an error, when the weights may be corrupted or the other ranks gone.

        ``save_on_exception`` would save after every exception, and on one rank while the others wait elsewhere.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and trainer.global_step
        if isinstance(exception, KeyboardInterrupt) and fitting and trainer.world_size == 1:
            self.best_model_path = self.format_checkpoint_name({})
            trainer.save_checkpoint(self.best_model_path, weights_only=False)


def resolve(ckpt_path: str, command: str, root: Path, name: str) -> str:
    """The file that ``--ckpt_path`` means.

    Args:
        ckpt_path: A file; the folder of a run; ``best`` or ``last`` of the newest run of this config name.
        command: For a run's folder, ``fit`` takes the last checkpoint, every other command the best.
        root: Folder of all runs.
        name: Config name.

    Raises:
        RecipeError: There is no such checkpoint.
    """
    if ckpt_path in ("best", "last"):
        for version in reversed(versions(root, name)):
            found = _in_run(RunFolder(root, name, version).path, ckpt_path)
            if found:
                return str(found)
        raise RecipeError(
            f"--ckpt_path {ckpt_path}: no run in {root / name} has a checkpoint; run `fit` first or give a file"
        )
    path = Path(ckpt_path)
    if path.is_dir() and (path / "checkpoints").is_dir():
        found = _in_run(path, "last" if command == "fit" else "best")
        if not found:
            raise RecipeError(f"--ckpt_path {ckpt_path}: the run has no checkpoint in checkpoints/")
        return str(found)
    if not path.exists() and "://" not in ckpt_path and ckpt_path not in ("hpc", "registry"):
        if ckpt_path.startswith("registry:"):
            return ckpt_path
        raise RecipeError(
            f"--ckpt_path {ckpt_path}: no such file; expected a .ckpt file, the folder of a run, 'best' or 'last'"
        )
    return ckpt_path


def _in_run(run: Path, which: str) -> Path | None:
    """A run's best or last checkpoint, or the other one if only that exists."""
    folder = run / "checkpoints"
    last = folder / LAST
    best = sorted((path for path in folder.glob("*.ckpt") if path.name != LAST), key=lambda path: path.stat().st_mtime)
    if which == "best" and len(best) > 1:
        recorded = _recorded_best(folder, best)
        best = [recorded] if recorded else best
    order = [*best[-1:], last] if which == "best" else [last, *best[-1:]]
    return next((path for path in order if path.is_file()), None)


def _recorded_best(folder: Path, candidates: list[Path]) -> Path | None:
    """The best of several checkpoints, as recorded in the newest one."""
    newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    for state in load(newest).get("callbacks", {}).values():
        name = Path(state.get("best_model_path") or "").name if isinstance(state, Mapping) else ""
        for candidate in candidates:
            if candidate.name == name:
                return candidate
    return None


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU; tensors and plain values only, never code.

    Raises:
        RecipeError: It is not a checkpoint, is corrupted, or holds objects that could run code.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise RecipeError(
            f"--ckpt_path {path}: not a checkpoint, or one that holds more than tensors and plain values"
        ) from None
    except Exception:  # reading another file as a pickle can raise anything
        raise RecipeError(f"--ckpt_path {path}: not a checkpoint, or a corrupted one") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise RecipeError(f"--ckpt_path {path}: not a checkpoint of Lightning: it has no state_dict")
    return checkpoint


def adopt(
    path: str | Path, class_path: str, current: Mapping[str, Any], given: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The model's arguments to take from a checkpoint, where its hyperparameters differ from those of this run.

    Arguments that the user gave, in a file or on the command line, are kept; only defaults are replaced by the
    checkpoint's.

    Args:
        path: The checkpoint.
        class_path: Class of this run's model.
        current: Arguments of this run's model.
        given: Names of those arguments that the user gave.

    Returns:
        The arguments taken from the checkpoint, and a sentence for each difference.
    """
    saved = dict(load(path).get("hyper_parameters", {}))
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
