"""``model.freeze``: frozen parameters do not change and have neither gradients nor state; all others are trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from recipes import LanguageModel, TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from recipes.training.freezing import freeze


def bert(layers: int) -> nn.Module:
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=16
    )
    with torch.device("meta"):
        return BertForSequenceClassification(config)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(0, layers))))
def test_embeddings_and_the_first_layers_are_frozen_and_nothing_else(sizes: tuple[int, int]) -> None:
    layers, number = sizes
    model = bert(layers)

    freeze(model, number or "embeddings")

    for name, parameter in model.named_parameters():
        layer = next((int(part) for part in name.split(".") if part.isdecimal()), None)
        below = ".embeddings." in name or (layer is not None and layer < number)
        assert parameter.requires_grad is not below, name


def test_more_layers_than_the_model_has_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.freeze is 4, but Bert.* has 3 layers: give embeddings or a number"):
        freeze(bert(3), 4)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.freeze is embeddings, but Linear has no list of layers"):
        freeze(nn.Linear(2, 2), "embeddings")


def test_a_model_from_scratch_has_nothing_to_keep() -> None:
    with pytest.raises(RecipeError, match=r"model\.freeze is embeddings, but model\.pretrained is null"):
        LanguageModel(architecture={"model_type": "gpt2"}, freeze="embeddings")


@pytest.mark.parametrize("pooling", [None, pytest.param("mean", marks=pytest.mark.slow)])
def test_frozen_parameters_stay_as_they_were_and_have_no_state(pooling: Any, tiny_model: Path, wires_csv: Path) -> None:
    seed_everything(1, verbose=False)
    module: Any = TextClassifier(str(tiny_model), pooling=pooling, freeze="embeddings")
    data = TextClassificationData("headline", "desk", str(wires_csv), max_length=16, batch_size=12)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=3, limit_val_batches=0, **quiet)
    before: dict[str, torch.Tensor] = {}
    module.on_train_start = lambda: before.update({k: v.clone() for k, v in module.state_dict().items()})

    trainer.fit(module, data)

    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in module.named_parameters() if "embeddings" in name}
    changed = {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name, _ in module.named_parameters()} - frozen
    (optimizer,) = trainer.optimizers
    assert len(optimizer.state) == len(changed)
    estimated: Any = TextClassifier(str(tiny_model), pooling=pooling, freeze="embeddings")
    estimated.build_on_meta(data)
    assert {name for name, parameter in estimated.named_parameters() if not parameter.requires_grad} == frozen
