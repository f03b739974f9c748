"""The metrics of a classifier: loss, accuracy and F1, each row counted once on any number of processes."""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

IGNORED = -1
"""Label of a row that is ignored."""


class MeanCrossEntropy(Metric):
    """The mean cross-entropy over all rows of all batches and processes, in nats.

    Sums are accumulated instead of means, so the result does not depend on how rows are divided into batches and
    processes.
    """

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: Of shape (batch, labels).
            labels: Of shape (batch,), :data:`IGNORED` for rows that are ignored.
        """
        # Not in place: outside of `fit` the states are inference tensors, which cannot be updated in place later.
        self.total = self.total + functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        self.rows = self.rows + (labels != IGNORED).sum()

    def compute(self) -> Tensor:
        """The mean, a float32 scalar."""
        return self.total / self.rows


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
