"""Lightning's ``Trainer`` with ``fused=True``: precisions, gradient clipping; on a CPU in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from lightning_adafactor import Adafactor
from lightning_adafactor.fused import DTYPES
from lightning_adafactor.fused.step import FusedAdafactor
from lightning_adafactor.fused.table import Tiling
from lightning_adafactor.work import KeptSteps
from tests.lightning_adafactor.fused.quick import quick_interpreter

STEPS = 3
CLIPPING: dict[str, dict[str, Any]] = {
    "unclipped": {},
    "by-norm": {"gradient_clip_val": 0.5},
    "by-value": {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
}
QUICK = {"32-true-by-value", "bf16-true-by-norm", "bf16-mixed-unclipped", "16-mixed-unclipped"}
"""Each precision and each clipping; the other combinations are slow tests."""
RUNS = [
    pytest.param(precision, CLIPPING[clipping], id=name, marks=[pytest.mark.slow] * (name not in QUICK))
    for precision in ("32-true", "bf16-true", "bf16-mixed", "16-mixed")
    for clipping in (CLIPPING if precision.endswith("true") else ["unclipped"])
    for name in [f"{precision}-{clipping}"]
]


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """The interpreter, made quicker."""
    with quick_interpreter():
        yield


class Tiny(pl.LightningModule):
    def __init__(self, fused: bool | None, overflow_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self.fused = fused
        self.overflow_at = overflow_at

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        loss = (self.layers(inputs.to(self.layers[0].weight.dtype)).float() - targets).square().mean()
        return loss * torch.inf if batch_idx == self.overflow_at else loss

    def configure_optimizers(self) -> Any:
        optimizer = Adafactor(
            self.parameters(), lr=0.2, relative_step=False, weight_decay=0.01, beta1=0.9, fused=self.fused
        )
        if self.fused and not torch.cuda.is_available():
            # with the default tiles, which are mostly empty here, the interpreter takes seconds
            optimizer._kept_steps = KeptSteps(FusedAdafactor(dict.fromkeys(DTYPES, Tiling(16, 64, 16))))
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(
    tmp_path: Path, precision: str, *, fused: bool | None, overflow_at: int | None = None, **options: Any
) -> pl.Trainer:
    """Trains for a few steps on the GPU, or on the CPU if there is none."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(4 * STEPS, 8, generator=generator), torch.randn(4 * STEPS, 1, generator=generator))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # on the CPU Lightning creates no scaler
        scaler = torch.amp.GradScaler(device, init_scale=256.0)
        chosen = {"plugins": MixedPrecision("16-mixed", device, scaler)}
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator=device,
        devices=1,
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        deterministic=True,
        **chosen,
        **options,
    )
    trainer.fit(Tiny(fused, overflow_at), DataLoader(data, batch_size=4))
    return trainer


def params_of(trainer: pl.Trainer) -> list[torch.Tensor]:
    return [param.detach().cpu() for param in trainer.lightning_module.parameters()]


@pytest.mark.parametrize(("precision", "clipping"), RUNS)
def test_fused_run_equals_plain_run(precision: str, clipping: dict[str, Any], tmp_path: Path) -> None:
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    ours, theirs = (fit(tmp_path, precision, fused=fused, **clipping) for fused in (True, False))
    start = list(Tiny(False).parameters())
    for param, expected, old in zip(params_of(ours), params_of(theirs), start, strict=True):
        assert param.dtype == dtype
        assert not torch.equal(param, old.to(dtype)), "the parameters did not change"
        # a difference in the last bit after one step can change a rounding in the next forward pass
        tolerance = 2e-5 if precision == "32-true" else 2e-2
        torch.testing.assert_close(param, expected, rtol=tolerance, atol=tolerance / 10)
    (optimizer,) = ours.optimizers
    assert optimizer._kept_steps is not None
    assert optimizer._kept_steps.fused is not None
    assert optimizer._kept_steps.fused.tables
    assert {float(state["step"]) for state in optimizer.state.values()} == {STEPS}


def test_step_that_overflowed_is_skipped_in_16_mixed(tmp_path: Path) -> None:
    trainer = fit(tmp_path, "16-mixed", fused=True, overflow_at=1)
    (optimizer,) = trainer.optimizers
    assert {float(state["step"]) for state in optimizer.state.values()} == {STEPS - 1}
    assert all(param.isfinite().all() for param in params_of(trainer))


MIXED = pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])


@MIXED
def test_clipping_in_mixed_precision_is_refused_where_the_step_unscales_gradients(
    precision: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="Adafactor, does not allow for gradient clipping"):
        fit(tmp_path, precision, fused=True, gradient_clip_val=0.5)


@MIXED
def test_clipping_in_mixed_precision_works_where_unscaling_is_left_to_the_scaler(
    precision: str, tmp_path: Path
) -> None:
    trainer = fit(tmp_path, precision, fused=None, gradient_clip_val=0.5)
    for param, old in zip(params_of(trainer), Tiny(None).parameters(), strict=True):
        assert param.isfinite().all()
        assert not torch.equal(param, old)


def test_checkpoint_of_a_fused_run_is_resumed_by_a_plain_one(tmp_path: Path) -> None:
    trainer = fit(tmp_path, "32-true", fused=True)
    trainer.save_checkpoint(tmp_path / "fused.ckpt")
    saved = torch.load(tmp_path / "fused.ckpt", weights_only=True)["optimizer_states"][0]
    resumed = Adafactor(Tiny(False).parameters(), beta1=0.9)
    resumed.load_state_dict(saved)
    for param, state in zip(resumed.param_groups[0]["params"], trainer.optimizers[0].state.values(), strict=True):
        for key, value in state.items():
            torch.testing.assert_close(resumed.state[param][key].cpu(), value.cpu(), rtol=0, atol=0)
