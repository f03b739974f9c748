"""Chooses the implementation of a parameter's step: fused, compiled or plain."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor

from lightning_adafactor import compiled, fused

Path = Literal["fused", "compiled", "plain"]
"""The step in Triton kernels, in compiled loops, or in plain torch operations."""


_ONLY_IF_REQUESTED = "on a CPU, where the kernels are interpreted, they are used with fused=True only"


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
        RuntimeError: ``fused=True``, ``capturable=True`` or ``compiled=True`` is not supported for the parameter, or
            ``capturable=True`` contradicts ``fused=False``.
    """
    if group["capturable"] and group["fused"] is False:
        raise RuntimeError("capturable=True is not supported: it needs the fused step, and fused=False leaves that out")
    for argument in ("fused", "capturable"):
        if group[argument]:
            reason = fused.unsupported_reason(param)
            if reason is not None:
                raise RuntimeError(f"{argument}=True is not supported: {reason}")
            return "fused"
    is_free = group["fused"] is None and not group["compiled"]
    if is_free and param.is_cuda and fused.unsupported_reason(param) is None:
        return "fused"
    if group["compiled"] is False:
        return "plain"
    reason = compiled.unsupported_reason(param)
    if reason is not None and group["compiled"]:
        raise RuntimeError(f"compiled=True is not supported: {reason}")
    return "plain" if reason is not None else "compiled"


def choose_with_gradient(group: dict[str, Any], param: Tensor, grad: Tensor) -> Path:
    """Chooses the implementation for a step with a gradient, which the kernels may not support.

    Args:
        group: Its group.
        param: The parameter.
        grad: Its gradient.

    Raises:
        RuntimeError: As :func:`choose`; also if ``fused=True`` is not supported for the gradient.
    """
    path = choose(group, param)
    reason = fused.unsupported_gradient(grad) if path == "fused" else None
    if reason is None:
        return path
    if group["fused"] or group["capturable"]:
        raise RuntimeError(f"fused=True is not supported: {reason}")
    return "plain"


def explain(group: dict[str, Any], param: Tensor, grad: Tensor | None) -> Choice:
    """Chooses the implementation for a parameter, and gives the reasons.

    Args:
        group: Its group.
        param: The parameter.
        grad: Its gradient, whose layout in memory is considered too, if there is one.
    """
    path = choose(group, param) if grad is None else choose_with_gradient(group, param, grad)
    reasons = {}
    if path != "fused":
        given = group["fused"] is False
        unsupported = fused.unsupported_reason(param) or (grad is not None and fused.unsupported_gradient(grad))
        requested = "compiled=True was given" if group["compiled"] else _ONLY_IF_REQUESTED
        reasons["fused"] = "fused=False was given" if given else unsupported or requested
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
