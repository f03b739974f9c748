"""A training loader that a resumed run continues after the last row before the checkpoint."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler


class ResumableLoader(DataLoader):
    """After a checkpoint is loaded, yields the rest of the interrupted epoch.

    Other loaders start the epoch again: its first batches are trained on twice, and its last ones not at all. The
    sampler is a ``DistributedSampler``, whose order depends on seed and epoch only, or one whose order also depends on
    its ``batch_size``: the interrupted epoch keeps the order of the batch size that it started with. The position is
    counted in rows, so that the rest can be batched differently. It is part of the data module's state: Lightning loses
    that of a loader if a schedule has computed the number of steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.sampler, DistributedSampler)
        assert isinstance(self.batch_sampler, BatchSampler)
        # Without its own generator, each epoch would draw the workers' seeds from the global random state.
        self.generator = torch.Generator() if self.generator is None else self.generator
        self._rest = _Rest(self.sampler)
        self.batch_sampler.sampler = self._rest
        self._own_size = getattr(self.sampler, "batch_size", None)
        self._rows = 0
        self._place: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches of the epoch's rows that were not yielded before."""
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
        """The position: epoch, number of its rows yielded, number of processes, and the batch size of its order."""
        sampler = self._rest.sampler
        order = getattr(sampler, "batch_size", None) or self.batch_size or 1
        return {"epoch": sampler.epoch, "rows": self._rows, "replicas": sampler.num_replicas, "order": order}

    @property
    def batches_left(self) -> int | None:
        """Number of batches in the rest of the interrupted epoch; None if none was resumed."""
        if self._left is None:
            return None
        assert self.batch_size is not None
        return -(-self._left // self.batch_size)

    _left: int | None = None

    def resume(self, place: dict[str, int] | None) -> None:
        """Continues at a position, if there is one, in its epoch only.

        Args:
            place: The position, also of another number of processes. In checkpoints of older versions it counts
                batches of this size.
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
    """The rows of a sampler after the first ``skip``."""

    def __init__(self, sampler: DistributedSampler) -> None:
        self.sampler = sampler
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.sampler), self.skip, None)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning."""
        self.sampler.set_epoch(epoch)
