"""The metrics of a language model, weighted by token: loss, perplexity, next-token accuracy."""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from recipes.language_modeling.packing import IGNORED


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over all labeled tokens of -log p(token), in nats, without materializing a softmax over the vocabulary.

    Args:
        logits: Of shape (batch, tokens, vocabulary).
        labels: Of shape (batch, tokens), ``IGNORED`` where there is nothing to predict.

    Returns:
        A float32 scalar; 0 if no token is labeled.
    """
    return functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


class TokenMetrics(Metric):
    """Loss, perplexity and accuracy over all labeled tokens of all batches and processes.

    The sums of the batches are kept, and added up exactly at the end: the result does not depend on the number of
    processes, or on the order in which they finish.
    """

    full_state_update = False
    nll: list[Tensor]
    correct: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", [], dist_reduce_fx="cat")
        self.add_state("correct", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: Of shape (batch, tokens, vocabulary).
            labels: Of shape (batch, tokens), as for :func:`negative_log_likelihood`.
        """
        counted = labels != IGNORED
        self.nll.append(negative_log_likelihood(logits, labels))
        # Not in place: outside of `fit` the states are inference tensors, which cannot be updated in place later.
        self.correct = self.correct + ((logits.argmax(dim=-1) == labels) & counted).sum()
        self.tokens = self.tokens + counted.sum()

    def compute(self) -> dict[str, Tensor]:
        """``loss`` (nats per token), ``perplexity`` (its exponential), ``accuracy`` (fraction predicted correctly)."""
        total = math.fsum(dim_zero_cat(self.nll).tolist()) if len(self.nll) else 0.0
        tokens = int(self.tokens)
        loss = torch.tensor(total / tokens if tokens else math.nan, dtype=torch.float32, device=self.tokens.device)
        return {"loss": loss, "perplexity": loss.exp(), "accuracy": self.correct / self.tokens}
