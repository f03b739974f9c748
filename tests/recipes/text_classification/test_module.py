"""The classifier learns, counts what scikit-learn counts, and is built and trained as its arguments say."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from tests.recipes.text_classification.trainings import FineTuned, adafactor, data_of, fit


def test_it_learns_to_classify_the_desks(fine_tuned: FineTuned) -> None:
    assert fine_tuned.metrics["val/f1"] > 0.9
    assert fine_tuned.metrics["test/accuracy"] > 0.9


def test_accuracy_is_micro_and_f1_macro_as_scikit_learn_counts_them(tiny_model: Path, wires_csv: Path) -> None:
    data = data_of(wires_csv, eval_batch_size=5)
    model = TextClassifier(str(tiny_model), adafactor)
    trainer = fit(model, data, max_steps=3)
    (result,) = trainer.test(model, data, verbose=False)
    true, predicted, losses = [], [], []
    model.eval()
    for batch in data.test_dataloader():
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch)
        true += labels.tolist()
        predicted += logits.argmax(dim=-1).tolist()
        losses += torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()

    assert len(set(predicted)) < 3, "the case is meant to have a label that is never predicted"
    assert result["test/accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert result["test/f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert result["test/loss"] == pytest.approx(sum(losses) / len(losses))


def test_dropout_is_on_while_training_and_can_be_set(tiny_model: Path, wires_csv: Path) -> None:
    model = TextClassifier(str(tiny_model), adafactor, dropout=0.25)

    fit(model, data_of(wires_csv), max_steps=1)

    assert model.model is not None
    layers = [module for module in model.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert layers
    assert all(layer.training and layer.p == 0.25 for layer in layers)


def test_dropout_before_the_head_of_distilbert_can_be_set_too(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    DistilBertModel(config).save_pretrained(tmp_path / "model")
    model = TextClassifier(str(tmp_path / "model"), adafactor, dropout=0.25)

    fit(model, data_of(wires_csv), max_steps=1)

    assert model.model is not None
    assert {layer.p for layer in model.model.modules() if isinstance(layer, torch.nn.Dropout)} == {0.25}


SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "albert": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "embedding_size": 8},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "funnel": {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "block_sizes": [1], "activation_dropout": 0.25},
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16},
    "modernbert": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "gpt_neo": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    "xlm": {"emb_dim": 16, "n_layers": 1, "n_heads": 2},
}


@pytest.mark.parametrize("kind", SIZES)
def test_dropout_can_be_set_whatever_the_architecture_calls_it(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SIZES[kind]).save_pretrained(tmp_path)
    data: Any = SimpleNamespace(labels=["a", "b"], tokenizer=tokenizer, max_length=16)

    config = TextClassifier(str(tmp_path), dropout=0.25).model_config(data)

    model = AutoModelForSequenceClassification.from_config(config)
    assert {layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)} == {0.25}


def test_dropout_that_a_model_does_not_have_is_refused(
    tiny_model: Path, wires_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.text_classification.module.DROPOUTS", ("unheard_of",))

    with pytest.raises(RecipeError, match=r"model\.dropout is 0\.25, but .* \(bert\) has no dropout"):
        fit(TextClassifier(str(tiny_model), adafactor, dropout=0.25), data_of(wires_csv), max_steps=1)


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_parameters_are_held_in_the_dtype_asked_for(
    name: Any, dtype: torch.dtype, tiny_model: Path, wires_csv: Path
) -> None:
    model = TextClassifier(str(tiny_model), adafactor, dtype=name)

    fit(model, data_of(wires_csv), max_steps=1)

    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_randomly_initialized_parameters_are_reported(
    tiny_model: Path, wires_csv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fit(TextClassifier(str(tiny_model), adafactor), data_of(wires_csv), max_steps=1)

    assert "randomly initialized: classifier.bias, classifier.weight." in caplog.text


def test_adafactor_with_a_learning_rate_of_its_own_is_the_default(tiny_model: Path, wires_csv: Path) -> None:
    trainer = fit(TextClassifier(str(tiny_model)), data_of(wires_csv), max_steps=1)

    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, Adafactor)
    assert {(group["scale_parameter"], group["relative_step"]) for group in optimizer.param_groups} == {(False, False)}


def test_biases_and_norms_are_not_decayed_and_frozen_parameters_left_out(tiny_model: Path, wires_csv: Path) -> None:
    class Frozen(TextClassifier):
        def configure_model(self) -> None:
            super().configure_model()
            self.model.bert.embeddings.requires_grad_(False)

    model = Frozen(str(tiny_model), lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1))
    trainer = fit(model, data_of(wires_csv), max_steps=1)

    names = {id(parameter): name for name, parameter in model.model.named_parameters()}
    decayed, spared = (
        {names[id(parameter)] for parameter in group["params"]} for group in trainer.optimizers[0].param_groups
    )
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.1, 0.0]
    assert all(name.endswith(".weight") and "LayerNorm" not in name for name in decayed)
    assert all(name.endswith(".bias") or "LayerNorm" in name for name in spared)
    assert decayed | spared == {name for name in names.values() if "embeddings" not in name}


def learning_rates(model: TextClassifier, data: TextClassificationData, steps: int) -> list[float]:
    rates: list[float] = []

    class Recorder(ModelCheckpoint):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(
        model,
        data,
        max_steps=steps,
        max_epochs=-1,
        enable_checkpointing=True,
        callbacks=[Recorder(save_top_k=0)],
    )
    return rates


def sgd(params: Any) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=1.0)


@pytest.mark.parametrize("warmup", [0.2, 2])
def test_the_rate_rises_and_falls_in_a_line_step_by_step(warmup: float, tiny_model: Path, wires_csv: Path) -> None:
    model = TextClassifier(str(tiny_model), sgd, schedule="linear", warmup=warmup)

    rates = learning_rates(model, data_of(wires_csv), 10)

    assert rates == pytest.approx([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_without_a_schedule_the_rate_is_the_optimizers_own(tiny_model: Path, wires_csv: Path) -> None:
    model = TextClassifier(str(tiny_model), sgd, schedule=None)

    assert learning_rates(model, data_of(wires_csv), 3) == [1.0, 1.0, 1.0]


def test_schedule_arguments_reach_the_schedule(tiny_model: Path, wires_csv: Path) -> None:
    model = TextClassifier(
        str(tiny_model), sgd, schedule="cosine_with_min_lr", warmup=0, schedule_args={"min_lr_rate": 0.5}
    )

    assert min(learning_rates(model, data_of(wires_csv), 6)) > 0.5


def test_a_decoder_that_pads_with_another_token_than_its_tokenizer_gives_the_same_alone_and_in_a_batch(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=5,
        num_labels=3,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    probabilities = []
    for texts in (["apple"], ["apple", "iron gold tin saw file"]):
        (tmp_path / f"{len(texts)}.csv").write_text("\n".join(["headline", *texts]) + "\n", encoding="utf-8")
        data = TextClassificationData(
            "headline", "desk", str(wires_csv), predict=str(tmp_path / f"{len(texts)}.csv"), max_length=16
        )
        seed_everything(0, verbose=False)
        trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
        module = TextClassifier(str(tmp_path), predictions=str(tmp_path / f"p{len(texts)}.csv"))
        trainer.predict(module, data)
        assert module.model.config.pad_token_id == tokenizer.pad_token_id
        probabilities.append(pandas.read_csv(tmp_path / f"p{len(texts)}.csv").filter(like="p(").iloc[0].tolist())

    assert probabilities[0] == pytest.approx(probabilities[1], abs=2e-6)


def test_a_model_for_several_labels_is_saved_as_one_for_a_single_label(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = AutoConfig.from_pretrained(tiny_model)
    config.problem_type = "multi_label_classification"
    config.save_pretrained(tmp_path / "model")
    module = TextClassifier(str(tmp_path / "model"), adafactor)
    fit(module, data_of(wires_csv), max_steps=1)
    assert module.model.config.problem_type == "single_label_classification"


def test_a_decoder_predicts_a_batch_of_empty_texts(tiny_model: Path, wires_csv: Path) -> None:
    data = data_of(wires_csv)
    data.tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert data.collate([{"input_ids": [], "attention_mask": []}])["input_ids"].shape[1] > 0


def test_a_warm_up_that_never_ends_is_told(
    tiny_model: Path, wires_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(TextClassifier(str(tiny_model), adafactor, warmup=5), data_of(wires_csv), max_steps=2)
    assert "note: model.warmup is 5 steps and the training has 2" in capsys.readouterr().err
