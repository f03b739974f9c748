"""``TransformersAdafactor``: transformers' signature, checks, state and schedule."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.optimization import AdafactorSchedule

from lightning_adafactor import Adafactor, TransformersAdafactor

pytestmark = pytest.mark.usefixtures("path")

CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}


def parameter(*shape: int) -> nn.Parameter:
    param = nn.Parameter(torch.randn(shape))
    param.grad = torch.randn(shape)
    return param


def test_signature_begins_with_transformers() -> None:
    ours = inspect.signature(TransformersAdafactor).parameters
    theirs = inspect.signature(transformers.Adafactor).parameters

    assert [(p.name, p.default, p.kind) for p in list(ours.values())[: len(theirs)]][1:] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ][1:]
    assert {p.kind for p in list(ours.values())[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}


def test_defaults_are_transformers() -> None:
    ours, theirs = TransformersAdafactor([parameter(2)]).defaults, transformers.Adafactor([parameter(2)]).defaults

    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize("options", [{"lr": 1e-3}, {"warmup_init": True, "relative_step": False}])
def test_invalid_arguments_raise_transformers_errors_verbatim(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as theirs:
        transformers.Adafactor([parameter(2)], **options)
    with pytest.raises(ValueError, match=r".") as ours:
        TransformersAdafactor([parameter(2)], **options)

    assert str(ours.value) == str(theirs.value)


def test_missing_learning_rate_is_explained() -> None:
    optimizer = TransformersAdafactor([parameter(2)], relative_step=False)

    with pytest.raises(ValueError, match="needs an `lr` when `relative_step=False`"):
        optimizer.step()


def test_low_precision_parameters_are_rounded_to_nearest_by_default() -> None:
    """As transformers does; one argument makes it stochastic."""
    param = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    for stochastic, moved in ((False, False), (True, True)):
        options = {"stochastic_rounding": True} if stochastic else {}
        optimizer = TransformersAdafactor([param], **{**CONSTANT_LR, "lr": 1e-4}, **options)
        param.grad = torch.ones_like(param)
        optimizer.step()
        assert bool((param != 1).any()) is moved


def test_momentum_averages_the_scaled_update() -> None:
    """Changing the learning rate later does not rescale what was averaged before."""
    param = nn.Parameter(torch.zeros(4, 4))
    optimizer = TransformersAdafactor([param], beta1=0.5, **{**CONSTANT_LR, "lr": 1.0})
    param.grad = torch.ones(4, 4)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()

    torch.testing.assert_close(param.detach(), torch.full((4, 4), -0.5 - 0.25))


@pytest.mark.parametrize("shape", [(6, 4), (3,), ()])
def test_rms_of_the_parameter_before_the_step_is_in_its_state(shape: tuple[int, ...]) -> None:
    params = [parameter(*shape)]
    params.append(nn.Parameter(params[0].detach().clone()))
    ours, theirs = TransformersAdafactor(params[:1]), transformers.Adafactor(params[1:])
    for step in range(3):
        torch.manual_seed(step)
        params[0].grad = torch.randn(shape)
        params[1].grad = params[0].grad.clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(ours.state[params[0]]["RMS"], theirs.state[params[1]]["RMS"])


@pytest.mark.parametrize("options", [{}, {"warmup_init": True}, {"warmup_init": True, "scale_parameter": False}])
def test_adafactor_schedule_shows_the_same_learning_rates(options: dict[str, Any]) -> None:
    shown: list[list[float]] = []
    for make in (TransformersAdafactor, transformers.Adafactor):
        torch.manual_seed(0)
        params = [parameter(6, 4), parameter(3), parameter(2, 2)]
        optimizer = make([{"params": params[:1]}, {"params": params[1:]}], **options)
        optimizer.zero_grad()
        schedule = AdafactorSchedule(optimizer, initial_lr=0.25)
        rates = [*schedule.get_lr()]
        for _ in range(5):
            for param in params:
                param.grad = torch.randn(param.shape)
            optimizer.step()
            schedule.step()
            rates += [float(rate) for rate in schedule.get_lr()]
        shown.append(rates)

    assert shown[0][:2] == [0.25, 0.25]
    assert shown[0] == pytest.approx(shown[1], rel=1e-6)
    assert len(set(shown[0])) > 2


def test_it_is_an_adafactor() -> None:
    assert issubclass(TransformersAdafactor, Adafactor)
