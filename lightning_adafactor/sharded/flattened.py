"""Parameters that a sharding engine has flattened, which Adafactor cannot factor: FSDP1 and DeepSpeed ZeRO."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence, Set
from typing import Any

from torch import Tensor, distributed, nn

_REMEDY = "Shard with FSDP2 (torch.distributed.fsdp.fully_shard), which keeps shapes"


def check_for_fsdp1(group: dict[str, Any]) -> None:
    """Refuses the flat shards of FSDP1 (``FullyShardedDataParallel``) in a parameter group.

    Args:
        group: The group, perhaps with ``param_names``; with ``allow_unfactored`` there is only a warning.

    Raises:
        RuntimeError: There is one, and ``allow_unfactored`` is False, or ``on_nonfinite`` decides about steps.
    """
    of_fsdp1 = [param for param in group["params"] if getattr(param, "_fsdp_flattened", False)]
    if any(param.dim() > 1 for param in of_fsdp1):
        return  # not sharded: with one process, FSDP1 keeps shapes
    names = group.get("param_names") or [None] * len(group["params"])
    flat = [
        (name or ", ".join(getattr(param, "_fqns", ())) or "unnamed", param)
        for name, param in zip(names, group["params"], strict=True)
        if getattr(param, "_fsdp_flattened", False)
    ]
    if flat:
        _refuse("FSDP1", flat, group)


def check_for_deepspeed(param: Tensor, given: Set[int], group: dict[str, Any]) -> None:
    """Refuses a flat partition of DeepSpeed ZeRO, which it puts into a parameter group in place of the parameters.

    It is an ordinary tensor. What others put there in place of the parameters, such as accelerate with FSDP2 or tensor
    parallelism, are parameters.

    Args:
        param: A parameter of the optimizer.
        given: The ids of all parameters that were given to the optimizer.
        group: Its group; with ``allow_unfactored`` there is only a warning.

    Raises:
        RuntimeError: It is one, and ``allow_unfactored`` is False, or ``on_nonfinite`` decides about steps.
    """
    if "deepspeed" not in sys.modules or isinstance(param, nn.Parameter):
        return
    if param.dim() == 1 and id(param) not in given:
        name = str(getattr(param, "ds_id", "unnamed"))
        _refuse("DeepSpeed ZeRO", [(name, param)], group)


def _check_decision(engine: str, on_nonfinite: str) -> None:
    """Refuses an option with which each process would decide by its own shard, and they would differ."""
    if on_nonfinite != "ignore" and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise RuntimeError(
            f"on_nonfinite={on_nonfinite!r} is not supported for the flat shards of {engine}: each process sees its "
            f"own gradients only, and would skip other steps than the others. Set on_nonfinite='ignore'. {_REMEDY}"
        )


def _refuse(engine: str, flat: Sequence[tuple[str, Tensor]], group: dict[str, Any]) -> None:
    elements = sum(param.numel() for _, param in flat)
    what = ", ".join(f"{name!r} ({param.numel():,} elements)" for name, param in flat)
    if not group["allow_unfactored"]:
        raise RuntimeError(
            f"Adafactor cannot factor the flat shards of {engine}, which have lost the parameters' shapes: {what}. "
            f"{_REMEDY}, or pass allow_unfactored=True, which keeps one number per element"
        )
    megabytes = sum(param.numel() * max(4, param.element_size()) for _, param in flat) / 2**20
    warnings.warn(
        f"Adafactor keeps one number per element for the flat shards of {engine}, {elements:,} elements or "
        f"{megabytes:,.2f} MB, and scales and clips each shard by itself: {what}. {_REMEDY}",
        stacklevel=4,
    )
    _check_decision(engine, group["on_nonfinite"])
