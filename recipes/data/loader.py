"""A training loader that a resumed run enters at the batch after the last one that the checkpoint has seen."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler


class ResumableLoader(DataLoader):
    """Gives out, after a checkpoint is loaded, the rest of the epoch that was interrupted.

    Other loaders start the epoch again, so that its first batches are trained on twice and its last ones not at all.
    The sampler is a ``DistributedSampler``, whose order depends on seed and epoch alone. What was seen is read once
    more and passed over. The data module keeps the place in its own state: that of a loader, Lightning forgets
    where a schedule has asked for the number of steps.
    """

    _given = 0
    _resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches of the sampler's epoch that were not given out before."""
        resumed, self._resumed = self._resumed, None
        passed_over = resumed["batches"] if resumed and resumed["epoch"] == self._epoch else 0
        self._given = 0
        for batch in super().__iter__():
            self._given += 1
            if self._given > passed_over:
                yield batch

    @property
    def _epoch(self) -> int:
        assert isinstance(self.sampler, DistributedSampler)
        return self.sampler.epoch

    @property
    def place(self) -> dict[str, int]:
        """The epoch, and how many of its batches were given out."""
        return {"epoch": self._epoch, "batches": self._given}

    def resume(self, place: dict[str, int] | None) -> None:
        """Takes up such a place, if there is one; it holds for that epoch only."""
        self._resumed = place
