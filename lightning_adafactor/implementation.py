"""Chooses the implementation of a parameter's step: fused, compiled or plain."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor import compiled, fused
from lightning_adafactor.sharded.layout import layout_of, local

Path = Literal["fused", "compiled", "plain"]
"""The step in Triton kernels, in compiled loops, or in plain torch operations."""


_ONLY_IF_REQUESTED = "on a CPU, where the kernels are interpreted, they are used with fused=True only"
_SHARDED = "the parameter is sharded over several processes"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation of a parameter's step.

    Attributes:
        path: The implementation.
        reasons: Why it is not a faster one, by the name of the faster one.
    """

    path: Path
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)


def choose(group: dict[str, Any], param: Tensor) -> Path:
    """Chooses the implementation for a parameter.

    Args:
        group: Its group, with the options ``fused``, ``compiled`` and ``capturable``.
        param: The parameter.

    Raises:
        RuntimeError: ``fused=True``, ``capturable=True`` or ``compiled=True`` is not supported for the parameter.
    """
    if isinstance(param, DTensor):
        if is_sharded(param):
            for argument in ("fused", "capturable", "compiled"):
                if group[argument]:
                    raise RuntimeError(f"{argument}=True is not supported: {_SHARDED}")
            return "plain"
        with torch.no_grad():
            param = local(param)
    for argument in ("fused", "capturable"):
        if group[argument]:
            reason = fused.unsupported_reason(param)
            if reason is not None:
                raise RuntimeError(f"{argument}=True is not supported: {reason}")
            return "fused"
    if group["fused"] is None and param.is_cuda and fused.unsupported_reason(param) is None:
        return "fused"
    if group["compiled"] is False:
        return "plain"
    reason = compiled.unsupported_reason(param)
    if reason is not None and group["compiled"]:
        raise RuntimeError(f"compiled=True is not supported: {reason}")
    return "plain" if reason is not None else "compiled"


def is_sharded(param: Tensor) -> bool:
    """Whether several processes hold different parts of a parameter, so that they take its step together."""
    return isinstance(param, DTensor) and param.numel() > 0 and bool(layout_of(param).all)


def explain(group: dict[str, Any], param: Tensor) -> Choice:
    """Chooses the implementation for a parameter, and gives the reasons.

    Args:
        group: Its group.
        param: The parameter; if it has a gradient, its layout in memory is considered too.
    """
    path = choose(group, param)
    if is_sharded(param):
        return Choice(path, {"fused": _SHARDED, "compiled": _SHARDED})
    grad = param.grad
    with torch.no_grad():  # without it, local tensors would be parts of a graph
        param, grad = local(param), None if grad is None else local(grad)
    reasons = {}
    if path != "fused":
        given = group["fused"] is False
        reasons["fused"] = "fused=False was given" if given else fused.unsupported_reason(param) or _ONLY_IF_REQUESTED
        layout = compiled.unsupported_layout(param, grad)
        if path == "compiled" and layout is not None:
            path = "plain"
            reasons["compiled"] = layout
        elif path == "plain":
            given = group["compiled"] is False
            reasons["compiled"] = "compiled=False was given" if given else compiled.unsupported_reason(param) or ""
    return Choice(path, reasons)


def summarize(choices: Iterable[Choice]) -> list[dict[str, Any]]:
    """Counts equal choices, for a report.

    Args:
        choices: Choices, such as ``optimizer.implementation().values()``.

    Returns:
        For each kind of choice its ``path``, its ``reasons`` and the number of ``parameters``; the most frequent first.
    """
    counted = collections.Counter((choice.path, tuple(sorted(choice.reasons.items()))) for choice in choices)
    return [
        {"path": path, "parameters": count, "reasons": dict(reasons)}
        for (path, reasons), count in counted.most_common()
    ]
