"""Evaluation on several processes: whole batches are shared out, so each is a batch of one process too."""

from collections.abc import Iterator, Sized

from torch.utils.data import DistributedSampler


class WholeBatches(DistributedSampler):
    """Deals the batches of a split, in its order, to the processes in turn; none has a row of another.

    A sampler that deals rows changes which texts share a batch, hence their padding, hence the last bits of their
    logits. It also repeats rows until all processes have equally many.

    Where the number of batches is no multiple of the number of processes, the last batch of some processes is the
    filler alone: each runs the same number of forward passes, as FSDP2's collectives need.

    Args:
        rows: The split.
        batch_size: Rows in a batch; the last batch of the split may have fewer.
        num_replicas: Number of processes.
        rank: Number of this process.
    """

    def __init__(self, rows: Sized, batch_size: int, num_replicas: int, rank: int) -> None:
        super().__init__(rows, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.indices = list(self._dealt(len(rows), batch_size))

    @staticmethod
    def filler(rows: Sized) -> int:
        """The index of the filler, which follows the last row."""
        return len(rows)

    def _dealt(self, rows: int, batch_size: int) -> Iterator[int]:
        batches = -(-rows // batch_size)
        for first in range(0, batches, self.num_replicas):
            start = (first + self.rank) * batch_size
            yield from range(start, min(start + batch_size, rows)) if start < rows else (rows,)

    def __iter__(self) -> Iterator[int]:
        """Indices of rows, batch after batch; that of the filler is the number of rows."""
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
