"""The ranges of ``Adafactor``'s arguments, with torch's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """Makes sure that arguments are in their ranges.

    Args:
        arguments: ``lr``, ``beta2_decay``, ``eps``, ``d``, ``weight_decay``, ``beta1``, ``warmup_init`` and
            ``relative_step``.

    Raises:
        ValueError: One is not.
    """
    lr, (eps1, eps2), beta1 = arguments["lr"], arguments["eps"], arguments["beta1"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not 0.0 <= lr:
        raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
    if not 0.0 >= arguments["beta2_decay"]:
        raise ValueError(f"beta2_decay should be <= 0 but is: {arguments['beta2_decay']}")
    if eps1 is not None and not 0.0 <= eps1:
        raise ValueError(f"epsilon1 should be >= 0 but is: {eps1}")
    if not 0.0 <= eps2:
        raise ValueError(f"epsilon2 should be >= 0 but is: {eps2}")
    if not 1.0 <= arguments["d"]:
        raise ValueError(f"Clipping threshold d should be >= 1 but is: {arguments['d']}")
    if not 0.0 <= arguments["weight_decay"]:
        raise ValueError(f"weight_decay should be >= 0 but is: {arguments['weight_decay']}")
    if beta1 is not None and not 0.0 <= beta1 < 1.0:
        raise ValueError(f"beta1 should be None or in [0, 1) but is: {beta1}")
    if arguments["warmup_init"] and not arguments["relative_step"]:
        raise ValueError("warmup_init=True requires relative_step=True")
