"""Tensors and plain values: the content of checkpoints that can be loaded without running code."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from recipes.messages import tell

PLAIN = (torch.Tensor, torch.dtype, torch.device, torch.Size, str, bytes, bool, int, float, complex, type(None))


def first_other(value: Any, place: str = "") -> str | None:
    """Finds a value that is neither a tensor nor a plain value, nor a list, tuple, set or mapping of them.

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
    elif isinstance(value, PLAIN) and type(value).__module__ != "numpy":
        return None
    else:
        return f"{place.removeprefix('.')}: {type(value).__module__}.{type(value).__qualname__}"
    return next((found for below, item in items if (found := first_other(item, below))), None)


class PlainOptimizerState(Callback):
    """Omits an optimizer's state from checkpoints if it holds other objects, such as NumPy arrays.

    A checkpoint with them could not be loaded, not even its weights. Such a run can be evaluated but not resumed; a
    note at its first checkpoint says so.
    """

    def __init__(self) -> None:
        self._told = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks through the states."""
        other = first_other(checkpoint.get("optimizer_states", []), "state")
        if other is None:
            return
        del checkpoint["optimizer_states"]
        if not self._told:
            self._told = True
            tell(
                f"the optimizer's state is not saved, because it holds {other}, and a checkpoint holds only tensors "
                "and plain values: this run cannot be resumed"
            )
