"""The layers of models, and where each parameter stands between the embeddings and the head."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from recipes.training.layers import layers, levels

SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig(num_hidden_layers=3, **SMALL),
    "distilbert": transformers.DistilBertConfig(n_layers=3, dim=8, n_heads=2, hidden_dim=16, vocab_size=20),
    "modernbert": transformers.ModernBertConfig(num_hidden_layers=3, **{**SMALL, "pad_token_id": 0}),
    "deberta": transformers.DebertaV2Config(
        num_hidden_layers=3, relative_attention=True, position_buckets=4, max_relative_positions=8, **SMALL
    ),
    "llama": transformers.LlamaConfig(num_hidden_layers=3, **SMALL),
    "gpt2": transformers.GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=20, pad_token_id=0),
    "xlm": transformers.XLMConfig(n_layers=3, emb_dim=8, n_heads=2, vocab_size=20),
}


def model_of(name: str) -> nn.Module:
    with torch.device("meta"):
        return transformers.AutoModelForSequenceClassification.from_config(CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_has_its_layers(name: str) -> None:
    assert len(layers(model_of(name))) == 3


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_are_below_the_layers_and_the_head_is_above(name: str) -> None:
    model = model_of(name)
    places, number = levels(model)

    by_name = dict(zip([name for name, _ in model.named_parameters()], places, strict=True))
    assert number == 3
    assert set(places) == {-1, 0, 1, 2, 3}
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    assert {by_name[name] for name in embeddings} == {-1}
    outside = [name for name in by_name if not name.startswith(f"{model.base_model_prefix}.")]
    assert {by_name[name] for name in outside} == {3}
    for name, place in by_name.items():
        digits = [int(part) for part in name.split(".") if part.isdecimal()]
        assert not digits or place == digits[0]


def test_a_decoders_layers_are_above_an_encoders() -> None:
    config = transformers.BartConfig(
        d_model=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        vocab_size=20,
    )
    with torch.device("meta"):
        model = transformers.BartForSequenceClassification(config)
    names = [name for name, _ in model.named_parameters()]
    places, number = levels(model)

    assert number == 4
    by_name = dict(zip(names, places, strict=True))
    assert by_name["model.encoder.layers.1.fc1.weight"] == 1
    assert by_name["model.decoder.layers.0.fc1.weight"] == 2
    assert by_name["model.shared.weight"] == -1
    assert by_name["classification_head.dense.weight"] == 4


def test_a_model_without_a_list_of_layers_has_none() -> None:
    assert layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []
