"""A model's parameters are split into blocks: layers, modules, and parameters that several of them share."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForMaskedLM, LlamaConfig, LlamaForCausalLM, T5Config
from transformers import T5ForConditionalGeneration as T5

from lightning_adafactor.gradient_release import find_blocks
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape


def names(model: nn.Module, by: str = "block") -> list[str]:
    return sorted(block.name for block in find_blocks(model, by))


def llama(**options: object) -> nn.Module:
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, **options))


def test_a_layer_is_a_block_and_what_is_left_is_split_by_module() -> None:
    assert names(llama()) == ["lm_head", "model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"]


def test_a_tied_weight_is_a_block_of_its_own() -> None:
    assert names(llama(tie_word_embeddings=True)) == [
        "model.embed_tokens.weight",
        "model.layers.0",
        "model.layers.1",
        "model.norm",
    ]


def test_lists_within_layers_do_not_split_them() -> None:
    with torch.device("meta"):
        model = T5(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2))
    found = names(model)
    assert {f"{part}.block.{i}" for part in ("encoder", "decoder") for i in (0, 1)} <= set(found)
    assert not [name for name in found if ".layer." in name]


def test_layers_that_are_one_module_are_one_block() -> None:
    config = AlbertConfig(vocab_size=20, embedding_size=8, hidden_size=8, num_attention_heads=2, intermediate_size=16)
    with torch.device("meta"):
        model = AlbertForMaskedLM(config)
    assert "albert.encoder.albert_layer_groups.0" in names(model)


def test_the_children_of_a_sequential_are_blocks_unless_it_holds_lists() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(2)))
    assert names(nn.Sequential(nn.Embedding(3, 2), layers)) == ["0", "1.0.0", "1.0.1", "1.1.0", "1.1.1"]
    encoder = nn.Module()
    encoder.layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))])
    assert names(nn.Sequential(encoder, nn.Linear(2, 1))) == ["0.layers.0", "1"]


def test_by_parameter_each_one_is_a_block() -> None:
    model = models.model(Shape(tied=True))
    assert names(model, "parameter") == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("by", ["block", "parameter"])
@pytest.mark.parametrize("shape", [Shape(), Shape(tied=True, shared_layers=True, experts=True), Shape(frozen=True)])
def test_each_trainable_parameter_is_in_one_block(shape: Shape, by: str) -> None:
    model = models.model(shape)
    found = [param for block in find_blocks(model, by) for param in block.params]
    assert len(found) == len(set(found))
    assert set(found) == {param for param in model.parameters() if param.requires_grad}


def test_another_granularity_is_an_error() -> None:
    with pytest.raises(ValueError, match="by should be 'block' or 'parameter' but is: 'layer'"):
        find_blocks(models.model(Shape()), "layer")
