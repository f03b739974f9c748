"""A factored Adafactor for PyTorch and Lightning, and measurement of the memory that optimizer states take."""

import importlib
from typing import TYPE_CHECKING, Any

from lightning_adafactor.adafactor import Adafactor
from lightning_adafactor.gradient_release import release_gradients
from lightning_adafactor.memory import StateSize, adamw_state, compute_optimizer_size, measure_state
from lightning_adafactor.prediction import predict_state
from lightning_adafactor.transformers_dialect import TransformersAdafactor

if TYPE_CHECKING:
    from lightning_adafactor.gradient_release.callback import GradientRelease
    from lightning_adafactor.monitor import OptimizerStateMonitor

__all__ = [
    "Adafactor",
    "GradientRelease",
    "OptimizerStateMonitor",
    "StateSize",
    "TransformersAdafactor",
    "adamw_state",
    "compute_optimizer_size",
    "measure_state",
    "predict_state",
    "release_gradients",
]

_CALLBACKS = {
    "GradientRelease": "lightning_adafactor.gradient_release.callback",
    "OptimizerStateMonitor": "lightning_adafactor.monitor",
}


def __getattr__(name: str) -> Any:
    """Imports a callback, and with it Lightning, on first access: the optimizer itself needs only torch."""
    if name in _CALLBACKS:
        return getattr(importlib.import_module(_CALLBACKS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the callbacks too, even before they are imported."""
    return sorted({*globals(), *__all__})
