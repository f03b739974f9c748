"""A factored Adafactor for PyTorch and Lightning, and an honest account of what optimizers keep in memory."""

from lightning_adafactor.adafactor import Adafactor
from lightning_adafactor.memory import StateSize, adamw_state, compute_optimizer_size, measure_state
from lightning_adafactor.monitor import OptimizerStateMonitor
from lightning_adafactor.transformers_dialect import TransformersAdafactor

__all__ = [
    "Adafactor",
    "OptimizerStateMonitor",
    "StateSize",
    "TransformersAdafactor",
    "adamw_state",
    "compute_optimizer_size",
    "measure_state",
]
