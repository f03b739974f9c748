"""Chooses the implementation of a parameter's step, whether several processes take it together or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor import implementation
from lightning_adafactor.implementation import Choice, Path
from lightning_adafactor.sharded.layout import layout_of, local

_NOT_CAPTURED = "the parameter is sharded over several processes, whose all-reduces are not captured in a CUDA graph"


def is_sharded(param: Tensor) -> bool:
    """Whether several processes hold different parts of a parameter, so that they take its step together."""
    return isinstance(param, DTensor) and param.numel() > 0 and bool(layout_of(param).all)


@torch.no_grad()  # without it, local tensors would be parts of a graph
def choose(group: dict[str, Any], param: Tensor) -> Path:
    """Chooses the implementation for a parameter or for its local shard.

    Args:
        group: Its group, with the options ``fused``, ``compiled`` and ``capturable``.
        param: The parameter; one that is replicated on all processes takes the path of an ordinary one.

    Raises:
        RuntimeError: ``fused=True``, ``capturable=True`` or ``compiled=True`` is not supported for the parameter.
    """
    if group["capturable"] and is_sharded(param):
        raise RuntimeError(f"capturable=True is not supported: {_NOT_CAPTURED}")
    if isinstance(param, DTensor) or param.grad is None:
        return implementation.choose(group, local(param))
    return implementation.choose_with_gradient(group, param, param.grad)


@torch.no_grad()
def explain(group: dict[str, Any], param: Tensor) -> Choice:
    """Chooses the implementation for a parameter or for its local shard, and gives the reasons.

    Args:
        group: Its group.
        param: The parameter; if it has a gradient, its layout in memory is considered too.
    """
    choose(group, param)
    return implementation.explain(group, local(param), None if param.grad is None else local(param.grad))
