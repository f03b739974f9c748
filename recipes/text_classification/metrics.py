"""The metrics of a classifier: loss, accuracy and F1, each row counted once on any number of processes."""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat

IGNORED = -1
"""Label of a row that is ignored."""


class MeanCrossEntropy(Metric):
    """The mean cross-entropy over all rows of all batches and processes, in nats.

    The sums of the batches are kept, and added up exactly at the end: the result does not depend on the number of
    processes, or on the order in which they finish.
    """

    full_state_update = False
    sums: list[Tensor]
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", [], dist_reduce_fx="cat")
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: Of shape (batch, labels).
            labels: Of shape (batch,), :data:`IGNORED` for rows that are ignored.
        """
        self.sums.append(functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        # Not in place: outside of `fit` the states are inference tensors, which cannot be updated in place later.
        self.rows = self.rows + (labels != IGNORED).sum()

    def compute(self) -> Tensor:
        """The mean, a float32 scalar; NaN without a row."""
        total = math.fsum(dim_zero_cat(self.sums).tolist()) if len(self.sums) else 0.0
        rows = int(self.rows)
        return torch.tensor(total / rows if rows else math.nan, dtype=torch.float32, device=self.rows.device)


def classification_metrics(labels: int, stage: str) -> MetricCollection:
    """``STAGE/loss`` (mean), ``STAGE/accuracy`` (micro) and ``STAGE/f1`` (macro).

    Args:
        labels: Number of labels.
        stage: ``val`` or ``test``.
    """
    return MetricCollection(
        {
            "loss": MeanCrossEntropy(),
            "accuracy": MulticlassAccuracy(labels, average="micro", ignore_index=IGNORED),
            "f1": MulticlassF1Score(labels, average="macro", ignore_index=IGNORED),
        },
        prefix=f"{stage}/",
    )
