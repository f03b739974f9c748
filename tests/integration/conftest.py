"""A tiny real model and a handful of batches, the same for every trainer."""

from collections.abc import Callable, Iterator

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import Dataset

VOCABULARY = 40


class Texts(Dataset[dict[str, torch.Tensor]]):
    """Eight texts of random token ids and random labels, repeated: few enough to be memorized."""

    def __init__(self, length: int) -> None:
        random = torch.Generator().manual_seed(1)
        tokens = torch.randint(1, VOCABULARY, (8, 8), generator=random)
        labels = torch.randint(2, (8,), generator=random)
        self.items = [{"input_ids": ids, "labels": label} for ids, label in zip(tokens, labels, strict=True)]
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.items[index % len(self.items)]


@pytest.fixture
def texts() -> Texts:
    """48 items: 12 batches of 4."""
    return Texts(48)


@pytest.fixture
def new_model() -> Callable[[], transformers.PreTrainedModel]:
    """Makes a one-layer Llama classifier, each time with the same weights.

    It has no biases: the gradient of an attention's key bias consists of rounding errors, which depend on the order of
    summation and which Adafactor would scale to updates of the usual size.
    """

    def make() -> transformers.PreTrainedModel:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=8,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.3,
            pad_token_id=0,
            use_cache=False,
        )
        return transformers.LlamaForSequenceClassification(config).train()

    return make


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Resets accelerate's process-wide singletons, which hold precision and devices, after each test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
