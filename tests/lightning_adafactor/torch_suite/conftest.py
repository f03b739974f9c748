"""PyTorch's tests of its own optimizers (TestOptimRenewed in its test/test_optim.py), applied to ours.

PyTorch runs one set of tests over every optimizer and its options; the tests are not in its wheels. These check the
same behavior, one test for one of theirs, over the options that PyTorch lists for its Adafactor and our own.
"""

from __future__ import annotations

from typing import Any

import pytest

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.torch_suite.regression import (
    Make,
)

CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
CONFIGURATIONS: dict[str, tuple[type[Adafactor], dict[str, Any]]] = {
    "defaults": (Adafactor, {}),
    "weight_decay": (Adafactor, {"weight_decay": 0.1, "lr": 0.01}),
    "maximize": (Adafactor, {"weight_decay": 0.1, "maximize": True}),
    "beta2_decay": (Adafactor, {"beta2_decay": -1.0}),
    "d": (Adafactor, {"d": 1.5}),
    "foreach": (Adafactor, {"foreach": True}),
    "momentum": (Adafactor, {"beta1": 0.9}),
    "constant lr": (Adafactor, CONSTANT_LR),
    "warmup": (Adafactor, {"warmup_init": True}),
    "transformers": (TransformersAdafactor, {}),
    "transformers, maximize": (TransformersAdafactor, {"weight_decay": 0.1, "maximize": True}),
    "transformers, momentum": (TransformersAdafactor, {"beta1": 0.9}),
    "transformers, constant lr": (TransformersAdafactor, {"weight_decay": 0.1, **CONSTANT_LR}),
}

SLOW = ("beta2_decay", "d", "warmup", "transformers, maximize", "transformers, constant lr")
"""They change numbers alone, which test_parity.py compares; their tests here are slow ones."""


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CONFIGURATIONS]
)
def configuration(request: pytest.FixtureRequest) -> tuple[type[Adafactor], dict[str, Any]]:
    return CONFIGURATIONS[request.param]


@pytest.fixture
def make(configuration: tuple[type[Adafactor], dict[str, Any]]) -> Make:
    """Makes an optimizer with the options of the configuration, or others in their place."""
    optimizer_class, options = configuration
    return lambda params, **others: optimizer_class(params, **{**options, **others})


@pytest.fixture
def make_with_lr(configuration: tuple[type[Adafactor], dict[str, Any]]) -> Make:
    """The same, where an ``lr`` is to be given: transformers' dialect takes one without relative steps only."""
    optimizer_class, options = configuration
    if optimizer_class is TransformersAdafactor:
        options = {**options, "relative_step": False, "warmup_init": False}
    return lambda params, **others: optimizer_class(params, **{**options, "lr": 1e-2, **others})
