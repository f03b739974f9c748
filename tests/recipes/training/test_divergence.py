"""A loss that is NaN or infinite stops the run."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adafactor import Adafactor, GradientRelease
from recipes.messages import TrainingDiverged
from recipes.training.divergence import StopOnDivergence, are_finite


class _Model(LightningModule):
    def __init__(self, bad_step: int | None, value: float, as_dict: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.bad_step, self.value, self.as_dict = bad_step, value, as_dict
        self.steps = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.steps += 1
        loss = self.layer(batch).square().mean()
        if self.global_step == self.bad_step:
            loss = loss * self.value
        return {"loss": loss} if self.as_dict else loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class _Corrupted(_Model):
    """Its loss is a number, but a gradient of one step is not."""

    def __init__(self, bad_step: int) -> None:
        super().__init__(None, 1.0)
        self.bad_at = bad_step

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.global_step == self.bad_at:
            self.layer.weight.grad = torch.full_like(self.layer.weight, float("nan"))


def _fit(
    model: LightningModule, folder: Path | None = None, log_every: int = 3, more: Sequence[Callback] = ()
) -> Trainer:
    callbacks: list[Callback] = [StopOnDivergence(), *more]
    if folder:
        callbacks.append(ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=2))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=log_every,
        enable_checkpointing=folder is not None,
        callbacks=callbacks,
    )
    loader = DataLoader(torch.ones(8, 1), batch_size=1)
    trainer.fit(model, loader, loader)
    return trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_loss_that_is_nan_or_infinite_stops_the_run_and_names_the_step(
    value: float, as_dict: bool, tmp_path: Path
) -> None:
    with pytest.raises(TrainingDiverged, match="NaN or infinite at step 5"):
        _fit(_Model(4, value, as_dict), tmp_path)


@pytest.mark.parametrize(("log_every", "steps"), [(1, 3), (5, 5), (100, 8)])
def test_the_loss_is_checked_every_log_interval_and_at_the_end_of_an_epoch(log_every: int, steps: int) -> None:
    model = _Model(2, float("nan"))
    with pytest.raises(TrainingDiverged, match="at step 3"):
        _fit(model, log_every=log_every)
    assert model.steps == steps


def test_no_checkpoint_is_written_after_a_loss_that_is_nan(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"last good checkpoint is .*step=2\.ckpt"):
        _fit(_Model(2, float("nan")), tmp_path, log_every=100)
    assert [path.name for path in tmp_path.iterdir()] == ["step=2.ckpt"]
    weights = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_with_gradient_release_the_run_is_stopped_and_the_weights_are_those_before_the_loss() -> None:
    class Released(_Model):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
            self.kept.append(self.layer.weight.item())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.kept: list[float] = []
            return Adafactor(self.parameters())

    model = Released(4, float("nan"))
    with pytest.raises(TrainingDiverged, match="NaN or infinite at step 5"):
        _fit(model, log_every=1, more=[GradientRelease()])
    assert len(set(model.kept)) > 1
    assert model.layer.weight.item() == model.kept[4]


def test_a_run_that_wrote_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="no checkpoint had been written yet"):
        _fit(_Model(0, float("nan")), tmp_path)


def test_a_run_with_finite_losses_is_not_stopped(tmp_path: Path) -> None:
    trainer = _fit(_Model(None, 1.0), tmp_path)
    assert trainer.global_step == 16


def test_there_is_no_synchronization_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value makes the host wait for the GPU. The record is read with int()."""
    asked: list[int] = []
    original = Tensor.__int__
    monkeypatch.setattr(Tensor, "__int__", lambda self: asked.append(1) or original(self))
    _fit(_Model(None, 1.0), log_every=4)
    steps, validations = 16, 2
    end = 1
    assert len(asked) == steps // 4 + validations + end


@pytest.mark.parametrize("bad_step", [3, 7])
def test_corrupted_weights_are_not_saved_though_the_loss_is_a_number(bad_step: int, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=rf"layer\.weight became NaN or infinite by step {bad_step + 1}.*step="):
        _fit(_Corrupted(bad_step), tmp_path, log_every=100)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"step={step}.ckpt" for step in range(2, bad_step + 1, 2)]
    for file in files:
        assert all(w.isfinite().all() for w in torch.load(tmp_path / file, weights_only=True)["state_dict"].values())


def test_weights_corrupted_by_the_last_step_of_a_run_without_checkpoints_end_it() -> None:
    with pytest.raises(TrainingDiverged, match="no checkpoint had been written yet"):
        _fit(_Corrupted(15), log_every=100)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_element_that_is_nan_or_infinite_is_found(value: float, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    with torch.no_grad():
        model[0].weight.fill_(3e38)
        assert are_finite(model)
        model[1].bias[1] = value
    assert not are_finite(model)


def _trainer_beside(other_rank_diverged: bool) -> Any:
    """The trainer of one of two ranks, of which the other one says whether it diverged."""

    def reduce_boolean_decision(decision: bool, all: bool = True) -> bool:
        said = [decision, other_rank_diverged]
        return (said[0] and said[1]) if all else (said[0] or said[1])

    return SimpleNamespace(
        global_step=4,
        log_every_n_steps=1,
        is_last_batch=False,
        checkpoint_callbacks=[],
        strategy=SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision),
    )


@pytest.mark.parametrize("own", [float("nan"), 1.0], ids=["on this rank", "on the other rank"])
def test_all_ranks_stop_with_one_sentence_when_the_loss_of_one_is_nan(
    own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_gather_object(found: list[Any], mine: Any) -> None:
        found[:] = [mine, 5 if own == 1.0 else None]

    both = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2)
    both.all_gather_object = all_gather_object
    monkeypatch.setattr("lightning_adafactor.sharded.reduction.distributed", both)
    callback = StopOnDivergence()

    with pytest.raises(TrainingDiverged, match=f"NaN or infinite at step {5 if own == 1.0 else 4}"):
        callback.on_train_batch_end(_trainer_beside(own == 1.0), LightningModule(), torch.tensor(own), None, 0)


def test_no_rank_stops_while_all_losses_are_numbers() -> None:
    callback = StopOnDivergence()
    callback.on_train_batch_end(_trainer_beside(False), LightningModule(), torch.tensor(1.0), None, 0)

    checkpoint: dict[str, Any] = {}
    callback.on_save_checkpoint(_trainer_beside(False), LightningModule(), checkpoint)
    assert checkpoint == {}
