"""What processes reduce to one: partial sums of many tensors, and the first of their findings.

Partial sums lie in one buffer and are added up with one all-reduce per process group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from lightning_adafactor.sharded.layout import Layout


class Reduction:
    """A buffer of partial sums.

    Slots are reserved first, then the buffer is allocated, filled, reduced and read. Slots that travel over the same
    groups are neighbors. A slot that is to be summed over several groups is summed over one after the other, in the
    order of the mesh's dimensions whatever the other slots are: a parameter's sums are the same bits with and without
    other parameters in the step, where two processes form a group.

    Args:
        dtype: dtype of the sums.
        device: Where they are filled and read.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._slots: list[_Slot] = []
        self._groups: dict[str, ProcessGroup] = {}
        self._dims: dict[str, int] = {}  # of the largest mesh that a group is part of
        self._buffer: Tensor | None = None
        self._arranged = False
        self._sums: list[_Sum] = []  # one for each all-reduce

    def reserve(self, size: int, layout: Layout, over: Sequence[int]) -> int:
        """Reserves a slot.

        Args:
            size: How many numbers it holds.
            layout: The layout of the parameter that the sums are of.
            over: The mesh dimensions that they are to be summed over; none for sums that are complete already.

        Returns:
            The number of the slot.
        """
        names = []
        for dim, group in zip(over, layout.groups(over), strict=True):
            name = str(group.group_name)
            names.append(name)
            self._groups[name] = group
            self._dims[name] = max(dim, self._dims.get(name, 0))
        self._slots.append(_Slot(size, layout.mesh, tuple(names)))
        return len(self._slots) - 1

    def reserve_for_all(self, layout: Layout, other: Reduction) -> int:
        """Reserves a slot of one number that is summed over all groups of the slots of this and of another reduction.

        They must have been reserved before.
        """
        for name, group in other._groups.items():
            self._groups[name] = group
            self._dims[name] = max(other._dims[name], self._dims.get(name, 0))
        self._slots.append(_Slot(1, layout.mesh, tuple(self._groups)))
        return len(self._slots) - 1

    def allocate(self) -> Tensor:
        """Allocates the buffer, filled with zeros, for all slots reserved so far."""
        self._arrange()
        self._buffer = torch.zeros(sum(slot.size for slot in self._slots), dtype=self.dtype, device=self.device)
        return self._buffer

    def _arrange(self) -> None:
        """Gives each slot its place, unless they all have one."""
        if not self._arranged:
            order = {name: number for number, name in enumerate(self._in_order())}
            start = 0
            for slot in sorted(self._slots, key=lambda slot: _place(slot.groups, order)):
                slot.start = start
                start += slot.size
            self._sums = [self._sum_over(name) for name in self._in_order()]
            self._arranged = True

    def place(self, number: int) -> int:
        """Where a slot begins in the buffer; no slots can be reserved afterwards."""
        self._arrange()
        return self._slots[number].start

    def view(self, number: int, shape: Sequence[int] = ()) -> Tensor:
        """A slot's numbers, as a view of this shape."""
        assert self._buffer is not None
        slot = self._slots[number]
        return self._buffer[slot.start : slot.start + slot.size].view(tuple(shape))

    def all_reduce(self) -> None:
        """Adds up the partial sums of all processes."""
        for each in self._sums:
            self._all_reduce(each)

    def _in_order(self) -> list[str]:
        """The names of the groups, in the order of the mesh's dimensions."""
        return sorted(self._groups, key=lambda name: self._dims[name])

    def _sum_over(self, name: str) -> _Sum:
        """What an all-reduce of a process group adds up."""
        slots = sorted((slot for slot in self._slots if name in slot.groups), key=lambda slot: slot.start)
        ranges: list[tuple[int, int]] = []
        for slot in slots:
            if ranges and ranges[-1][1] == slot.start:
                ranges[-1] = (ranges[-1][0], slot.start + slot.size)
            else:
                ranges.append((slot.start, slot.start + slot.size))
        return _Sum(self._groups[name], ranges, slots[0].mesh.device_type)

    def _all_reduce(self, each: _Sum) -> None:
        assert self._buffer is not None
        parts = [self._buffer[start:end] for start, end in each.ranges]
        sent = parts[0] if len(parts) == 1 else torch.cat(parts)
        if sent.device.type != each.device_type:
            sent = sent.to(each.device_type)
        if sent.numel() == 0:
            return
        distributed.all_reduce(sent, group=each.group)
        if sent is not parts[0]:
            for part, total in zip(parts, sent.split([part.numel() for part in parts]), strict=True):
                part.copy_(total)


@dataclasses.dataclass(slots=True)
class _Sum:
    """One all-reduce.

    Attributes:
        group: The process group.
        ranges: The parts of the buffer that are added up, from and to.
        device_type: That of the group's mesh: parameters that FSDP2 has offloaded are on the CPU, their process group
            may be for GPUs.
    """

    group: ProcessGroup
    ranges: list[tuple[int, int]]
    device_type: str


@dataclasses.dataclass(slots=True)
class _Slot:
    """A slot of the buffer.

    Attributes:
        size: How many numbers it holds.
        mesh: The device mesh of the parameter that the sums are of.
        groups: The names of the process groups that it is summed over.
        start: The place in the buffer.
    """

    size: int
    mesh: DeviceMesh
    groups: tuple[str, ...]
    start: int = 0


def _place(groups: Sequence[str], order: dict[str, int]) -> tuple[object, ...]:
    """Sorts slots so that, of two groups, each finds its own in one piece: A, A and B, B; last, those of none."""
    numbers = sorted(order[name] for name in groups)
    if not numbers:
        return (1,)
    return 0, numbers[0], len(numbers), numbers


def first_found(own: Any) -> Any:
    """The smallest of what the processes have found, so that all of them say the same; all of them call it.

    Args:
        own: What this process has found; None for nothing, which at least one process does not give.
    """
    found = [own]
    if distributed.is_available() and distributed.is_initialized():
        found *= distributed.get_world_size()
        distributed.all_gather_object(found, own)
    return min(each for each in found if each is not None)
