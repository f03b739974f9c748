"""The Lightning callback: the same training with less memory for gradients, and what it refuses."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adafactor import Adafactor, GradientRelease, OptimizerStateMonitor
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape, assert_same_bits

SHAPE = Shape(depth=2, tied=True, experts=True)


class Module(pl.LightningModule):
    """Trains the small model; ``bad_step`` is one with a loss that is NaN."""

    def __init__(self, bad_step: int | None = None, optimizer: Any = Adafactor) -> None:
        super().__init__()
        self.model = models.model(SHAPE)
        self.bad_step, self.optimizer = bad_step, optimizer
        self.losses: list[float] = []
        self.left: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = models.loss_of(self.model, batch, batch_idx % 2 == 0)
        loss = loss * (float("nan") if self.global_step == self.bad_step else 1.0)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", models.loss_of(self.model, batch, True))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.left.append(sum(param.grad is not None for param in self.parameters()))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(models.groups(self.model), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(callbacks: list[Any], module: Module | None = None, ckpt_path: Path | None = None, **options: Any) -> Module:
    module = module or Module()
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "num_sanity_val_steps": 1,
    }
    trainer = pl.Trainer(callbacks=callbacks, **{**defaults, **options})
    data = DataLoader(list(models.batches(5)), batch_size=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r".*lr_scheduler\.step.*")
        trainer.fit(module, data, data, ckpt_path=ckpt_path)
    return module


def result(module: Module) -> dict[str, Any]:
    return {
        "losses": module.losses,
        "parameters": module.state_dict(),
        "optimizer": module.trainer.optimizers[0].state_dict(),
    }


@pytest.mark.parametrize("by", ["block", "parameter"])
@pytest.mark.parametrize("options", [{}, {"fast_dev_run": True}, {"precision": "bf16-true"}], ids=str)
def test_a_fit_has_the_same_bits(by: Any, options: dict[str, Any]) -> None:
    without = fit([], **options)
    module = fit([GradientRelease(by), OptimizerStateMonitor()], **options)
    assert_same_bits(result(module), result(without))
    assert max(module.left) < min(without.left)


def test_a_run_resumed_within_an_epoch_has_the_same_bits_and_checkpoints(tmp_path: Path) -> None:
    found = {}
    for name, callbacks in {"without": [], "released": [GradientRelease()]}.items():
        keep = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, every_n_train_steps=3)
        fit([*callbacks, keep])
        file = tmp_path / name / "step=3.ckpt"
        resumed = fit(callbacks, ckpt_path=file)
        checkpoint = torch.load(file, weights_only=False)
        parts = ("state_dict", "optimizer_states", "lr_schedulers")
        found[name] = {"resumed": result(resumed), **{part: checkpoint[part] for part in parts}}
    assert_same_bits(found["released"], found["without"])


def test_a_loss_that_is_not_finite_does_not_reach_the_parameters() -> None:
    before = {name: value.clone() for name, value in models.model(SHAPE).state_dict(prefix="model.").items()}
    module = fit([GradientRelease()], Module(bad_step=0), max_steps=1)
    assert_same_bits(dict(module.state_dict()), before)


def test_training_goes_on_after_a_loss_that_is_not_finite() -> None:
    module = fit([GradientRelease()], Module(bad_step=1), max_steps=4)
    assert [loss == loss for loss in module.losses] == [True, False, True, True]
    steps = {float(state["step"]) for state in module.trainer.optimizers[0].state.values()}
    assert steps <= {1.0, 2.0, 3.0}
    assert 3.0 in steps


def test_hooks_are_gone_after_the_fit() -> None:
    module = fit([GradientRelease()], max_steps=2)
    models.loss_of(module.model, next(models.batches(1)), True).backward()
    assert all(param.grad is not None for param in module.parameters())
    assert not hasattr(module.trainer.optimizers[0], "found_inf")
    assert not any(inner._forward_pre_hooks for inner in module.modules())


class Failing(Module):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 1:
            raise OverflowError
        return super().training_step(batch, batch_idx)


def test_hooks_are_gone_after_an_exception() -> None:
    module = Failing()
    with pytest.raises(OverflowError):
        fit([GradientRelease()], module)
    models.loss_of(module.model, next(models.batches(1)), True).backward()
    assert all(param.grad is not None for param in module.parameters())
    assert not any(inner._forward_pre_hooks for inner in module.modules())


def test_the_peak_of_the_gradients_is_the_largest_block() -> None:
    release = GradientRelease()
    assert release.peak is None
    fit([release], max_steps=1)  # which uses all parts
    layer = sum(param.numel() for param in models.model(SHAPE).layers[0].parameters())
    assert release.peak is not None
    assert release.peak.elements == layer


class Constant(Module):
    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()["optimizer"]


class Unfreezing(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.model.layers[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.model.layers[0], optimizer, initial_denom_lr=2.0)


def test_layers_that_are_unfrozen_later_are_released_too() -> None:
    without = fit([Unfreezing()], Constant())
    module = fit([Unfreezing(), GradientRelease()], Constant())
    assert_same_bits(module.state_dict(), without.state_dict())
    assert max(module.left) < min(without.left)


class Clipping(Module):
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("not called")


class ClippingIfSet(Module):
    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        assert not gradient_clip_val


def test_a_module_that_clips_as_the_trainer_says_is_supported_where_it_says_nothing() -> None:
    release = GradientRelease(clipping_follows_trainer=True)
    module = fit([release], ClippingIfSet(), max_steps=2)
    assert_same_bits(result(module), result(fit([], ClippingIfSet(), max_steps=2)))
    with pytest.raises(MisconfigurationException, match=r"gradient_clip_val is 0\.5"):
        fit([release], ClippingIfSet(), gradient_clip_val=0.5)


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


REFUSED: dict[str, tuple[dict[str, Any], Callable[[], Module], str]] = {
    "accumulation": ({"accumulate_grad_batches": 2}, Module, r"accumulate_grad_batches is 2, .* set it to 1"),
    "scheduled accumulation": (
        {"callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]},
        Module,
        r"GradientAccumulationScheduler .* set it to 1",
    ),
    "clipping": ({"gradient_clip_val": 0.5}, Module, r"gradient_clip_val is 0.5, .* leave it out"),
    "clipping of the module": ({}, Clipping, r"Clipping has a configure_gradient_clipping, .* leave it out"),
    "DDP": ({"strategy": "ddp"}, Module, r"strategy is DDPStrategy, .* use one process, or FSDP2"),
    "scaler": (
        {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]},
        Module,
        r"precision is 16-mixed, .* use bfloat16",
    ),
    "manual optimization": ({}, Manual, r"automatic_optimization=False: call .*release_gradients"),
    "another optimizer": (
        {},
        lambda: Module(optimizer=torch.optim.AdamW),
        r"step_parameters\(params\)\), which AdamW cannot: use lightning_adafactor.Adafactor",
    ),
    "on_nonfinite": (
        {},
        lambda: Module(optimizer=lambda groups, lr: Adafactor(groups, lr=lr, on_nonfinite="skip")),
        r"on_nonfinite='skip' .* set on_nonfinite='ignore'",
    ),
}


@pytest.fixture
def alone() -> Iterator[None]:
    """Ends what a strategy leaves behind, or the tests that follow would run in a process of DDP."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_said_in_one_sentence(name: str) -> None:
    options, make, message = REFUSED[name]
    module = make()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    callbacks = [GradientRelease(), *options.get("callbacks", [])]
    with pytest.raises(MisconfigurationException, match=message) as raised:
        fit(callbacks, module, **{key: value for key, value in options.items() if key != "callbacks"})
    assert "\n" not in str(raised.value)
    assert not str(raised.value).endswith(".")
    assert_same_bits(dict(module.state_dict()), before)
