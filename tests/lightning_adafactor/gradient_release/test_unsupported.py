"""What gradient release does not work with is refused, each with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_adafactor import Adafactor, release_gradients
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape


def test_a_model_in_data_parallel_is_refused() -> None:
    model = nn.DataParallel(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"DataParallel keeps all gradients .* use one process, or FSDP2"):
        release_gradients(Adafactor(model.parameters()), model)


def test_an_optimizer_of_accelerate_with_a_gradient_scaler_is_refused() -> None:
    model = nn.Linear(2, 2)
    optimizer = Adafactor(model.parameters())
    optimizer.scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"mixed precision is fp16, and a gradient scaler .* use bfloat16"):
        release_gradients(optimizer, model)


@pytest.mark.parametrize("new_optimizer", [False, True], ids=["the same optimizer", "another optimizer"])
def test_gradients_are_released_once_at_a_time(new_optimizer: bool) -> None:
    model = nn.Linear(2, 2)
    optimizer = Adafactor(model.parameters())
    first = release_gradients(optimizer, model)
    if new_optimizer:
        optimizer = Adafactor(model.parameters())
    with pytest.raises(ValueError, match=r"released already: call remove\(\)"):
        release_gradients(optimizer, model)
    first.remove()
    release_gradients(optimizer, model).remove()


def accumulate(model: nn.Module, optimizer: Any) -> None:
    for tokens in models.batches(2):
        models.loss_of(model, tokens, True).backward()


def scale(model: nn.Module, optimizer: Any) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(models.loss_of(model, next(models.batches(1)), True)).backward()
    scaler.step(optimizer)


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        pytest.param(accumulate, r"call optimizer.step\(\) after each backward pass", id="accumulation"),
        pytest.param(scale, r"use bfloat16", id="scaler"),
    ],
)
def test_a_loop_that_is_not_supported_raises_an_error(loop: Callable[..., None], message: str) -> None:
    model = models.model(Shape())
    optimizer = Adafactor(model.parameters(), compiled=False)
    release_gradients(optimizer, model)
    with pytest.raises(RuntimeError, match=message):
        loop(model, optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, .* set it to 1"),
        ({"max_grad_norm": 1.0}, r"max_grad_norm is 1.0, .* \(max_grad_norm=0\)"),
        ({"fp16": True}, "fp16 is True, .* use bfloat16"),
    ],
)
def test_training_arguments_that_are_not_supported_are_refused(arguments: dict[str, Any], message: str) -> None:
    class Arguments:
        gradient_accumulation_steps, max_grad_norm, fp16 = 1, 0.0, False

    model = models.model(Shape())
    optimizer = Adafactor(model.parameters())
    with release_gradients(optimizer, model, arguments=Arguments()):
        pass
    for name, value in arguments.items():
        setattr(Arguments, name, value)
    with pytest.raises(ValueError, match=message):
        release_gradients(optimizer, model, arguments=Arguments())


def test_an_optimizer_that_cannot_step_a_part_is_refused() -> None:
    model = models.model(Shape())
    with pytest.raises(ValueError, match=r"which AdamW cannot: use lightning_adafactor.Adafactor$"):
        release_gradients(torch.optim.AdamW(model.parameters()), model)


@pytest.mark.parametrize("value", ["skip", "raise"])
def test_a_decision_about_whole_steps_is_refused(value: Any) -> None:
    model = models.model(Shape())
    with pytest.raises(ValueError, match=rf"on_nonfinite='{value}' .*: set on_nonfinite='ignore'"):
        release_gradients(Adafactor(model.parameters(), on_nonfinite=value), model)
