"""``model.pooling``: the encoder's weights are kept, the folder is loaded again, and the first token has no layer."""

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer, seed_everything
from transformers import ModernBertConfig, T5Config, pipeline

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from recipes.text_classification.pooling import with_mean_pooling


def adafactor(params: Any) -> Adafactor:
    return Adafactor(params, lr=3e-2, scale_parameter=False, relative_step=False)


def data_of(file: Path, **arguments: Any) -> TextClassificationData:
    return TextClassificationData("headline", "desk", str(file), max_length=16, batch_size=12, **arguments)


def trainer_of(**arguments: Any) -> Trainer:
    seed_everything(1, verbose=False)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **options, **arguments)


def fit(pretrained: Path, file: Path, **arguments: Any) -> TextClassifier:
    model = TextClassifier(str(pretrained), adafactor, pooling="mean", **arguments)
    trainer_of(max_steps=2, limit_val_batches=0).fit(model, data_of(file))
    return model


def test_the_encoders_weights_are_kept_and_its_layer_for_the_first_token_left_out(
    tiny_model: Path, wires_csv: Path
) -> None:
    models = []
    for pooling in (None, "mean"):
        module: Any = TextClassifier(str(tiny_model), adafactor, pooling=pooling)
        trainer_of(max_steps=0).fit(module, data_of(wires_csv))
        models.append(module.model)

    own, mean = models
    expected = {name: value for name, value in own.bert.state_dict().items() if not name.startswith("pooler.")}
    assert mean.encoder.state_dict().keys() == expected.keys()
    assert all(torch.equal(mean.encoder.state_dict()[name], value) for name, value in expected.items())


def test_the_folder_of_a_run_is_loaded_without_naming_the_pooling(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = fit(tiny_model, wires_csv, dropout=0.25)
    model.save_pretrained(tmp_path / "model")
    caplog.clear()

    again = TextClassifier(str(tmp_path / "model"), adafactor, predictions=str(tmp_path / "predicted.csv"))
    with caplog.at_level("INFO"):
        trainer_of().predict(again, data_of(wires_csv, predict=str(wires_csv)))

    assert model.model is not None
    assert again.model is not None
    assert again.model.state_dict().keys() == model.model.state_dict().keys()
    assert all(torch.equal(again.model.state_dict()[name], value) for name, value in model.model.state_dict().items())
    assert again.model.dropout.p == 0.25
    assert "random" not in caplog.text
    predicted = pandas.read_csv(tmp_path / "predicted.csv")["predicted"].tolist()
    classify = pipeline("text-classification", model=str(tmp_path / "model"))
    assert [result["label"] for result in classify(wires["headline"].tolist(), truncation=True)] == predicted


def test_a_bfloat16_classifier_is_bfloat16_throughout(tiny_model: Path, wires_csv: Path) -> None:
    model = fit(tiny_model, wires_csv, dtype="bfloat16")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_without_training_a_trained_head_is_not_replaced(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    own = TextClassifier(str(tiny_model), adafactor)
    trainer_of(max_steps=0).fit(own, data_of(wires_csv))
    own.save_pretrained(tmp_path / "model")

    with pytest.raises(RecipeError, match=r"model\.pooling is mean, but .* another head: omit model\.pooling"):
        trainer_of().predict(
            TextClassifier(str(tmp_path / "model"), pooling="mean", predictions=str(tmp_path / "p.csv")),
            data_of(wires_csv, predict=str(wires_csv)),
        )


def test_an_architecture_with_a_setting_of_its_own_keeps_its_class() -> None:
    config = ModernBertConfig()

    assert with_mean_pooling(config, "modern") is config
    assert config.classifier_pooling == "mean"


def test_an_encoder_with_a_decoder_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"not supported for 'small' \(t5\)"):
        with_mean_pooling(T5Config(), "small")


def test_the_estimate_has_the_parameters_of_the_run(tiny_model: Path, wires_csv: Path) -> None:
    trained = fit(tiny_model, wires_csv)
    estimated = TextClassifier(str(tiny_model), adafactor, pooling="mean")
    estimated.build_on_meta(data_of(wires_csv))

    shapes = {name: parameter.shape for name, parameter in trained.named_parameters()}
    assert {name: parameter.shape for name, parameter in estimated.named_parameters()} == shapes
