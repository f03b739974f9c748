"""How a model would be divided over processes, and what is said where it cannot be."""

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from recipes.messages import RecipeError
from recipes.sharding.tensor_parallel import plan_of, refuse_uneven

SMALL = {"vocab_size": 12, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}


def llama(**changes: Any) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**{**SMALL, "num_attention_heads": 6, **changes}))


def test_matrices_of_blocks_embeddings_and_head_are_divided() -> None:
    plan = plan_of(llama(), 2)

    assert plan["model.layers.1.self_attn.q_proj"] == "colwise"
    assert plan["model.layers.0.mlp.down_proj"] == "rowwise"
    assert plan["lm_head"] == "colwise_gather_output"
    assert len(plan) == 2 * 7 + 2


@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_that_does_not_divide_stays_whole(tied: bool) -> None:
    plan = plan_of(llama(vocab_size=13, tie_word_embeddings=tied), 2)

    assert len(plan) == 2 * 7


def test_embeddings_with_a_padding_token_stay_whole_with_the_head_that_shares_them() -> None:
    assert "lm_head" in plan_of(llama(pad_token_id=0), 2)
    assert len(plan_of(llama(pad_token_id=0, tie_word_embeddings=True), 2)) == 2 * 7


def test_a_model_without_a_plan_is_refused_by_its_name() -> None:
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(hidden_size=4, num_attention_heads=1, intermediate_size=4))

    with pytest.raises(RecipeError, match="no plan to divide BertForSequenceClassification: use FSDP2"):
        plan_of(model, 2)


def test_a_plan_with_other_styles_is_refused() -> None:
    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig(**SMALL, num_attention_heads=2, num_key_value_heads=2))

    with pytest.raises(RecipeError, match="plan of MixtralForCausalLM divides it in ways that are not supported"):
        plan_of(model, 2)


@pytest.mark.parametrize(
    ("changes", "size", "what"),
    [
        ({}, 4, "num_attention_heads of LlamaForCausalLM, 6: use one that does \\(1, 2, 3, 6\\)"),
        ({"num_key_value_heads": 3}, 2, "num_key_value_heads of LlamaForCausalLM, 3"),
        ({"intermediate_size": 47}, 2, "the width of model.layers.0.mlp.gate_proj of LlamaForCausalLM, 47"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes: dict[str, int], size: int, what: str) -> None:
    model = llama(**changes)

    with pytest.raises(RecipeError, match=what):
        refuse_uneven(model, plan_of(model, size), size)
