"""Averaged weights are what is validated, kept, tested and resumed, with Lightning's own callbacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy

from recipes import TextClassifier
from recipes.messages import RecipeError
from recipes.training.averaging import AveragedWeights, WeightsBehindAverage
from recipes.training.checkpoints import load
from tests.recipes.training.averaged import STEPS, Noted, Run, check_weights


@pytest.fixture
def run(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> Run:
    return Run(tiny_model, wires_csv, tmp_path)


def ema(**arguments: Any) -> list[Callback]:
    return [EMAWeightAveraging(decay=0.5, **arguments)]


def test_the_average_is_kept_and_tested(run: Run) -> None:
    noted = Noted()
    module, trainer = run("run", ema(), noted=noted)

    check_weights(module.state_dict(), noted.average)
    validated = float(trainer.callback_metrics["val/loss"])
    last = load(run.folder / "run" / "last.ckpt")
    check_weights(last["state_dict"], noted.average)
    check_weights(last["current_model_state"], noted.steps[-1])

    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    (tested,) = trainer.validate(module, data, ckpt_path=str(run.folder / "run" / "last.ckpt"), verbose=False)
    assert tested["val/loss"] == pytest.approx(validated)
    check_weights(module.state_dict(), noted.average)


@pytest.mark.slow
def test_positions_stay_whole_numbers(run: Run) -> None:
    averaging: list[Callback] = [EMAWeightAveraging(decay=0.999, use_buffers=True)]
    module, _ = run("run", averaging, max_epochs=1, limit_val_batches=0)

    positions: Any = module.model.bert.embeddings.position_ids  # type: ignore[union-attr]
    assert positions.tolist() == [list(range(32))]


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 6])
def test_a_resumed_run_has_the_average_of_an_uninterrupted_one(start: int, run: Run) -> None:
    whole, _ = run("whole", ema(update_starting_at_step=start))
    # Without a validation, the last checkpoint is saved when the training ends.
    run("half", ema(update_starting_at_step=start), max_steps=8, max_epochs=2)

    resumed, _ = run("rest", ema(update_starting_at_step=start), ckpt_path=run.folder / "half" / "last.ckpt")

    check_weights(resumed.state_dict(), whole.state_dict())


def test_a_run_that_ends_without_validation_can_be_gone_on_from_exactly(run: Run) -> None:
    noted = Noted()
    module, _ = run("run", ema(), noted=noted, max_epochs=1, limit_val_batches=0)

    last = load(run.folder / "run" / "last.ckpt")
    check_weights(last["current_model_state"], noted.steps[-1])
    check_weights(last["state_dict"], noted.average)
    check_weights(module.state_dict(), noted.average)


@pytest.mark.slow
def test_before_it_starts_the_current_weights_are_validated_and_saved(run: Run) -> None:
    noted = Noted(start=6)
    plain, trainer = run("plain", [], max_epochs=1)
    first = float(trainer.callback_metrics["val/loss"])

    _, trainer = run("run", ema(update_starting_at_step=6), noted=noted)

    history = next(callback for callback in trainer.callbacks if type(callback).__name__ == "RunHistory")
    assert history.evaluations[0][1]["val/loss"] == pytest.approx(first)
    check_weights(noted.steps[STEPS - 1], plain.state_dict())
    check_weights(load(run.folder / "run" / "last.ckpt")["state_dict"], noted.average)


@pytest.mark.slow
def test_an_average_that_never_starts_keeps_the_last_step_and_says_so(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = Noted()
    module, _ = run("run", ema(update_starting_at_step=100), noted=noted, max_epochs=1)

    check_weights(module.state_dict(), noted.steps[-1])
    assert "EMAWeightAveraging averaged nothing in 5 steps" in capsys.readouterr().err


@pytest.mark.slow
def test_the_equal_average_is_the_mean_of_the_steps(run: Run) -> None:
    noted = Noted()
    module, _ = run("run", [WeightAveraging()], noted=noted, max_epochs=1)

    mean = {name: torch.stack([step[name] for step in noted.steps]).mean(0) for name in noted.steps[0]}
    check_weights(module.state_dict(), mean)


def test_a_sharded_model_is_refused() -> None:
    trainer: Any = type("Sharded", (), {"strategy": ModelParallelStrategy()})()

    with pytest.raises(RecipeError, match=r"EMAWeightAveraging copies the whole model.*: leave it out .*, or use ddp"):
        AveragedWeights(EMAWeightAveraging()).setup(trainer, TextClassifier("x"), "fit")


def test_checkpoints_without_the_average_are_refused() -> None:
    saving = ModelCheckpoint(save_weights_only=True)
    trainer: Any = type("Saving", (), {"strategy": SingleDeviceStrategy(), "checkpoint_callbacks": [saving]})()

    with pytest.raises(RecipeError, match=r"EMAWeightAveraging adds the average to complete checkpoints only.*: leave"):
        AveragedWeights(EMAWeightAveraging()).setup(trainer, TextClassifier("x"), "fit")


def test_a_run_without_averaging_resumes_from_the_weights_behind_the_average(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    class Start(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

    noted, start = Noted(), Start()
    run("half", ema(), noted=noted, max_epochs=1, limit_val_batches=0)
    run("rest", [], noted=start, ckpt_path=run.folder / "half" / "last.ckpt")

    check_weights(start.weights, noted.steps[-1])
    assert "it resumes from those of the last step, not from their average" in capsys.readouterr().err


def test_a_sharded_run_does_not_resume_from_an_average() -> None:
    values = {"strategy": ModelParallelStrategy(), "callbacks": [], "ckpt_path": "last.ckpt"}
    trainer: Any = type("Sharded", (), values)()

    with pytest.raises(RecipeError, match=r"--ckpt_path last.ckpt: its weights are an average.*: resume on one device"):
        WeightsBehindAverage().on_load_checkpoint(trainer, TextClassifier("x"), {"current_model_state": {}})
