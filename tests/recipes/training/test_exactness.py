"""A resumed run ends where an uninterrupted one does, bit for bit."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.training.exactness import ExactResume, random_state, set_random_state
from recipes.training.resume import OptimizerAsGiven, RowsOfEpoch


class _Rows(Callback):
    """Notes the size of each training batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.sizes.append(len(batch["labels"]))


class _SaveEachBatch(Checkpoint):
    """Saves after each batch, as the last checkpoint does after a signal.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}-{batch_idx}.ckpt")


class _Run:
    """Trainings of one kind, with dropout, on 96 rows an epoch."""

    def __init__(self, model: Path, csv: Path, folder: Path) -> None:
        self.model, self.csv, self.folder = model, csv, folder

    def __call__(
        self,
        name: str,
        ckpt_path: Path | None = None,
        data: dict[str, Any] | None = None,
        more: Iterable[Callback] = (),
        **settings: Any,
    ) -> tuple[TextClassifier, Trainer, list[int]]:
        seed_everything(1, verbose=False)
        module = TextClassifier(
            str(self.model), lambda groups: Adafactor(groups, lr=1e-2), schedule="constant", dropout=0.3
        )
        rows = _Rows()
        keep = {"dirpath": self.folder / name, "save_top_k": -1}
        checkpoints = [
            ModelCheckpoint(**keep, filename="val-{step}"),
            ModelCheckpoint(**keep, filename="train-{step}", every_n_train_steps=1),
        ]
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[OptimizerAsGiven(), RowsOfEpoch(), ExactResume(), rows, *checkpoints, *more],
            **{"max_epochs": 2, **settings},
        )
        fields = {"text": "headline", "label": "desk", "validation": 0.2, "batch_size": 16, "max_length": 16}
        source = TextClassificationData(train=str(self.csv), **{**fields, **(data or {})})
        trainer.fit(module, source, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer, rows.sizes


@pytest.fixture
def run(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> _Run:
    return _Run(tiny_model, wires_csv, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{}, {"val_check_interval": 2}, {"val_check_interval": 2, "accumulate_grad_batches": 3}],
    ids=["validated each epoch", "validated within the epoch", "validated within an accumulation"],
)
def test_a_run_with_dropout_resumed_from_any_checkpoint_ends_with_the_same_weights(
    settings: dict[str, Any], run: _Run, tmp_path: Path
) -> None:
    whole, trainer, _ = run("whole", **settings)
    files = sorted((tmp_path / "whole").iterdir(), key=lambda file: int(file.stem.rpartition("=")[2]))
    for kind in ("train", "val"):
        file = next(file for file in files if file.name.startswith(kind))
        assert file.name != files[-1].name  # the last one has nothing left to train
        check_resumed(run, file, settings, whole, trainer)


@pytest.mark.slow
def test_a_run_resumed_from_every_batch_of_an_accumulation_ends_with_the_same_weights(
    run: _Run, tmp_path: Path
) -> None:
    settings = {"accumulate_grad_batches": 4}
    whole, trainer, sizes = run("whole", more=[_SaveEachBatch(tmp_path / "batches")], **settings)
    files = sorted((tmp_path / "batches").iterdir())
    assert len(files) == len(sizes) == 12  # steps of 4 batches and of 2, twice
    for file in files[:-1]:
        check_resumed(run, file, settings, whole, trainer)


def check_resumed(run: _Run, file: Path, settings: dict[str, Any], whole: TextClassifier, trainer: Trainer) -> None:
    resumed, again, _ = run(f"from {file.name}", ckpt_path=file, **settings)
    assert again.global_step == trainer.global_step, file.name
    for name, parameter in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], parameter), f"{file.name}: {name}"


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize(("batch_size", "rest"), [(32, [32, 32]), (8, [8] * 8), (24, [24, 24, 16])])
def test_the_rest_of_an_epoch_is_trained_once_with_another_batch_size(
    batch_size: int, rest: list[int], group_by_length: bool, run: _Run, tmp_path: Path
) -> None:
    run("first", max_epochs=1, data={"group_by_length": group_by_length})
    file = next((tmp_path / "first").glob("train-step=2*"))
    data = {"batch_size": batch_size, "group_by_length": group_by_length}
    _, trainer, sizes = run("second", ckpt_path=file, data=data)
    epoch = [batch_size] * (96 // batch_size)
    assert sizes == [*rest, *epoch]
    assert trainer.global_step == 2 + len(sizes)
    assert trainer.current_epoch == 2


def test_the_random_states_are_plain_values_that_bring_the_same_numbers_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(numpy.random.normal()), float(torch.rand(()))

    device = torch.device("cpu")
    draw()
    torch.save(random_state(device), tmp_path / "state")
    drawn = draw()
    draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True), device)
    assert draw() == drawn
