"""Shards that are whole parameters, whose sums nobody needs to add up: the stages of a step without other processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.shard import Shard


def shards_of(entries: Sequence[Entry]) -> tuple[list[Shard], Tensor, Tensor]:
    """A shard for each entry, and two buffers for their sums."""
    shards: list[Shard] = []
    used = 0

    def take(size: int) -> int:
        nonlocal used
        used += size
        return used - size

    for number, entry in enumerate(entries):
        rows = columns = means = None
        if entry.row_var is not None and entry.col_var is not None:
            rows, columns = take(entry.row_var.numel()), take(entry.col_var.numel())
            means = take(math.prod(entry.param.shape[:-2]))
        shards.append(Shard(entry, tuple(entry.param.shape), True, rows, columns, means, take(1), number))
    device = entries[0].param.device
    return shards, torch.zeros(used, device=device), torch.zeros(len(shards), device=device)
