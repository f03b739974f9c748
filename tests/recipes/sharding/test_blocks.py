"""The parts of a model that FSDP2 gathers one at a time."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from recipes.sharding.blocks import units


def llama(tied: bool) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8,
                hidden_size=4,
                intermediate_size=4,
                num_hidden_layers=3,
                num_attention_heads=1,
                tie_word_embeddings=tied,
            )
        )


@pytest.mark.parametrize("tied", [False, True])
def test_blocks_are_units_and_embeddings_and_head_unless_they_share_weights(tied: bool) -> None:
    model = llama(tied)

    found = units(model)

    ends = [] if tied else [model.lm_head, model.model.embed_tokens]
    assert [id(part) for part in found] == [id(part) for part in [*ends, *reversed(model.model.layers)]]


def test_an_encoder_is_divided_into_layers_and_embeddings() -> None:
    config = BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=2, num_attention_heads=1, intermediate_size=4, num_labels=2
    )
    with torch.device("meta"):
        model = BertForSequenceClassification(config)

    found = {id(part) for part in units(model)}

    assert found >= {id(layer) for layer in model.bert.encoder.layer}
    assert id(model.classifier) not in found


def test_a_model_that_is_not_from_transformers_is_divided_at_its_outermost_lists() -> None:
    inner = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([inner, nn.ReLU(), nn.Linear(2, 2)]))

    assert [id(part) for part in units(model)] == [id(model[1][2]), id(inner)]  # type: ignore[index]


def test_a_model_without_blocks_has_no_units() -> None:
    assert units(nn.Linear(2, 2)) == []
