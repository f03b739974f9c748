"""The sharded step of shards without elements, which may yet have R or C, and RMS(p), in common with others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adafactor.shard import Shard


class EmptyStages:
    """Implements ``stages.Stages`` for shards without elements, without waiting for a device.

    They add nothing to any sum. Where a shard has rows but no columns, its R is that of the processes which have the
    columns.

    Args:
        shards: The shards.
        squares: The first buffer of sums.
    """

    def __init__(self, shards: Sequence[Shard], squares: Tensor) -> None:
        self.shards, self.squares = shards, squares

    def sum_squares(self) -> None:
        """First stage."""

    def sum_updates(self, found_inf: Tensor | None) -> None:
        """Second stage."""
        for shard in self.shards:
            entry = shard.entry
            t = entry.step.double() + 1.0
            _set(entry.step, t, found_inf)
            omega = t**entry.rule.beta2_decay
            added = entry.rule.added_to_squares(entry.param)
            if entry.row_var is None or entry.col_var is None:
                continue  # V has as many elements as the shard: none
            n, m = shard.shape[-2:]
            for average, place, size in ((entry.row_var, shard.row_sums, m), (entry.col_var, shard.column_sums, n)):
                if average.numel():
                    sums = self.squares[place:][: average.numel()].view(average.shape)
                    weight = omega.to(average)
                    _set(average, average * (1.0 - weight) + weight * (sums / size + added), found_inf)

    def apply_updates(self, found_inf: Tensor | None) -> None:
        """Third stage."""
        for shard in self.shards:
            rms = shard.entry.rms
            if rms is not None and shard.parameter_sum is not None:
                _set(rms, torch.sqrt(self.squares[shard.parameter_sum] / shard.numel), found_inf)


def _set(target: Tensor, value: Tensor, found_inf: Tensor | None) -> None:
    """Writes a value, or nothing where an infinity was found."""
    value = value.to(target).view_as(target)
    if found_inf is not None:
        value = torch.where(found_inf.to(target.device) == 0, value, target)
    target.copy_(value)
