"""A training loader that a resumed run enters at the row after the last one that the checkpoint has seen."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler


class ResumableLoader(DataLoader):
    """Gives out, after a checkpoint is loaded, the rest of the epoch that was interrupted.

    Other loaders start the epoch again, so that its first batches are trained on twice and its last ones not at all.
    The sampler is a ``DistributedSampler``, whose order depends on seed and epoch alone, or one whose order depends on
    its ``batch_size`` too: the interrupted epoch keeps the order of the batch size that it was begun with. The place is
    counted in rows, so that the rest can be given out in batches of another size. The data module keeps it in its own
    state: that of a loader, Lightning forgets where a schedule has asked for the number of steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.sampler, DistributedSampler)
        assert isinstance(self.batch_sampler, BatchSampler)
        # Without a generator of its own, each epoch would draw the workers' seeds from the model's random numbers.
        self.generator = torch.Generator() if self.generator is None else self.generator
        self._rest = _Rest(self.sampler)
        self.batch_sampler.sampler = self._rest
        self._own_size = getattr(self.sampler, "batch_size", None)
        self._rows = 0
        self._place: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches of the rows of the sampler's epoch that were not given out before."""
        sampler, place = self._rest.sampler, self._of_this_epoch()
        self._place = None
        self._rest.skip = self._rows = place["rows"] if place else 0
        if self._own_size is not None:
            sampler.batch_size = place["order"] if place else self._own_size  # type: ignore[attr-defined]
        self.generator.manual_seed(sampler.seed + sampler.epoch)
        assert self.batch_size is not None
        for batch in super().__iter__():
            self._rows = min(self._rows + self.batch_size, len(sampler))
            yield batch

    def _of_this_epoch(self) -> dict[str, int] | None:
        return self._place if self._place and self._place["epoch"] == self._rest.sampler.epoch else None

    @property
    def place(self) -> dict[str, int]:
        """The epoch, how many of its rows were given out, on how many processes, and the batch size of its order."""
        sampler = self._rest.sampler
        order = getattr(sampler, "batch_size", None) or self.batch_size or 1
        return {"epoch": sampler.epoch, "rows": self._rows, "replicas": sampler.num_replicas, "order": order}

    @property
    def batches_left(self) -> int | None:
        """How many batches the rest of the interrupted epoch makes; None for a loader that has resumed none."""
        if self._left is None:
            return None
        assert self.batch_size is not None
        return -(-self._left // self.batch_size)

    _left: int | None = None

    def resume(self, place: dict[str, int] | None) -> None:
        """Takes up such a place, if there is one; it holds for that epoch only.

        Args:
            place: Of another number of processes too. That of an older version counts batches of this size.
        """
        if not place:
            return
        sampler = self._rest.sampler
        batch_size = self.batch_size or 1
        if "rows" in place:
            before = place["replicas"]
            rows = place["rows"] * before // sampler.num_replicas
            order = max(place["order"] * before // sampler.num_replicas, 1)
        else:
            rows, order = place["batches"] * batch_size, batch_size
        rows = min(rows, len(sampler))
        self._place = {"epoch": place["epoch"], "rows": rows, "order": order}
        self._left = len(sampler) - rows


class _Rest:
    """What a sampler draws after the first ``skip`` rows."""

    def __init__(self, sampler: DistributedSampler) -> None:
        self.sampler = sampler
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.sampler), self.skip, None)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """As Lightning calls it."""
        self.sampler.set_epoch(epoch)
