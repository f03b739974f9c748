"""The step of sharded parameters: three stages on local shards, and two reductions between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.implementation import Path
from lightning_adafactor.rule import Rule, state_dtype
from lightning_adafactor.shard import Shard
from lightning_adafactor.sharded.compiled import CompiledStages
from lightning_adafactor.sharded.empty import EmptyStages
from lightning_adafactor.sharded.layout import Layout, layout_of, local, local_gradient, region_of
from lightning_adafactor.sharded.plain import PlainStages
from lightning_adafactor.sharded.reduction import Reduction
from lightning_adafactor.sharded.stages import Stages

if TYPE_CHECKING:
    from lightning_adafactor.fused.table import Tiling
    from lightning_adafactor.sharded.fused import Tables


@dataclasses.dataclass(frozen=True, slots=True)
class ShardedEntry:
    """A parameter that is sharded over processes.

    Attributes:
        entry: The local shards of the parameter, its gradient and its state.
        layout: How the parameter is sharded.
        path: The implementation of its step; the same on every process.
    """

    entry: Entry
    layout: Layout
    path: Path


def entry_of(param: DTensor, state: dict[str, Tensor], index: int, rule: Rule, path: Path) -> ShardedEntry:
    """Collects the local shards of a parameter, its gradient and its state.

    Args:
        param: The parameter, with a gradient.
        state: Its state (torch's names).
        index: Its position in the optimizer.
        rule: Its group's options.
        path: The implementation of its step.

    Raises:
        RuntimeError: The placements of the parameter or of its gradient are not supported.
    """
    layout = layout_of(param)
    shards = {name: local(value) for name, value in state.items()}
    gradient = local_gradient(param)
    entry = Entry.of(local(param), gradient, shards, index, rule, transposed=layout.transposed)
    if layout.all and rule.rounds_stochastically(param):
        entry.region = region_of(param, transposed=layout.transposed)
    return ShardedEntry(entry, layout, path)


class ShardedAdafactor:
    """Takes steps of sharded parameters; keeps from step to step what the implementations reuse.

    Args:
        tilings: Tile sizes of the fused step by parameter dtype, in place of ``Tiling.of``.
    """

    def __init__(self, tilings: dict[torch.dtype, Tiling] | None = None) -> None:
        self.tilings = tilings or {}
        self._tables: Tables = {}
        self._plans: dict[torch.device, _Plan] = {}

    def __call__(
        self, entries: Iterable[ShardedEntry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> Tensor | None:
        """Takes one step for each entry, in place; every process calls it with its shards of the same parameters.

        Args:
            entries: The parameters of the step, in the same order on every process.
            grad_scale: One element that gradients are divided by before use; None for 1. The same on every process.
            found_inf: One element; where it is not zero on any process that shares a parameter, nothing changes. None
                for 0; given on all processes or on none.

        Returns:
            ``found_inf`` of all these processes, or None.
        """
        by_device: dict[torch.device, list[ShardedEntry]] = {}
        for entry in entries:
            by_device.setdefault(entry.entry.param.device, []).append(entry)
        for device, alike in by_device.items():
            found_inf = self._step(alike, device, grad_scale, found_inf)
        return found_inf

    def _step(
        self, entries: Sequence[ShardedEntry], device: torch.device, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> Tensor | None:
        """Takes the step of the parameters on one device; returns ``found_inf`` of all processes that share them."""
        signature = _signature(entries, found_inf)
        plan = self._plans.get(device)
        if plan is None or plan.signature != signature:
            plan = self._plans[device] = _Plan(entries, device, found_inf)
        squares, updates, inf = plan.squares, plan.updates, plan.inf
        stages = self._stages(entries, plan.shards(entries), squares.allocate(), updates.allocate(), grad_scale)

        overflow = None
        if inf is not None and found_inf is not None:
            squares.view(inf).copy_(found_inf.view(()) != 0)
        for stage in stages:
            stage.sum_squares()
        squares.all_reduce()
        if inf is not None and found_inf is not None:
            overflow = (squares.view(inf) != 0).to(torch.float32)
            # all processes must agree, whichever of their shards are empty
            if any(entry.path != "fused" for entry in entries) and overflow.item() != 0:
                return torch.ones_like(found_inf)

        for stage in stages:
            stage.sum_updates(overflow)
        updates.all_reduce()
        for stage in stages:
            stage.apply_updates(overflow)
        return None if overflow is None or found_inf is None else overflow.to(found_inf).view_as(found_inf)

    def _stages(
        self,
        entries: Sequence[ShardedEntry],
        shards: Sequence[Shard],
        squares: Tensor,
        updates: Tensor,
        grad_scale: Tensor | None,
    ) -> list[Stages]:
        """The stages of each implementation that some shard takes."""
        chosen: dict[str, list[Shard]] = {}
        for entry, shard in zip(entries, shards, strict=True):
            chosen.setdefault(entry.path if shard.entry.param.numel() else "empty", []).append(shard)
        stages: list[Stages] = []
        for path, own in chosen.items():
            if path == "empty":
                stages.append(EmptyStages(own, squares))
            elif path == "fused":
                from lightning_adafactor.sharded.fused import FusedStages  # needs Triton

                stages.append(FusedStages(own, squares, updates, grad_scale, tables=self._tables, tilings=self.tilings))
            elif path == "compiled":
                stages.append(CompiledStages(own, squares, updates, grad_scale))
            else:
                stages.append(PlainStages(own, squares, updates, grad_scale))
        return stages


def _signature(entries: Sequence[ShardedEntry], found_inf: Tensor | None) -> list[object]:
    """All that the places and groups of sums depend on; meshes by identity, for equal ones differ in their groups."""
    signature: list[object] = [found_inf is None]
    for each in entries:
        layout, param = each.layout, each.entry.param
        signature += (id(layout.mesh), layout.shape, layout.transposed, layout.rows, layout.columns, layout.all)
        signature += (param.shape, param.dtype, each.entry.rule.scale_parameter)
    return signature


class _Plan:
    """The places of all sums; kept from step to step, because to find them takes longer than a small shard's step.

    Args:
        entries: The parameters of the step on one device.
        device: The device.
        found_inf: As of the step; whether it is given matters.

    Attributes:
        signature: What it depends on.
        squares: Where ΣG² over rows and over columns, ΣR, Σp² and ``found_inf`` are added up.
        updates: Where ΣU² is added up.
        inf: The slot of ``found_inf`` in ``squares``.
    """

    def __init__(self, entries: Sequence[ShardedEntry], device: torch.device, found_inf: Tensor | None) -> None:
        self.signature = _signature(entries, found_inf)
        dtypes = {state_dtype(entry.entry.param) for entry in entries}
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32  # of the sums, which travel together
        self.squares, self.updates = Reduction(dtype, device), Reduction(dtype, device)
        slots = [_Slots(entry, self.squares, self.updates) for entry in entries]
        self.inf = None if found_inf is None else self.squares.reserve_for_all(entries[0].layout, self.updates)
        self._places = [slot.places(self.squares, self.updates) for slot in slots]

    def shards(self, entries: Sequence[ShardedEntry]) -> list[Shard]:
        """The shards of this step."""
        return [
            Shard(each.entry, each.layout.shape, *places) for each, places in zip(entries, self._places, strict=True)
        ]


_Places = tuple[bool, int | None, int | None, int | None, int | None, int]
"""``holds_factor`` and the places of a ``Shard``."""


class _Slots:
    """The sums of a parameter that several processes add up.

    They are the same on every process, whatever the implementation and the size of its shard.

    Args:
        sharded: The parameter.
        squares: Where Σ G² over rows and over columns, ΣR and Σp² are added up.
        updates: Where ΣU² is added up.
    """

    def __init__(self, sharded: ShardedEntry, squares: Reduction, updates: Reduction) -> None:
        entry, layout = sharded.entry, sharded.layout
        self.parameter_sum = squares.reserve(1, layout, layout.all) if entry.rule.scale_parameter else None
        self.update_sum = updates.reserve(1, layout, layout.all)
        self.row_sums: int | None = None
        self.column_sums: int | None = None
        self.mean_sums: int | None = None
        self.holds_factor = False
        if entry.row_var is not None and entry.col_var is not None:
            self.row_sums = squares.reserve(entry.row_var.numel(), layout, layout.columns)
            self.column_sums = squares.reserve(entry.col_var.numel(), layout, layout.rows)
            # of the parameter itself, whatever its order in memory
            own, other = (layout.columns, layout.rows) if entry.transposed else (layout.rows, layout.columns)
            self.holds_factor = layout.is_first(other)  # the others have the same R
            if own:
                matrices = math.prod(entry.param.shape[:-2])
                self.mean_sums = squares.reserve(matrices, layout, sorted((*own, *other)))

    def places(self, squares: Reduction, updates: Reduction) -> _Places:
        """Where the sums are, once all slots are reserved."""
        row_sums, column_sums, mean_sums, parameter_sum = (
            None if slot is None else squares.place(slot)
            for slot in (self.row_sums, self.column_sums, self.mean_sums, self.parameter_sum)
        )
        update_sum = updates.place(self.update_sum)
        return self.holds_factor, row_sums, column_sums, mean_sums, parameter_sum, update_sum
