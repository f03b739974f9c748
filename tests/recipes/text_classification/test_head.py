"""The head: a logistic regression on the encoder's outputs, fitted before the training and not again on resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from recipes.text_classification import module as module_file
from recipes.text_classification.head import C, fit, initialize_head, inputs_of, output_layers, some_of_each
from recipes.text_classification.loss import training_loss


def adafactor(params: Any) -> Adafactor:
    return Adafactor(params, lr=1e-3, scale_parameter=False, relative_step=False)


def trained(pretrained: Path, file: Path, ckpt_path: Path | None = None, **arguments: Any) -> TextClassifier:
    """A classifier after no step, or as many as ``max_steps`` says."""
    steps, fast = arguments.pop("max_steps", 0), arguments.pop("fast_dev_run", False)
    seed_everything(1, verbose=False)
    model = TextClassifier(str(pretrained), adafactor, **arguments)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        fast_dev_run=fast,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )
    data = TextClassificationData("headline", "desk", str(file), max_length=16, batch_size=12)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    if ckpt_path is None and not fast:
        trainer.save_checkpoint(file.parent / "saved.ckpt")
    return model


def test_of_many_texts_some_of_each_label_are_taken_whatever_their_order() -> None:
    labels = [0, 1] * 500 + [2, 2, 2]

    rows = some_of_each(labels, 100)

    assert rows == sorted(set(rows)) == some_of_each(labels, 100)
    assert len(rows) == 100
    counts = [sum(labels[row] == label for row in rows) for label in range(3)]
    assert counts[2] == 3
    assert min(counts[:2]) >= 30
    assert some_of_each(labels, 1003) == list(range(1003))


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_the_layer_is_scikit_learns_logistic_regression(weights: list[float] | None) -> None:
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(20)
    standard = torch.randn(60, 5) + labels.unsqueeze(1)
    standard = (standard - standard.mean(0)) / (standard - standard.mean(0)).square().mean().sqrt()
    features = 1e-3 * standard + 7  # neither the scale nor the place of the features counts
    layer = nn.Linear(5, 3)

    reached = fit(layer, features, labels, 0.0, None if weights is None else torch.tensor(weights))

    by_label = None if weights is None else dict(enumerate(weights))
    expected: Any = LogisticRegression(C=C, class_weight=by_label, tol=1e-8, max_iter=1000).fit(standard, labels)
    found = torch.softmax(layer(features), -1).detach()
    torch.testing.assert_close(found.double(), torch.tensor(expected.predict_proba(standard)), rtol=0, atol=2e-3)
    tensor = None if weights is None else torch.tensor(weights)
    assert reached == pytest.approx(training_loss(layer(features), labels, 0.0, tensor).item(), rel=1e-3)


def test_the_layers_inputs_are_those_without_dropout() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.head = nn.Dropout(0.9), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.dropout(2 * x))

    model = Model().train()
    batches = [{"x": torch.randn(3, 4), "labels": torch.tensor([0, 1, 1])} for _ in range(2)]

    features, labels = inputs_of(model, model.head, batches)

    assert torch.equal(features, torch.cat([2 * batch["x"] for batch in batches]))
    assert labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert model.training


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_the_head_alone_is_changed_and_the_loss_is_lower(tiny_model: Path, wires_csv: Path, pooling: Any) -> None:
    before: Any = trained(tiny_model, wires_csv, pooling=pooling).model
    after = trained(tiny_model, wires_csv, pooling=pooling, head_first=True)
    assert after.model is not None

    changed = {
        name for name, value in before.state_dict().items() if not torch.equal(value, after.model.state_dict()[name])
    }
    assert changed == {"classifier.weight", "classifier.bias"}
    details = after.report_details()["head_first"]
    assert details["texts"] == len(after.data.splits["train"])
    assert details["train_loss"] < torch.log(torch.tensor(float(len(after.data.labels))))


def test_a_resumed_run_keeps_the_head_of_its_checkpoint(tiny_model: Path, wires_csv: Path) -> None:
    first = trained(tiny_model, wires_csv, head_first=True, max_steps=2)
    resumed = trained(tiny_model, wires_csv, wires_csv.parent / "saved.ckpt", head_first=True, max_steps=2)

    assert first.model is not None
    assert resumed.model is not None
    assert torch.equal(resumed.model.classifier.weight, first.model.classifier.weight)
    assert resumed.report_details() == first.report_details()


def test_a_trial_of_one_step_fits_the_head_to_one_batch(tiny_model: Path, wires_csv: Path) -> None:
    model = trained(tiny_model, wires_csv, head_first=True, fast_dev_run=True)
    assert model.report_details()["head_first"]["texts"] <= model.data.eval_batch_size < len(model.data.splits["train"])


def test_a_sharded_model_is_refused(tiny_model: Path, wires_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_file, "is_sharded", lambda _: True)
    with pytest.raises(RecipeError, match="head_first is true, which is not supported where processes shard"):
        trained(tiny_model, wires_csv, head_first=True)


def test_a_decoder_whose_output_layer_classifies_each_token_is_refused(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)
    LlamaModel(config).save_pretrained(tmp_path)

    with pytest.raises(RecipeError, match=r"model\.head_first is true, .* set model\.pooling to mean, or .* to false"):
        trained(tmp_path, wires_csv, head_first=True)


def test_a_new_head_has_the_deviation_of_the_configuration() -> None:
    class Model(nn.Module):
        base_model_prefix = "encoder"
        config = type("Config", (), {"initializer_range": 0.5})

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Sequential(nn.Linear(400, 3)), nn.Linear(400, 3)

    torch.manual_seed(0)
    model = Model()
    encoder = model.encoder[0].weight.clone()
    initialize_head(model, 3)

    assert output_layers(model, 3) == [model.head]
    assert torch.equal(model.encoder[0].weight, encoder)
    assert model.head.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert not model.head.bias.any()
