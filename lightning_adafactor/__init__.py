"""A factored Adafactor for PyTorch and Lightning, and an honest account of what optimizers keep in memory."""

from lightning_adafactor.adafactor import Adafactor
from lightning_adafactor.transformers_dialect import TransformersAdafactor

__all__ = ["Adafactor", "TransformersAdafactor"]
