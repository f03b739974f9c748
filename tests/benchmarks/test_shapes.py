"""The written-out shapes are those of the models."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from benchmarks.shapes import MODELS, reduced
from lightning_adafactor import adamw_state

TINYLLAMA = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
}
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "tie_word_embeddings": True,
}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
NAMES = ["distilbert", "minilm", "smollm2", "gpt2", "llama1b"]


def real_model(name: str) -> PreTrainedModel:
    with torch.device("meta"):
        if name == "distilbert":
            return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=28996))
        if name == "gpt2":
            return GPT2LMHeadModel(GPT2Config())
        if name == "minilm":
            return BertForSequenceClassification(BertConfig(**MINILM, num_labels=8))
        if name == "smollm2":
            return LlamaForCausalLM(LlamaConfig(**SMOLLM2))
        return LlamaForCausalLM(LlamaConfig(**TINYLLAMA))


@pytest.mark.parametrize("name", NAMES)
def test_names_and_sizes_are_those_of_the_real_model_in_order(name: str) -> None:
    expected = [(key, tuple(value.shape)) for key, value in real_model(name).named_parameters()]
    assert [(shape.name, shape.size) for shape in MODELS[name].shapes] == expected


def test_distilbert_is_the_one_of_the_published_table() -> None:
    parameters = [torch.empty(shape.size, device="meta") for shape in MODELS["distilbert"].shapes]
    size = adamw_state([parameter.requires_grad_() for parameter in parameters])
    assert (size.elements, int(size.megabytes + 0.5)) == (131_566_188, 502)


def test_word_embeddings_are_lookup_tables_unless_they_are_the_output_layer_too() -> None:
    tables = {name: [s.name for s in model.shapes if s.lookup] for name, model in MODELS.items()}
    assert tables["distilbert"] == ["distilbert.embeddings.word_embeddings.weight"]
    assert tables["gpt2"] == tables["smollm2"] == []
    assert tables["llama1b"] == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("name", NAMES)
def test_reduced_model_has_every_kind_of_shape_once_and_is_small(name: str) -> None:
    small = reduced(MODELS[name]).shapes
    kinds = {(shape.size, shape.lookup) for shape in MODELS[name].shapes}
    assert len(small) == len({(shape.size, shape.lookup) for shape in small}) == len(kinds)
    assert sum(torch.Size(shape.size).numel() for shape in small) < 12e6
