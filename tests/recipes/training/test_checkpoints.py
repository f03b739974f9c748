"""How checkpoints are written and read, which hyperparameters are used, and when the last one is written."""

import contextlib
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from recipes.checksums import file_sha256
from recipes.messages import RecipeError
from recipes.runs.history import RunHistory
from recipes.runs.report import best_evaluation
from recipes.training import stop_signals
from recipes.training.checkpoints import (
    BestCheckpoint,
    LastCheckpoint,
    WholeFiles,
    adopt,
    check_contents,
    load,
)
from tests.recipes.training.written import flip_a_byte, save, written


class Scored(BoringModel):
    """Validates with the given scores and losses, epoch after epoch."""

    def __init__(self, scores: list[float], losses: list[float]) -> None:
        super().__init__()
        self.scores, self.losses = scores, losses

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["x"], batch_idx)

    def train_dataloader(self) -> Any:
        return DataLoader([{"x": torch.ones(32)}])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        epoch = self.current_epoch
        self.log_dict({"val/f1": self.scores[epoch], "val/loss": self.losses[epoch]})


@pytest.mark.parametrize(
    ("scores", "losses", "best"),
    [
        ([0.5, 0.9, 0.9], [3.0, 2.0, 1.0], 2),
        ([0.9, 0.9, 0.5], [3.0, 2.0, 1.0], 1),
        ([0.9, 0.9, 0.9], [1.0, 2.0, 3.0], 0),
        ([0.9, 0.9, 0.9], [2.0, 1.0, 1.5], 1),
    ],
)
def test_of_equally_good_checkpoints_that_of_the_lowest_loss_is_kept(
    scores: list[float], losses: list[float], best: int, tmp_path: Path
) -> None:
    checkpoint, history = BestCheckpoint(tmp_path, monitor="val/f1", mode="max", filename="{epoch}"), RunHistory()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint, history],
    )
    trainer.fit(Scored(scores, losses))
    assert [file.name for file in tmp_path.glob("*.ckpt")] == [f"epoch={best}.ckpt"]
    assert best_evaluation(history, trainer)["val/loss"] == losses[best]


class Interrupted(BaseException):
    """Stands for a kill: nothing after it is run."""


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
    adopted, notes = adopt(path, load(path), "M", {"rate": 0.5, "width": 4, "same": 1}, given={"rate"})
    assert adopted == {"width": 6}
    assert notes == [
        "model.rate is 0.5 as given; the checkpoint was trained with 0.02",
        "model.width is 6 as in the checkpoint, since it was not given",
    ]


def test_hyperparameters_of_another_class_are_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", hyper_parameters={"_class_path": "Other", "rate": 0.02})
    adopted, notes = adopt(path, load(path), "M", {"rate": 0.5}, given=set())
    assert adopted == {}
    assert notes == [f"{path} was saved by Other, and is loaded into M as given"]


# Whole files


def test_a_checkpoint_lies_beside_its_checksum_and_nothing_else(tmp_path: Path) -> None:
    path = written(written(tmp_path / "run/last.ckpt"), step=2)
    assert sorted(file.name for file in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]
    assert (tmp_path / "run/last.ckpt.sha256").read_text() == f"{file_sha256(path)}  last.ckpt\n"
    assert load(path)["global_step"] == 2


def test_flipped_bytes_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = written(tmp_path / "last.ckpt")
    flip_a_byte(path)
    for read in (load, WholeFiles().load_checkpoint):
        with pytest.raises(RecipeError, match=r"last\.ckpt: the file is corrupted, its sha256 is not that in"):
            read(path)


def test_a_checkpoint_without_a_checksum_loads(tmp_path: Path) -> None:
    path = written(tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt.sha256").unlink()
    assert load(path)["global_step"] == 1


def test_a_removed_checkpoint_takes_its_checksum_with_it(tmp_path: Path) -> None:
    path = written(tmp_path / "last.ckpt")
    WholeFiles().remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_the_old_checkpoint_stays_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "last.ckpt")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        written(path, step=2)
    monkeypatch.undo()
    assert load(path)["global_step"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


@pytest.mark.parametrize("calls", range(8))
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_checkpoint_valid(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fsync and rename is a moment; what has happened before it stays."""
    path = written(tmp_path / "last.ckpt")
    left = iter(range(calls))

    def dying(original: Any) -> Any:
        def call(*args: Any) -> Any:
            if next(left, None) is None:
                raise Interrupted
            return original(*args)

        return call

    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
    with contextlib.suppress(Interrupted):
        written(path, step=2)
    monkeypatch.undo()
    assert load(path)["global_step"] in (1, 2)


def test_weights_alone_are_not_enough_to_resume_from(tmp_path: Path) -> None:
    weights = {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "loops": {}}
    check_contents("x.ckpt", weights, "test")
    with pytest.raises(RecipeError, match="holds the weights only, no optimizer_states and no lr_schedulers"):
        check_contents("x.ckpt", weights, "fit")


def test_a_checkpoint_of_another_program_is_reported() -> None:
    with pytest.raises(RecipeError, match="it holds no pytorch-lightning_version"):
        check_contents("x.ckpt", {"state_dict": {}}, "test")


class Failing(BoringModel):
    """Raises an exception before its fourth step."""

    def __init__(self, exception: BaseException | None = None) -> None:
        super().__init__()
        self.exception = exception

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        if self.exception is not None and self.global_step == 3:
            raise self.exception
        return super().training_step(batch, batch_idx)


def trained(folder: Path, model: BoringModel | None = None, **settings: Any) -> int:
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
        trainer.fit(model or BoringModel())
    except (SystemExit, ValueError):
        assert model is not None
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


class Signalled(BoringModel):
    """Gets a signal before its fourth step, or two."""

    def __init__(self, signum: int, twice: bool) -> None:
        super().__init__()
        self.signum, self.twice = signum, twice

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        if self.global_step == 3:
            for _ in range(1 + self.twice):
                signal.raise_signal(self.signum)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_the_batch_and_a_save_and_a_second_one_at_once(
    signum: signal.Signals, twice: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(each) for each in stop_signals.SIGNALS]
    try:
        assert trained(tmp_path, Signalled(signum, twice), max_steps=7, val_check_interval=2) == (2 if twice else 4)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        assert [signal.getsignal(each) for each in stop_signals.SIGNALS] == handlers
        signal.signal(signal.SIGINT, before)


def test_a_signal_in_mid_epoch_saves_the_step_that_has_just_ended(tmp_path: Path) -> None:
    assert trained(tmp_path, Signalled(signal.SIGTERM, False), max_steps=7, limit_val_batches=0) == 4


def test_last_checkpoint_is_not_saved_on_an_interrupt_in_mid_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert trained(tmp_path, Failing(KeyboardInterrupt()), max_steps=7) == 0
    signal.signal(signal.SIGINT, before)


def test_last_checkpoint_is_not_saved_after_an_error(tmp_path: Path) -> None:
    assert trained(tmp_path, Failing(ValueError("the weights may be corrupted")), max_steps=7) == 0


def test_last_checkpoint_is_not_saved_in_a_fast_dev_run(tmp_path: Path) -> None:
    assert trained(tmp_path, fast_dev_run=True) == 0


@pytest.mark.parametrize("kept", [True, False], ids=["still there", "removed since"])
def test_the_best_checkpoint_of_the_resumed_run_counts_only_while_its_file_exists(kept: bool, tmp_path: Path) -> None:
    path = tmp_path / "epoch=0-step=4.ckpt"
    if kept:
        path.touch()
    before = BestCheckpoint(monitor="val/loss")
    before.best_model_path, before.best_model_score = str(path), torch.tensor(0.5)
    before.kth_best_model_path, before.kth_value = str(path), torch.tensor(0.5)
    before.best_k_models, before.loss_of_best = {str(path): torch.tensor(0.5)}, 0.25

    resumed = BestCheckpoint(tmp_path / "new", monitor="val/loss")
    resumed.load_state_dict(before.state_dict())

    assert resumed.loss_of_best == 0.25 if kept else math.isnan(resumed.loss_of_best)
    assert resumed.best_model_path == (str(path) if kept else "")
    assert resumed.best_model_score == (0.5 if kept else None)
    assert list(resumed.best_k_models) == ([str(path)] if kept else [])


def test_the_state_of_a_best_checkpoint_without_its_loss_is_loaded(tmp_path: Path) -> None:
    before = BestCheckpoint(monitor="val/loss")
    before.best_model_path = str(tmp_path / "epoch=0-step=4.ckpt")
    Path(before.best_model_path).touch()
    state = before.state_dict()
    del state["loss_of_best"]

    resumed = BestCheckpoint(monitor="val/loss")
    resumed.load_state_dict(state)

    assert math.isnan(resumed.loss_of_best)
