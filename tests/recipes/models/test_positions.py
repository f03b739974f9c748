"""How many tokens a model reads, against the model itself."""

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    RobertaConfig,
    RobertaModel,
    XLNetConfig,
)

from recipes.models.positions import positions_of


@pytest.mark.parametrize(
    ("config", "model", "read"),
    [
        (RobertaConfig(max_position_embeddings=20, pad_token_id=1), RobertaModel, 18),
        (BertConfig(max_position_embeddings=20), BertModel, 20),
    ],
)
def test_a_model_reads_as_many_tokens_as_it_has_positions_for(config: Any, model: Any, read: int) -> None:
    config.update({"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8})
    encoder = model(config)

    assert positions_of(config) == read
    encoder(torch.full((1, read), 5))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(torch.full((1, read + 1), 5))


def test_a_model_without_positions_has_no_limit() -> None:
    assert positions_of(XLNetConfig()) is None


def test_relative_positions_alone_have_no_limit() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = DebertaV2Config(
        **sizes, max_position_embeddings=20, position_biased_input=False, relative_attention=True, position_buckets=4
    )
    assert positions_of(config) is None
    DebertaV2Model(config)(torch.full((1, 30), 5))
