"""Counts the kernels and copies of a step on a CUDA device, and how often the host waits for the device."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclasses.dataclass(frozen=True)
class Launches:
    """Counts of one step.

    Attributes:
        kernels: Kernels that ran; in a CUDA graph, all of them take one launch together.
        copies: Copies and fills that ran beside the kernels.
        syncs: How often the host waited for the device.
    """

    kernels: int
    copies: int
    syncs: int


def count_launches(step: Callable[[], None]) -> Launches:
    """Takes two steps, and counts kernels in the one and waits in the other.

    Args:
        step: Takes one step; warmed up.

    Returns:
        The counts.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    # annotations such as "Optimizer.step" are shown on the device too, and are not launched
    names = [
        event.name
        for event in recorded.events() or ()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return Launches(kernels=len(names) - copies, copies=copies, syncs=_count_syncs(step))


def _count_syncs(step: Callable[[], None]) -> int:
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
