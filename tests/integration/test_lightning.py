"""Lightning's ``Trainer`` with our optimizers: every precision and gradient clipping, compared with the originals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, Dataset

from lightning_adafactor import Adafactor, OptimizerStateMonitor, TransformersAdafactor

NewModel = Callable[[], transformers.PreTrainedModel]
NewOptimizer = Callable[..., torch.optim.Optimizer]
Fit = Callable[..., "Module"]

CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
PAIRS = [
    pytest.param(TransformersAdafactor, transformers.Adafactor, CONSTANT_LR, id="transformers-constant-lr"),
    pytest.param(Adafactor, torch.optim.Adafactor, {"lr": 1e-2, "weight_decay": 0.1}, id="torch"),
]


class Module(pl.LightningModule):
    def __init__(self, model: torch.nn.Module, optimizer: NewOptimizer, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.arguments = arguments
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters(), **self.arguments)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.fixture
def fit(tmp_path: Path, new_model: NewModel, texts: Dataset[Any]) -> Fit:
    def run(optimizer: NewOptimizer, arguments: dict[str, Any], **options: Any) -> Module:
        ckpt_path = options.pop("ckpt_path", None)
        module = Module(new_model(), optimizer, arguments)
        defaults: dict[str, Any] = {
            "default_root_dir": tmp_path,
            "accelerator": "cpu",
            "max_epochs": 1,
            "gradient_clip_val": 0.5,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "deterministic": True,
        }
        trainer = pl.Trainer(**{**defaults, **options})
        trainer.fit(module, DataLoader(texts, batch_size=4), ckpt_path=ckpt_path)
        return module

    return run


def assert_same_run(one: Module, other: Module, rtol: float, atol: float = 2e-5) -> None:
    assert sum(one.losses[:6]) > sum(one.losses[6:]), "the loss did not decrease"
    assert one.losses == pytest.approx(other.losses, rel=rtol)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=rtol, atol=atol)


def assert_same_run_in_bf16(one: Module, other: Module) -> None:
    """A difference in the last bit of a weight can change its rounding to bfloat16 in a later forward pass."""
    assert one.losses[:4] == pytest.approx(other.losses[:4], rel=1e-4)
    assert_same_run(one, other, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_equal_runs_with_clipping_in(
    precision: str,
    algorithm: str,
    ours: NewOptimizer,
    theirs: NewOptimizer,
    arguments: dict[str, Any],
    fit: Fit,
) -> None:
    options = {"precision": precision, "gradient_clip_algorithm": algorithm, "gradient_clip_val": 0.05}

    one, other = fit(ours, arguments, **options), fit(theirs, arguments, **options)

    if precision == "bf16-mixed":
        assert_same_run_in_bf16(one, other)
    else:
        assert_same_run(one, other, rtol=1e-4)


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_equal_runs_with_a_grad_scaler_and_clipping(
    ours: NewOptimizer, theirs: NewOptimizer, arguments: dict[str, Any], fit: Fit
) -> None:
    def run(optimizer: NewOptimizer) -> tuple[Module, float]:
        # On a CPU Lightning replaces precision="16-mixed" by bfloat16; its plugin works there nevertheless.
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**18))
        module = fit(optimizer, arguments, plugins=half)
        assert half.scaler is not None
        return module, half.scaler.get_scale()

    (one, one_scale), (other, other_scale) = run(ours), run(theirs)

    assert one_scale == other_scale < 2.0**18, "no step was skipped"
    assert_same_run(one, other, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_equal_runs_in_16_mixed_with_clipping(
    ours: NewOptimizer, theirs: NewOptimizer, arguments: dict[str, Any], fit: Fit
) -> None:
    options = {"accelerator": "gpu", "devices": 1, "precision": "16-mixed"}

    assert_same_run(fit(ours, arguments, **options), fit(theirs, arguments, **options), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("stochastic_rounding", [False, True])
def test_bf16_true_learns_with_clipping(stochastic_rounding: bool, fit: Fit) -> None:
    arguments = {**CONSTANT_LR, "stochastic_rounding": stochastic_rounding}
    ours = fit(TransformersAdafactor, arguments, precision="bf16-true")
    theirs = fit(transformers.Adafactor, CONSTANT_LR, precision="bf16-true")

    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert sum(ours.losses[:6]) > sum(ours.losses[6:])
    assert ours.losses == pytest.approx(theirs.losses, rel=0.05, abs=0.02)


@pytest.mark.parametrize("optimizer", [Adafactor, TransformersAdafactor])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_a_run_resumed_from_a_checkpoint_equals_an_uninterrupted_one(
    optimizer: NewOptimizer, precision: str, fit: Fit, tmp_path: Path
) -> None:
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    options = {"precision": precision, "max_epochs": 2}
    whole = fit(optimizer, CONSTANT_LR, **options, enable_checkpointing=True, callbacks=checkpoint)
    resumed = fit(optimizer, CONSTANT_LR, **options, ckpt_path=tmp_path / "epoch=0.ckpt")

    assert len(resumed.losses) == 12
    assert resumed.losses == whole.losses[12:]
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_state_of_bf16_parameters_stays_fp32_through_a_checkpoint(fit: Fit, tmp_path: Path) -> None:
    monitor = OptimizerStateMonitor(print_table=False)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, "last", every_n_epochs=1)
    options = {"precision": "bf16-true", "max_epochs": 1}
    fit(Adafactor, CONSTANT_LR, **options, enable_checkpointing=True, callbacks=[checkpoint, monitor])
    before = monitor.state
    fit(
        Adafactor,
        CONSTANT_LR,
        precision="bf16-true",
        max_epochs=2,
        callbacks=monitor,
        ckpt_path=tmp_path / "last.ckpt",
    )

    assert before is not None
    assert before.bytes == 4 * before.elements
    assert monitor.state == before
