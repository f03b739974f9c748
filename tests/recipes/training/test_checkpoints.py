"""Which checkpoint is meant, which hyperparameters are used, and when the last one is written."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from recipes.messages import RecipeError
from recipes.training.checkpoints import BestCheckpoint, LastCheckpoint, adopt, load, resolve


def save(path: Path, age: int = 0, **content: Any) -> Path:
    """Writes a checkpoint that is ``age`` seconds old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, **content}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, the newer with a best and a last checkpoint, and one that has only started."""
    save(tmp_path / "cls/version_0/checkpoints/last.ckpt")
    save(tmp_path / "cls/version_9/checkpoints/epoch=1-step=8.ckpt", age=9)
    save(tmp_path / "cls/version_9/checkpoints/last.ckpt")
    (tmp_path / "cls/version_10").mkdir()
    return tmp_path


@pytest.mark.parametrize(("word", "name"), [("best", "epoch=1-step=8.ckpt"), ("last", "last.ckpt")])
def test_best_and_last_mean_the_newest_run_that_kept_a_checkpoint(word: str, name: str, runs: Path) -> None:
    assert resolve(word, "fit", runs, "cls") == str(runs / "cls/version_9/checkpoints" / name)


@pytest.mark.parametrize(("command", "name"), [("fit", "last.ckpt"), ("test", "epoch=1-step=8.ckpt")])
def test_of_a_runs_folder_fit_takes_the_last_and_the_others_the_best(command: str, name: str, runs: Path) -> None:
    folder = runs / "cls/version_9"
    assert resolve(str(folder), command, runs, "other") == str(folder / "checkpoints" / name)


def test_the_last_one_is_used_if_there_is_no_best_one(runs: Path) -> None:
    assert resolve(str(runs / "cls/version_0"), "test", runs, "cls").endswith("version_0/checkpoints/last.ckpt")


def test_of_several_the_best_is_the_recorded_one(runs: Path) -> None:
    folder = runs / "cls/version_9/checkpoints"
    best = save(folder / "epoch=2-step=12.ckpt", age=5)
    save(folder / "epoch=3-step=16.ckpt", age=2)
    callbacks = {"BestCheckpoint{}": {"best_model_path": f"/moved/since/{best.name}"}}
    save(folder / "last.ckpt", callbacks=callbacks)
    assert resolve("best", "test", runs, "cls") == str(best)


def test_files_and_urls_are_not_changed(runs: Path) -> None:
    path = str(runs / "cls/version_0/checkpoints/last.ckpt")
    for given in (path, "s3://bucket/last.ckpt", "registry:model", "hpc"):
        assert resolve(given, "fit", runs, "cls") == given


@pytest.mark.parametrize("given", ["nowhere.ckpt", "best"])
def test_a_missing_checkpoint_is_an_error(given: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"--ckpt_path {given}: no "):
        resolve(given, "fit", tmp_path, "cls")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 corrupted"])
def test_another_file_is_not_a_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(RecipeError, match=r"x\.ckpt: not a checkpoint"):
        load(tmp_path / "x.ckpt")


def test_weights_alone_are_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "x.ckpt")
    with pytest.raises(RecipeError, match="it has no state_dict"):
        load(tmp_path / "x.ckpt")


def test_given_arguments_are_kept_and_defaults_are_taken_from_the_checkpoint(tmp_path: Path) -> None:
    saved = {"_class_path": "M", "_instantiator": "i", "rate": 0.02, "width": 6, "same": 1, "gone": 2}
    path = save(tmp_path / "x.ckpt", hyper_parameters=saved)
    adopted, notes = adopt(path, "M", {"rate": 0.5, "width": 4, "same": 1}, given={"rate"})
    assert adopted == {"width": 6}
    assert notes == [
        "model.rate is 0.5 as given; the checkpoint was trained with 0.02",
        "model.width is 6 as in the checkpoint, since it was not given",
    ]


def test_hyperparameters_of_another_class_are_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", hyper_parameters={"_class_path": "Other", "rate": 0.02})
    adopted, notes = adopt(path, "M", {"rate": 0.5}, given=set())
    assert adopted == {}
    assert notes == [f"{path} was saved by Other, and is loaded into M as given"]


class Failing(BoringModel):
    """Raises an exception before its fourth step."""

    def __init__(self, exception: BaseException | None = None) -> None:
        super().__init__()
        self.exception = exception

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        if self.exception is not None and self.global_step == 3:
            raise self.exception
        return super().training_step(batch, batch_idx)


def trained(folder: Path, exception: BaseException | None = None, **settings: Any) -> int:
    """The step of the ``last.ckpt`` that a training leaves; 0 for none."""
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        limit_train_batches=4,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[LastCheckpoint()],
        **{"limit_val_batches": 1, **settings},
    )
    try:
        trainer.fit(Failing(exception))
    except (SystemExit, ValueError):
        assert exception is not None
    files = list(folder.rglob("*.ckpt"))
    assert [file.name for file in files] in ([], ["last.ckpt"])
    return load(files[0])["global_step"] if files else 0


@pytest.mark.parametrize(
    "settings",
    [{"val_check_interval": 2}, {"check_val_every_n_epoch": 2}, {"limit_val_batches": 0}, {}],
    ids=["within the epoch", "every second epoch", "no validation", "every epoch"],
)
def test_last_checkpoint_is_of_the_last_step_whenever_there_is_validation(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    assert trained(tmp_path, **{"max_steps": 7, **settings}) == 7


def test_last_checkpoint_is_saved_on_ctrl_c(tmp_path: Path) -> None:
    assert trained(tmp_path, KeyboardInterrupt(), max_steps=7) == 3


def test_last_checkpoint_is_not_saved_after_an_error(tmp_path: Path) -> None:
    assert trained(tmp_path, ValueError("the weights may be corrupted"), max_steps=7) == 0


def test_last_checkpoint_is_not_saved_in_a_fast_dev_run(tmp_path: Path) -> None:
    assert trained(tmp_path, fast_dev_run=True) == 0


@pytest.mark.parametrize("kept", [True, False], ids=["still there", "removed since"])
def test_the_best_checkpoint_of_the_run_before_counts_only_while_its_file_is_there(kept: bool, tmp_path: Path) -> None:
    path = tmp_path / "epoch=0-step=4.ckpt"
    if kept:
        path.touch()
    before = BestCheckpoint(monitor="val/loss")
    before.best_model_path, before.best_model_score = str(path), torch.tensor(0.5)
    before.kth_best_model_path, before.kth_value = str(path), torch.tensor(0.5)
    before.best_k_models = {str(path): torch.tensor(0.5)}

    resumed = BestCheckpoint(tmp_path / "new", monitor="val/loss")
    resumed.load_state_dict(before.state_dict())

    assert resumed.best_model_path == (str(path) if kept else "")
    assert resumed.best_model_score == (0.5 if kept else None)
    assert list(resumed.best_k_models) == ([str(path)] if kept else [])
