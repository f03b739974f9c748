"""CAME with typed arguments, and with a state that stays float32 when it is loaded."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from came_pytorch.CAME import CAME as LibraryCAME  # noqa: N811 - the name of the method


class CAME(LibraryCAME):
    """``came_pytorch.CAME``: Adafactor with momentum and a factored average of its deviation (arXiv 2307.02047).

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate.
        eps: Added to the squared gradients and to the squared deviation.
        clip_threshold: The root mean square above which an update is scaled down.
        betas: Decay factors of momentum, squared gradients and deviation.
        weight_decay: Weights are multiplied by 1 - lr * weight_decay in each step.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-4,
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        weight_decay: float = 0.0,
    ) -> None:
        if lr <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr is {lr} and betas {betas}: lr must be above 0, and betas at least 0 and below 1")
        super().__init__(params, lr, tuple(eps), clip_threshold, tuple(betas), weight_decay)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads a state; ``Optimizer`` would convert it to the dtype of bfloat16 parameters."""
        super().load_state_dict(dict(state_dict))
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, torch.Tensor):
                    self.state[parameter][key] = value.to(parameter.device, copy=True)
