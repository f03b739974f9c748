"""The entries of sharded parameters of the last step; see ``lightning_adafactor.entry_cache``.

To find out how a parameter is sharded, where its shard lies and what belongs to it takes longer than the shard's step
takes on a GPU.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement

from lightning_adafactor.entry_cache import EntryCache
from lightning_adafactor.rule import Rule
from lightning_adafactor.sharded.layout import local, local_gradient
from lightning_adafactor.sharded.step import ShardedEntry


@dataclasses.dataclass(slots=True)
class _Kept:
    """An entry and what it was made of beyond what ``EntryCache`` compares: that compares the local tensors."""

    entry: ShardedEntry
    param: DTensor
    placements: tuple[Placement, ...]


class ShardedEntryCache:
    """Entries by the parameter's position in the optimizer."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._local = EntryCache()

    def find(self, index: int, group: int, param: DTensor, state: dict[str, Tensor], rule: Rule) -> ShardedEntry | None:
        """Returns the entry of the last step with this step's gradient and rule, or None where a new one is needed.

        Args:
            index: Position of the parameter in the optimizer.
            group: Number of its parameter group.
            param: The parameter, with a gradient.
            state: Its state.
            rule: Its group's options.

        Raises:
            RuntimeError: The gradient is not placed as the parameter is, and cannot be.
        """
        kept = self._kept.get(index)
        if (
            kept is None
            or kept.param is not param
            or kept.placements is not param.placements
            or kept.entry.layout.mesh is not param.device_mesh
            or (kept.entry.entry.region is None) is rule.rounds_stochastically(param)
        ):
            return None
        found = self._local.find(index, group, local(param), local_gradient(param), state, rule)
        return None if found is None else kept.entry

    def keep(self, entry: ShardedEntry, group: int, param: Tensor, state: dict[str, Any]) -> None:
        """Keeps a new entry of this step; arguments as of :meth:`find`."""
        assert isinstance(param, DTensor)
        self._kept[entry.entry.index] = _Kept(entry, param, param.placements)
        own = entry.entry  # its gradient, and not the parameter's, which might have to be redistributed once more
        self._local.keep(own, group, local(param), own.grad.mT if own.transposed else own.grad, state)
