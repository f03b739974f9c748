"""What a checkpoint may hold to be loaded without running code: tensors and plain values."""

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from lightning import Callback, LightningModule, Trainer

from recipes.messages import tell

ARRAY, SCALAR = "numpy.array", "numpy.scalar"
PLAIN = (torch.Tensor, torch.dtype, torch.device, torch.Size, str, bytes, bool, int, float, complex, type(None))


def first_other(value: Any, place: str = "") -> str | None:
    """Finds what is neither a tensor nor a plain value, nor a list, tuple, set or mapping of them.

    Args:
        value: The content of a checkpoint, or a part of it.
        place: Where the part is, for the answer.

    Returns:
        Its place and its type, such as ``optimizer_states[0].state: numpy.ndarray``; None if there is none.
    """
    if isinstance(value, Mapping):
        items = [(f"{place}.{key}" if isinstance(key, str) else place, item) for key, item in value.items()]
    elif type(value) in (list, tuple, set):
        items = [(f"{place}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, PLAIN):
        return None
    else:
        return f"{place.removeprefix('.')}: {type(value).__module__}.{type(value).__qualname__}"
    return next((found for below, item in items if (found := first_other(item, below))), None)


class PlainOptimizerState(Callback):
    """Puts NumPy arrays in an optimizer's state into checkpoints as tensors; leaves out one that holds other objects.

    Such a run can be evaluated and not resumed, which is said at its first checkpoint.
    """

    def __init__(self) -> None:
        self._told = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Converts the states."""
        states = _without_numpy(checkpoint.get("optimizer_states", []))
        other = first_other(states, "state")
        if other is None:
            checkpoint["optimizer_states"] = states
            return
        del checkpoint["optimizer_states"]
        if not self._told:
            self._told = True
            tell(
                f"the optimizer's state is not saved, for it holds {other}, and a checkpoint holds tensors and plain "
                "values: this run cannot be resumed"
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Converts them back."""
        if "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"] = _with_numpy(checkpoint["optimizer_states"])


def _without_numpy(value: Any) -> Any:
    """A value with ``{"numpy.array": tensor}`` in place of each array, and likewise for scalars."""
    if isinstance(value, numpy.ndarray | numpy.generic) and not isinstance(value, float | str | bytes):
        try:
            tensor = torch.from_numpy(numpy.array(value))
        except TypeError:  # a dtype that torch does not have
            return value
        return {ARRAY if isinstance(value, numpy.ndarray) else SCALAR: tensor}
    if type(value) is dict:
        return {key: _without_numpy(item) for key, item in value.items()}
    return type(value)(map(_without_numpy, value)) if type(value) in (list, tuple) else value


def _with_numpy(value: Any) -> Any:
    if type(value) is dict:
        if value.keys() == {ARRAY}:
            return value[ARRAY].numpy(force=True)
        if value.keys() == {SCALAR}:
            return value[SCALAR].numpy(force=True)[()]
        return {key: _with_numpy(item) for key, item in value.items()}
    return type(value)(map(_with_numpy, value)) if type(value) in (list, tuple) else value
