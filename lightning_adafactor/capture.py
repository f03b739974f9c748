"""What a step that is captured in a CUDA graph needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_adafactor.parameter_state import has_contiguous_averages


def is_capturing() -> bool:
    """Whether what is launched now is captured in a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def check_state_for_capture(param: Tensor, state: dict[str, Any], *, with_average: bool) -> None:
    """Raises RuntimeError where state would be made, or its tensors moved, in a step that is captured.

    Each replay would do it again: with zeros, or from memory of the host that is no longer there.

    Args:
        param: The parameter.
        state: Its state.
        with_average: Whether the step needs ``exp_avg``, the first moment.
    """
    has_place = len(state) > 0 and state["step"].device == param.device and has_contiguous_averages(state)
    check_state_is_there(has_place and (not with_average or "exp_avg" in state))


def check_state_is_there(is_there: bool) -> None:
    """Raises RuntimeError in a step that is captured, unless what it updates is there already."""
    if not is_there and is_capturing():
        raise RuntimeError(
            "A step that is captured in a CUDA graph needs the state of a step before it: take one step, also after "
            "load_state_dict, and then capture"
        )


def check_capture(groups: Iterable[dict[str, Any]]) -> None:
    """Raises RuntimeError for a step that is captured in a CUDA graph without ``capturable``."""
    if is_capturing() and not all(group["capturable"] for group in groups):
        raise RuntimeError("A step that is captured in a CUDA graph needs Adafactor(..., capturable=True)")
