"""Training epochs in which rows of rare labels are drawn more often (``data.balance``)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

OTHER_SEED = 0xBA1A
"""Keeps the random numbers of the draw apart from those of the order, which are seeded with the same number."""


class BalancedSampler(DistributedSampler):
    """Draws as many rows as there are, by their probabilities, and hands them to another sampler to be ordered.

    The draw depends on seed and epoch only: all processes make the same one, and a resumed run continues it.

    Args:
        shares: For each row how often it is drawn, relative to the others.
        ordering: Makes the sampler that orders drawn rows and divides them among the processes; its indices are
            places among the drawn rows.
        num_replicas: Number of processes.
        rank: Number of this process.
        seed: With the epoch, seeds the draw.

    Attributes:
        batch_size: That of the ordering sampler, if its order depends on it; else None.
    """

    def __init__(
        self,
        shares: Sequence[float],
        ordering: Callable[[list[int]], DistributedSampler],
        num_replicas: int,
        rank: int,
        seed: int,
    ) -> None:
        super().__init__(shares, num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.shares = torch.tensor(shares, dtype=torch.float64)
        self.ordering = ordering
        self.batch_size: int | None = getattr(ordering(list(range(len(shares)))), "batch_size", None)

    def __iter__(self) -> Iterator[int]:
        """Indices of rows, some of them several times."""
        drawn = draw(self.shares, torch.Generator().manual_seed((self.seed + self.epoch) ^ OTHER_SEED))
        ordered = self.ordering(drawn)
        ordered.set_epoch(self.epoch)
        if self.batch_size is not None:
            ordered.batch_size = self.batch_size  # type: ignore[attr-defined]
        return (drawn[place] for place in ordered)


def draw(shares: Tensor, generator: torch.Generator) -> list[int]:
    """Draws as many rows as there are, each as often as its share says, rounded up or down at random.

    This is systematic sampling: with independent draws, a third of the rows of a label that is drawn at its own rate
    would be missing in an epoch.

    Args:
        shares: Positive float64 numbers of any sum, of shape (rows,).
        generator: Shuffles the rows and shifts the roundings.

    Returns:
        Indices of rows.
    """
    order = torch.randperm(len(shares), generator=generator)
    shift = torch.rand((), dtype=torch.float64, generator=generator)
    ends = shares[order].cumsum(0)
    ends = torch.floor(ends / ends[-1] * len(shares) + shift).long().clamp(max=len(shares))
    times = ends.diff(prepend=torch.zeros(1, dtype=torch.long))
    return order.repeat_interleave(times).tolist()


def shares_of(labels: Sequence[int], counts: Sequence[int], power: float) -> list[float]:
    """The share of each row: the number of rows of its label to the power of minus ``power``.

    Args:
        labels: Label of each row.
        counts: Number of rows of each label.
        power: 0: all rows have the same share; 1: all labels together.
    """
    return [counts[label] ** -power for label in labels]
