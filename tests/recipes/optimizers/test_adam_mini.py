"""Adam-mini's rule for each parameter."""

import pytest
import torch
import transformers
from torch import nn

from recipes.models.mean_pooling import MeanPoolingConfig, MeanPoolingForSequenceClassification
from recipes.training.optimizer import parameter_groups

pytest.importorskip("adam_mini", reason="needs the extra optimizers", exc_type=ImportError)
from recipes.optimizers.adam_mini import AdamMini

LLAMA = transformers.LlamaConfig(
    vocab_size=10,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=16,
)


def second_moments(model: nn.Module) -> dict[str, int]:
    """How many second moments each parameter has after a step."""
    optimizer = AdamMini(parameter_groups(model, AdamMini))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (state["v"] if "v" in state else state["vmean"]).numel()
        for parameter, state in optimizer.state.items()
    }


def test_heads_rows_and_norms_of_a_llama_have_one_second_moment_each() -> None:
    moments = second_moments(transformers.LlamaForCausalLM(LLAMA))

    layer = "model.layers.0"
    assert moments[f"{layer}.self_attn.q_proj.weight"] == 4  # heads
    assert moments[f"{layer}.self_attn.k_proj.weight"] == 2
    assert moments[f"{layer}.self_attn.v_proj.weight"] == 4  # rows: two heads of two elements
    assert moments[f"{layer}.mlp.up_proj.weight"] == 16
    assert moments["model.embed_tokens.weight"] == 10
    assert moments["model.norm.weight"] == 1


def test_a_bert_whose_names_mislead_the_library_trains_and_biases_have_one_for_each_element() -> None:
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    moments = second_moments(transformers.BertForSequenceClassification(config))

    assert moments["bert.embeddings.LayerNorm.weight"] == 1
    assert moments["bert.encoder.layer.0.attention.self.query.weight"] == 2
    assert moments["bert.encoder.layer.0.attention.output.dense.weight"] == 8
    assert moments["bert.encoder.layer.0.intermediate.dense.bias"] == 16


def test_the_heads_of_an_encoder_whose_outputs_are_averaged_have_one_second_moment_each() -> None:
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    moments = second_moments(MeanPoolingForSequenceClassification(MeanPoolingConfig(config)))

    assert moments["encoder.encoder.layer.0.attention.self.query.weight"] == 2


def test_the_names_of_its_groups_are_unique() -> None:
    model = transformers.LlamaForCausalLM(LLAMA)
    names = [group["name"] for group in AdamMini(parameter_groups(model, AdamMini)).param_groups]

    assert names == ["linear", "query_key", "norm_undecayed"]


def test_parameters_without_a_model_follow_their_shape() -> None:
    layer = nn.Linear(3, 2)
    optimizer = AdamMini(layer.parameters())

    assert [(group["name"], len(group["params"])) for group in optimizer.param_groups] == [("linear", 1), ("bias", 1)]
