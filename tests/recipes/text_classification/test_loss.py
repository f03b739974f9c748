"""Weights of labels: their mean over the rows is 1, rare ones count more, and validation has none."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from recipes import TextClassificationData, TextClassifier
from recipes.text_classification.balanced_sampler import shares_of
from recipes.text_classification.loss import ClassWeights, class_weights, training_loss

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=8).filter(any)
KINDS = st.sampled_from(("balanced", "sqrt"))


@given(COUNTS, KINDS)
def test_the_mean_weight_of_the_rows_is_1(counts: list[int], kind: ClassWeights) -> None:
    weights = class_weights(counts, kind)

    total = math.fsum(count * weight for count, weight in zip(counts, weights, strict=True))
    assert total == pytest.approx(sum(counts))


@given(COUNTS, KINDS, st.sampled_from((0.5, 1.0, 1.5)))
def test_the_mean_weight_of_rows_that_are_drawn_more_often_is_1(
    counts: list[int], kind: ClassWeights, balance: float
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    shares = shares_of(labels, counts, balance)

    weights = class_weights(counts, kind, balance)

    total = math.fsum(share * weights[label] for share, label in zip(shares, labels, strict=True))
    assert total == pytest.approx(math.fsum(shares))


@given(COUNTS, KINDS)
def test_a_label_with_fewer_rows_weighs_more(counts: list[int], kind: ClassWeights) -> None:
    found = {count: weight for count, weight in zip(counts, class_weights(counts, kind), strict=True) if count}

    weights = [weight for _, weight in sorted(found.items(), reverse=True)]
    assert all(fewer > more for more, fewer in itertools.pairwise(weights))


def test_weights_of_kind_sqrt_are_proportional_to_one_over_the_root_of_the_count() -> None:
    assert class_weights([16, 4, 1], "sqrt") == pytest.approx([0.75, 1.5, 3.0])


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = [0] * 7 + [1] * 2 + [2]

    expected = compute_class_weight("balanced", classes=numpy.arange(3), y=labels)
    assert class_weights([7, 2, 1], "balanced") == pytest.approx(expected.tolist())


def test_a_row_counts_its_weight_whatever_its_batch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 2, 2])
    weights = torch.tensor([0.5, 2.0, 1.25])

    whole = training_loss(logits, labels, 0.1, weights)
    halves = [training_loss(logits[part], labels[part], 0.1, weights) for part in (slice(0, 3), slice(3, 6))]

    torch.testing.assert_close(whole, sum(halves) / 2)
    alone = functional.cross_entropy(logits[:3], labels[:3], label_smoothing=0.1)
    torch.testing.assert_close(halves[0], 0.5 * alone)


@pytest.mark.parametrize("options", [{}, {"class_weights": "balanced", "label_smoothing": 0.2}])
def test_the_loss_of_an_evaluation_is_the_plain_cross_entropy(
    options: dict[str, Any], tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path
) -> None:
    wires[(wires.desk != "tool") | (wires.index < 30)].to_csv(tmp_path / "skewed.csv", index=False)
    data = TextClassificationData("headline", "desk", str(tmp_path / "skewed.csv"), max_length=16)
    model: Any = TextClassifier(str(tiny_model), **options)
    seed_everything(1, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=1, **quiet)
    trainer.fit(model, data)

    model.eval()
    total, rows = 0.0, 0
    for batch in data.val_dataloader():
        labels = batch.pop("labels")
        with torch.no_grad():
            total += functional.cross_entropy(model(**batch), labels, reduction="sum").item()
        rows += len(labels)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(total / rows, rel=1e-5)
    reported = model.report_details().get("class_weights", {})
    assert list(reported) == (["fruit", "metal", "tool"] if options else [])
    assert not options or reported["tool"] > reported["metal"]


def test_the_weights_of_a_training_are_those_of_the_rows_it_draws(
    tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path
) -> None:
    wires[(wires.desk != "tool") | (wires.index < 30)].to_csv(tmp_path / "skewed.csv", index=False)
    data = TextClassificationData("headline", "desk", str(tmp_path / "skewed.csv"), max_length=16, balance=1.0)
    model = TextClassifier(str(tiny_model), class_weights="balanced")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}

    Trainer(accelerator="cpu", max_steps=0, **quiet).fit(model, data)

    weights = model.report_details()["class_weights"].values()
    assert sum(weights) / len(weights) == pytest.approx(1)  # all labels are drawn equally often
