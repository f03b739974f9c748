"""Which parameters count as hidden matrices."""

import pytest
import transformers
from torch import nn

from recipes.optimizers.hidden_matrices import KEY, marked, split_groups
from recipes.training.optimizer import parameter_groups

BERT = transformers.BertConfig(
    vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
LLAMA = transformers.LlamaConfig(
    vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)


def hidden_names(model: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = split_groups(parameter_groups(model), model)
    return {names[id(each)] for group in groups if group[KEY] for each in group["params"]}


def test_those_of_a_classifier_are_the_matrices_of_the_encoder_without_embeddings_and_head() -> None:
    model = transformers.BertForSequenceClassification(BERT)
    expected = {name for name, parameter in model.bert.named_parameters(prefix="bert") if parameter.ndim == 2}

    assert hidden_names(model) == {name for name in expected if "embeddings" not in name}
    assert "bert.encoder.layer.0.attention.self.query.weight" in hidden_names(model)


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_of_a_language_model_is_none_tied_or_not(tied: bool) -> None:
    LLAMA.tie_word_embeddings = tied
    names = hidden_names(transformers.LlamaForCausalLM(LLAMA))

    assert {name.rpartition(".")[0].rpartition(".")[2] for name in names} == {
        f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")
    }


def test_splitting_keeps_every_parameter_once_and_the_options_of_its_group() -> None:
    model = transformers.BertForSequenceClassification(BERT)
    groups = split_groups(parameter_groups(model), model)

    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(every) == sorted(id(parameter) for parameter in model.parameters())
    assert [(group[KEY], group.get("weight_decay")) for group in groups] == [(True, None), (False, None), (False, 0.0)]


def test_without_a_model_every_matrix_counts_unless_its_group_says_otherwise() -> None:
    layer, embedding = nn.Linear(2, 3), nn.Embedding(4, 2)

    matrices, vectors = marked(layer.parameters())
    (said,) = marked([{"params": embedding.weight, KEY: False}])

    assert (matrices["params"], matrices[KEY]) == ([layer.weight], True)
    assert (vectors["params"], vectors[KEY]) == ([layer.bias], False)
    assert (said["params"], said[KEY]) == ([embedding.weight], False)
