"""The classifier learns, counts what scikit-learn counts, and leaves a model that transformers loads."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import accuracy_score, f1_score
from transformers import Adafactor as TheirAdafactor
from transformers import (
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    pipeline,
)

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.cli.main import main
from recipes.messages import RecipeError


def data_of(wires_csv: Path, **arguments: Any) -> TextClassificationData:
    defaults = {"text": "headline", "label": "desk", "train": str(wires_csv), "test": 0.2, "max_length": 16}
    return TextClassificationData(**{**defaults, "batch_size": 12, **arguments})


def trainer_of(**arguments: Any) -> Trainer:
    defaults = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(**{**defaults, "accelerator": "cpu", "enable_model_summary": False, **arguments})


def adafactor(params: Any) -> Adafactor:
    return Adafactor(params, lr=3e-2, scale_parameter=False, relative_step=False)


def fit(model: TextClassifier, data: TextClassificationData, **arguments: Any) -> Trainer:
    seed_everything(1, verbose=False)
    trainer = trainer_of(**arguments)
    trainer.fit(model, data)
    return trainer


@dataclass(frozen=True)
class FineTuned:
    """A classifier trained for eight epochs: its metrics, and the folder that it was saved to."""

    metrics: dict[str, float]
    folder: Path


@pytest.fixture(scope="module")
def fine_tuned(tiny_model: Path, wires_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """Trained once for all tests."""
    model = TextClassifier(str(tiny_model), adafactor)
    trainer = fit(model, data_of(wires_csv), max_epochs=8)
    validated = {name: float(value) for name, value in trainer.callback_metrics.items()}
    folder = tmp_path_factory.mktemp("fine-tuned")
    model.save_pretrained(folder)
    (tested,) = trainer.test(model, trainer.datamodule, verbose=False)
    return FineTuned({**validated, **tested}, folder)


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


def test_a_fine_tuned_model_is_loaded_by_pipeline_with_its_labels(fine_tuned: FineTuned) -> None:
    classify = pipeline("text-classification", model=str(fine_tuned.folder))

    assert [result["label"] for result in classify(["gold iron tin gold", "pear apple plum", "saw awl saw"])] == [
        "metal",
        "fruit",
        "tool",
    ]
    assert classify("gold " * 100, truncation=True)[0]["label"] == "metal"


def test_a_fine_tuned_model_keeps_its_head(
    fine_tuned: FineTuned, wires_csv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = TextClassifier(str(fine_tuned.folder), adafactor)
    (result,) = trainer_of().test(again, data_of(wires_csv), verbose=False)

    assert result["test/accuracy"] == pytest.approx(fine_tuned.metrics["test/accuracy"])
    assert "random" not in caplog.text


def test_other_labels_give_a_fine_tuned_model_a_new_head(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    model = TextClassifier(str(tiny_model), adafactor)
    fit(model, data_of(wires_csv), max_steps=1)
    model.save_pretrained(tmp_path / "model")
    wires.assign(desk=[str(number % 5) for number in range(120)]).to_csv(tmp_path / "five.csv", index=False)

    again = TextClassifier(str(tmp_path / "model"), adafactor)
    fit(again, data_of(tmp_path / "five.csv"), max_steps=1)

    assert again.model is not None
    assert list(again.model.config.id2label.values()) == ["0", "1", "2", "3", "4"]
    assert again.model.classifier.weight.shape[0] == 5


def test_other_labels_of_the_same_number_do_not_get_the_outputs_of_the_old_ones(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = TextClassifier(str(tiny_model), adafactor)
    fit(model, data_of(wires_csv), max_steps=1)
    model.save_pretrained(tmp_path / "model")
    wires.assign(desk=wires.desk + "s").to_csv(tmp_path / "plural.csv", index=False)

    again = TextClassifier(str(tmp_path / "model"), adafactor)
    fit(again, data_of(tmp_path / "plural.csv"), max_steps=0)

    assert "was trained on the labels 'fruit', 'metal', 'tool', and data.train has 'fruits'" in capsys.readouterr().err
    assert model.model is not None
    assert again.model is not None
    assert not torch.equal(again.model.classifier.weight, model.model.classifier.weight)
    assert torch.equal(again.model.classifier.bias, torch.zeros(3))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    def run(epochs: int, **arguments: Any) -> tuple[TextClassifier, Trainer]:
        seed_everything(1, verbose=False)
        model = TextClassifier(str(tiny_model), adafactor, schedule="constant", dropout=0.0)
        checkpoint = ModelCheckpoint(tmp_path / str(epochs), save_last=True)
        trainer = trainer_of(max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoint])
        trainer.fit(model, data_of(wires_csv), weights_only=True, **arguments)
        return model, trainer

    whole, _ = run(2)
    _, half = run(1)
    resumed, trainer = run(2, ckpt_path=half.checkpoint_callback.last_model_path)

    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
    history = next(c for c in trainer.callbacks if type(c).__name__ == "RunHistory")
    assert [step for step, _ in history.evaluations] == [7, 14]


def test_a_run_resumed_within_an_epoch_ends_where_an_uninterrupted_one_does(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    def run(name: str, **arguments: Any) -> TextClassifier:
        seed_everything(1, verbose=False)
        model = TextClassifier(str(tiny_model), adafactor, schedule="constant", dropout=0.0)
        checkpoint = ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_train_steps=3)
        trainer = trainer_of(max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint])
        trainer.fit(model, data_of(wires_csv), weights_only=True, **arguments)
        return model

    whole = run("whole")
    resumed = run("resumed", ckpt_path=next((tmp_path / "whole").glob("*step=3.ckpt")))

    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]] = {
    "no such model": ({"pretrained": "no/such"}, {}, {}, ["model.pretrained", "no/such", "network"]),
    "folder without weights": ({"pretrained": "bare"}, {}, {}, ["model.pretrained", "'bare'", "no weights"]),
    "pickled weights": ({"pretrained": "pickled"}, {}, {}, ["model.pretrained", "pickled weights"]),
    "damaged weights": ({"pretrained": "damaged"}, {}, {}, ["model.pretrained", "'damaged'"]),
    "another tokenizer": ({}, {"tokenizer": "wordy"}, {}, ["data.tokenizer", "21 tokens", "embeds 20"]),
    "texts too long": ({}, {"max_length": 64}, {}, ["data.max_length", "64", "32"]),
    "no end": ({}, {}, {"max_epochs": -1, "max_steps": -1}, ["model.schedule", "trainer.max_epochs"]),
    "no rate": (
        {"optimizer": TheirAdafactor},
        {},
        {},
        ["model.schedule", "null"],
    ),
    "a checkpoint as the model": ({"pretrained": "last.ckpt"}, {}, {}, ["model.pretrained", "--ckpt_path"]),
    "a run as the model": ({"pretrained": "run"}, {}, {}, ["'run' is the folder of a run", "run/model"]),
    "wrong schedule arguments": (
        {"schedule_args": {"cycles": 2}},
        {},
        {},
        ["model.schedule_args", "'linear'"],
    ),
}


@pytest.mark.parametrize(("model", "data", "trainer", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_a_sentence(
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    words: list[str],
    tiny_model: Path,
    wires_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bare", "pickled", "damaged"):
        shutil.copytree(tiny_model, folder)
        Path(folder, "model.safetensors").unlink()
    shutil.copytree(tiny_model, "run/model")
    torch.save({"state_dict": {}}, "last.ckpt")
    torch.save({}, "pickled/pytorch_model.bin")
    Path("damaged/model.safetensors").write_bytes(b"\x00" * 64)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained("wordy")

    with pytest.raises(RecipeError) as raised:
        fit(
            TextClassifier(**{"pretrained": str(tiny_model), "optimizer": adafactor, **model}),
            data_of(wires_csv, **data),
            **trainer,
        )

    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_testing_without_a_test_split_is_reported_in_a_sentence(tiny_model: Path, wires_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.test is null"):
        trainer_of().test(TextClassifier(str(tiny_model)), data_of(wires_csv, test=None))


CONFIG = """
model:
  class_path: recipes.TextClassifier
  init_args:
    pretrained: {model}
    optimizer:
      class_path: lightning_adafactor.Adafactor
      init_args: {{lr: 0.03, scale_parameter: false, relative_step: false}}
data:
  class_path: recipes.TextClassificationData
  init_args: {{text: headline, label: desk, train: {data}, test: 0.2, max_length: 16, batch_size: 12}}
trainer: {{max_epochs: 8, accelerator: cpu}}
"""


def test_the_command_line_fits_tests_and_predicts(
    tiny_model: Path,
    wires: pandas.DataFrame,
    wires_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("topics.yaml").write_text(CONFIG.format(model=tiny_model, data=wires_csv), encoding="utf-8")

    assert main(["fit", "--config", "topics.yaml"]) == 0
    run = Path("runs/topics/version_0")
    assert main(["test", "--config", "topics.yaml", "--ckpt_path", str(run)]) == 0
    assert main(["predict", "-c", "topics.yaml", "--ckpt_path", str(run), "--data.predict", str(wires_csv)]) == 0

    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["metrics"]["test/accuracy"] > 0.9
    tested = pandas.read_csv("runs/topics/version_1/metrics.csv")
    assert tested["test/accuracy"].tolist() == pytest.approx([report["metrics"]["test/accuracy"]])
    predicted = pandas.read_csv("runs/topics/version_2/predictions.csv")
    assert predicted["headline"].tolist() == wires["headline"].tolist()
    assert (predicted["predicted"] == wires["desk"]).mean() > 0.9
    classify = pipeline("text-classification", model=str(run / "model"))
    alone = [result["label"] for result in classify(wires["headline"].tolist(), truncation=True)]
    assert alone == predicted["predicted"].tolist()


@pytest.mark.slow
def test_two_processes_fit_and_predict_as_one(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "topics.yaml").write_text(CONFIG.format(model=tiny_model, data=wires_csv), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}

    for command in (["fit"], ["predict", "--ckpt_path=runs/topics/version_0", f"--data.predict={wires_csv}"]):
        shared = [
            "--config=topics.yaml",
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
            "--data.batch_size=6",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "recipes", command[0], *shared, *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    run = tmp_path / "runs/topics/version_0"
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 56  # 84 rows by 2 x 6, 8 times
    predicted = pandas.read_csv(tmp_path / "runs/topics/version_1/predictions.csv")
    assert predicted["headline"].tolist() == wires["headline"].tolist()
    classify = pipeline("text-classification", model=str(run / "model"))
    alone = [result["label"] for result in classify(wires["headline"].tolist(), truncation=True)]
    assert predicted["predicted"].tolist() == alone


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


def test_a_checkpoint_of_other_labels_is_refused(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    def run(file: Path, command: str, **arguments: Any) -> Trainer:
        data = TextClassificationData("headline", "desk", str(file), validation=0.2, test=str(file), max_length=16)
        trainer = Trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu", max_steps=1
        )
        getattr(trainer, command)(TextClassifier(str(tiny_model)), datamodule=data, **arguments)
        return trainer

    run(wires_csv, "fit").save_checkpoint(tmp_path / "a.ckpt")
    wires.assign(desk=wires["desk"].map({"fruit": "A", "metal": "B", "tool": "C"})).to_csv(tmp_path / "b.csv")

    run(wires_csv, "test", ckpt_path=str(tmp_path / "a.ckpt"))
    for command in ("test", "fit"):
        with pytest.raises(RecipeError, match="trained on the labels 'fruit', 'metal', 'tool'"):
            run(tmp_path / "b.csv", command, ckpt_path=str(tmp_path / "a.ckpt"))
