"""The training loss of a classifier: cross-entropy with smoothed labels, and with weights for rare labels."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional

ClassWeights = Literal["balanced", "sqrt"]

POWERS: dict[ClassWeights, float] = {"balanced": 1.0, "sqrt": 0.5}
"""A label's weight is proportional to its number of rows to the power of minus this."""


def class_weights(counts: Sequence[int], kind: ClassWeights, balance: float = 0.0) -> list[float]:
    """The weight of each label; the mean over the rows of an epoch is 1, so that a learning rate keeps its meaning.

    Args:
        counts: Number of training rows of each label.
        kind: ``balanced``: all labels count the same together, n / (k * count) for n rows of k labels, as in
            scikit-learn. ``sqrt``: in between, proportional to 1 / sqrt(count).
        balance: ``data.balance``: a row is drawn in proportion to its label's count to the power of minus this.

    Returns:
        The weights; 1 for a label without a row.
    """
    power = POWERS[kind]
    raw = [count**-power if count else 0.0 for count in counts]
    drawn = [count ** (1 - balance) if count else 0.0 for count in counts]
    mean = sum(rows * weight for rows, weight in zip(drawn, raw, strict=True)) / (sum(drawn) or 1.0)
    return [weight / mean if weight else 1.0 for weight in raw]


def training_loss(logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor | None) -> Tensor:
    """The mean over the rows of weight times cross-entropy.

    torch's own ``weight`` divides by the weights of the batch: there a row counts more the fewer rare labels share its
    batch, and all rows of a batch of one label count 1.

    Args:
        logits: Of shape (batch, labels), float32.
        labels: Of shape (batch,).
        label_smoothing: Fraction of the target that is distributed evenly over all labels.
        weights: Of shape (labels,), float32; None: all 1.

    Returns:
        A scalar.
    """
    if weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    return (losses * weights[labels]).mean()
