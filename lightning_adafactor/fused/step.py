"""The fused step: parameters grouped into buckets, each with a work table and five launches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.fused.launches import Launches, on_device
from lightning_adafactor.fused.table import Tiling, WorkTable

_Kind = tuple[torch.device, torch.dtype, torch.dtype]


class FusedAdafactor:
    """Takes steps as :func:`lightning_adafactor.plain.adafactor` does, in five launches for each bucket.

    Buckets are the parameters of one device, parameter dtype and gradient dtype. Their work tables are kept from
    step to step; they belong to no state and no checkpoint.

    Args:
        tilings: Tile sizes by parameter dtype, in place of ``Tiling.of``.
    """

    def __init__(self, tilings: dict[torch.dtype, Tiling] | None = None) -> None:
        self.tilings = tilings or {}
        self.tables: dict[_Kind, WorkTable] = {}
        self._entries: list[Entry] = []  # of the last step, as the next two
        self._empty: list[Entry] = []
        self._buckets: dict[_Kind, list[Entry]] = {}
        self._captured: list[WorkTable] = []  # tables that captured graphs read at each replay

    def __call__(
        self, entries: Iterable[Entry], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> None:
        """Takes one step for each entry, in place, without synchronizing with the device.

        Args:
            entries: The parameters of the step.
            grad_scale: One element that gradients are divided by before use; None for 1.
            found_inf: One element; where it is not zero, nothing changes. None for 0.
        """
        entries = list(entries)
        if entries != self._entries:
            self._sort(entries)
        for entry in self._empty:
            entry.step += 1 if found_inf is None else (found_inf == 0).to(entry.step).view(())
        for kind, bucket in self._buckets.items():
            device = kind[0]
            scale = None if grad_scale is None else grad_scale.to(device, non_blocking=True)
            overflow = None if found_inf is None else found_inf.to(device, non_blocking=True)
            self._launch(self._table(kind, bucket), kind, scale, overflow)

    def forget(self) -> None:
        """Lets go of the last step's tensors; tables of captured graphs stay."""
        self.tables.clear()
        self._sort([])

    def _sort(self, entries: list[Entry]) -> None:
        """Puts entries into buckets; those without elements need no kernel."""
        self._entries = entries
        self._empty = [entry for entry in entries if entry.param.numel() == 0]
        self._buckets = {}
        for entry in entries:
            if entry.param.numel() > 0:
                kind = (entry.param.device, entry.param.dtype, entry.grad.dtype)
                self._buckets.setdefault(kind, []).append(entry)

    def _table(self, kind: _Kind, bucket: list[Entry]) -> WorkTable:
        table = self.tables.get(kind)
        if table is None or not table.update(bucket):
            table = self.tables[kind] = WorkTable(bucket, self.tilings.get(kind[1], Tiling.of(kind[1])))
        if kind[0].type == "cuda" and torch.cuda.is_current_stream_capturing():
            # the table belongs to the graph from now on: replays write to it, so no later step may use it
            self._captured.append(self.tables.pop(kind))
        return table

    def _launch(self, table: WorkTable, kind: _Kind, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        launch = Launches(table, grad_scale, found_inf)
        with on_device(kind[0]):
            launch.sum_squares()
            launch.update_factors()
            launch.sum_updates()
            launch.find_scalars()
            launch.apply_updates()
