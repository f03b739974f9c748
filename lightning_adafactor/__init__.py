"""A factored Adafactor for PyTorch and Lightning, and measurement of the memory that optimizer states take."""

import importlib
from typing import TYPE_CHECKING, Any

from lightning_adafactor.adafactor import Adafactor
from lightning_adafactor.memory import StateSize, adamw_state, compute_optimizer_size, measure_state
from lightning_adafactor.prediction import predict_state
from lightning_adafactor.transformers_dialect import TransformersAdafactor

if TYPE_CHECKING:
    from lightning_adafactor.monitor import OptimizerStateMonitor

__all__ = [
    "Adafactor",
    "OptimizerStateMonitor",
    "StateSize",
    "TransformersAdafactor",
    "adamw_state",
    "compute_optimizer_size",
    "measure_state",
    "predict_state",
]


def __getattr__(name: str) -> Any:
    """Imports the callback, and with it Lightning, on first access: the optimizer itself needs only torch."""
    if name == "OptimizerStateMonitor":
        return importlib.import_module("lightning_adafactor.monitor").OptimizerStateMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the callback too, even before it is imported."""
    return sorted({*globals(), *__all__})
