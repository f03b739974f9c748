"""Training batches of texts of similar length, for less padding, in an order that is independent of length."""

from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler


class LengthGroupedSampler(DistributedSampler):
    """Draws batches of similar lengths and shuffles the batches, by seed and epoch, for one process or many.

    transformers' length-grouped samplers go from long to short texts repeatedly. If length correlates with the label,
    as in news wires, the last batches of an epoch then have one label. Lightning would replace a sampler that is no
    ``DistributedSampler`` by one that shuffles single examples, which undoes the grouping.

    Args:
        lengths: Length of each example.
        batch_size: Examples in a batch, on each process.
        num_replicas: Number of processes; their batches of the same step have similar lengths
            too.
        rank: Number of this process.
        seed: With the epoch, seeds the order: a resumed run draws the same batches.
    """

    def __init__(self, lengths: list[int], batch_size: int, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.lengths = lengths
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        """Indices of the examples, batch after batch; the incomplete batch comes last."""
        from transformers.trainer_pt_utils import get_length_grouped_indices

        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        together = self.batch_size * self.num_replicas
        grouped = get_length_grouped_indices(self.lengths, together, generator=generator)
        batches = [grouped[start : start + together] for start in range(0, len(grouped), together)]
        full = len(grouped) // together
        order = [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]
        indices = [index for number in order for index in batches[number]]
        indices += indices[: self.total_size - len(indices)]
        return iter(indices[self.rank : self.total_size : self.num_replicas])
