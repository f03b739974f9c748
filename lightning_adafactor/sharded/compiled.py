"""The sharded step in compiled loops: a call of the library for each pass, over all shards."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_adafactor.compiled import library, table
from lightning_adafactor.compiled.library import Phase
from lightning_adafactor.shard import Shard
from lightning_adafactor.sharded.plain import PlainStages


class CompiledStages:
    """Implements ``stages.Stages`` for shards on the CPU; those of unsupported layouts are passed on to ``plain``.

    Args:
        shards: The shards, all with elements.
        squares: The first buffer of sums.
        updates: The second one.
        grad_scale: One element that gradients are divided by before use; None for 1.

    Raises:
        RuntimeError: The library has not been built.
    """

    def __init__(self, shards: Sequence[Shard], squares: Tensor, updates: Tensor, grad_scale: Tensor | None) -> None:
        loaded = library.load()
        if isinstance(loaded, str):
            raise RuntimeError(loaded)
        self.library = loaded
        self.unscale = 1.0 if grad_scale is None else 1.0 / float(grad_scale)
        self.buffers = squares, updates  # whose addresses are in the table
        entries = [shard.entry for shard in shards]
        self.rows, self.count, others = table.pack(entries, table.Exchange(shards, squares, updates))
        self.others = PlainStages([shards[number] for number in others], squares, updates, grad_scale)

    def sum_squares(self) -> None:
        """First stage."""
        self._call(Phase.SUM_SQUARES)
        self.others.sum_squares()

    def sum_updates(self, found_inf: Tensor | None) -> None:
        """Second stage."""
        if found_inf is None or found_inf.item() == 0:
            self._call(Phase.SUM_UPDATES)
        self.others.sum_updates(found_inf)

    def apply_updates(self, found_inf: Tensor | None) -> None:
        """Third stage."""
        if found_inf is None or found_inf.item() == 0:
            self._call(Phase.APPLY_UPDATES)
        self.others.apply_updates(found_inf)

    def _call(self, phase: Phase) -> None:
        if self.count:
            self.library.step(self.rows, self.count, self.unscale, phase)
