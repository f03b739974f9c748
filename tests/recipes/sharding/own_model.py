"""A task whose model is not from transformers; the tests import it by its name."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.recipe import Recipe
from recipes.text_classification.data import TextClassificationData


class Bag(nn.Module):
    """The mean of the embeddings, blocks, and two layers that share their weights.

    Args:
        vocabulary: Number of tokens.
        labels: Number of labels.
    """

    def __init__(self, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, labels)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens).mean(1)
        for layer in (*self.blocks, self.first, self.second):
            hidden = torch.tanh(layer(hidden))
        return self.head(hidden)


class BagClassifier(Recipe[TextClassificationData]):
    """Classifies bags of tokens."""

    data_class = TextClassificationData

    def make_model(self, data: TextClassificationData, weights: bool) -> nn.Module:
        return Bag(len(data.tokenizer), len(data.labels))

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        assert self.model is not None
        labels = batch["labels"]  # -1 where another process has a row and this one has none
        total = functional.cross_entropy(self.model(batch["input_ids"]), labels, ignore_index=-1, reduction="sum")
        return total / (labels >= 0).sum().clamp(min=1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), sync_dist=True)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        self.log("test/loss", self._loss(batch), sync_dist=True)
