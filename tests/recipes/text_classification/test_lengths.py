"""``data.max_length: 95%``: the shortest length that covers the texts, up to what the model reads."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser
from transformers import AutoTokenizer, BertConfig, T5Config

from recipes import TextClassificationData, TextClassifier
from recipes.messages import RecipeError
from recipes.text_classification.lengths import LEAST, covering, longest_training_text
from tests.recipes.text_classification.test_data import load


@given(st.lists(st.integers(2, 60), min_size=1, max_size=50), st.integers(1, 1000))
def test_the_length_covers_the_share_and_a_shorter_one_does_not(lengths: list[int], per_mille: int) -> None:
    found = covering(lengths, per_mille / 1000)

    assert sum(length <= found for length in lengths) * 1000 >= per_mille * len(lengths)
    if found > LEAST:
        assert sum(length < found for length in lengths) * 1000 < per_mille * len(lengths)


@pytest.mark.parametrize("text", ["95%", "99.5%", "100%", "7"])
def test_percentages_and_numbers_are_taken(text: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TextClassificationData, "data", fail_untyped=False)

    parsed = parser.parse_args(["--data.text=a", "--data.label=b", f"--data.max_length={text}"])

    assert str(parsed.data.max_length) == text
    assert type(parsed.data.max_length) in (int, str)


@pytest.mark.parametrize("text", ["0%", "101%", "0.95", "95 %", "p95", "-5%", "2"])
def test_others_are_refused(text: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TextClassificationData, "data", fail_untyped=False)

    with pytest.raises(ArgumentError, match="max_length"):
        parser.parse_args(["--data.text=a", "--data.label=b", f"--data.max_length={text}"])


@pytest.mark.parametrize("share", [90])
def test_the_length_is_that_of_the_training_texts(
    share: int, tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load(tiny_model, train=str(wires_csv), max_length=f"{share}%")

    lengths = [len(AutoTokenizer.from_pretrained(tiny_model)(text)["input_ids"]) for text in wires.headline]
    assert data.max_length == covering(lengths, share / 100)
    assert data.tokenizer.model_max_length == data.max_length
    assert max(max(rows["length"]) for rows in data.splits.values()) == data.max_length
    assert data.summary()["train"]["max_length"] == data.max_length
    assert f"{share}% of the training texts have {data.max_length} tokens or fewer" in capsys.readouterr().err


def test_the_length_is_at_most_what_the_model_reads(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["apple " * 40, "iron " * 50, "saw " * 60] * 4
    pandas.DataFrame({"headline": texts, "desk": ["a", "b", "c"] * 4}).to_csv(tmp_path / "long.csv", index=False)

    data = load(tiny_model, train=str(tmp_path / "long.csv"), validation=0.25, max_length="100%")

    assert data.max_length == 32
    assert "62 tokens or fewer, of which the model reads 32" in capsys.readouterr().err


def test_the_length_of_an_earlier_run_is_no_limit_for_longer_texts(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model, model_max_length=6).save_pretrained(tmp_path / "model")

    data = load(tmp_path / "model", train=str(wires_csv), max_length="100%")

    assert data.max_length == wires.headline.str.split().str.len().max() + 2


def test_a_model_without_a_limit_has_that_of_its_tokenizer() -> None:
    tokenizer: Any = SimpleNamespace(model_max_length=512)

    assert longest_training_text(T5Config(), tokenizer) == (512, "tokenizer")
    assert longest_training_text(BertConfig(max_position_embeddings=1024), tokenizer) == (1024, "model")


def test_the_estimate_has_the_length(tiny_model: Path, wires_csv: Path) -> None:
    data = TextClassificationData("headline", "desk", str(wires_csv), max_length="50%", pad_to_multiple_of=None)
    TextClassifier(str(tiny_model)).build_on_meta(data)

    assert 3 < data.max_length < 14
    assert data.largest_batch()["input_ids"].shape == (32, data.max_length)


def test_without_training_texts_it_is_the_length_that_the_model_was_trained_with(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    trained = load(tiny_model, train=str(wires_csv), max_length="50%")
    module = TextClassifier(str(tiny_model))
    module.build_on_meta(trained)
    module.model.to_empty(device="cpu")  # type: ignore[union-attr]
    trainer = trained.trainer
    assert trainer is not None
    trainer.datamodule = trained  # type: ignore[attr-defined]
    module.trainer = trainer
    module.save_pretrained(tmp_path / "model")

    data = load(tmp_path / "model", "predict", predict=str(wires_csv), max_length="95%")

    assert data.max_length == trained.max_length


def test_a_tokenizer_without_a_limit_needs_texts_or_a_number(
    tiny_model: Path, wires_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.text_classification.data.longest_input", lambda *_: float("inf"))

    with pytest.raises(RecipeError, match=r"data\.max_length is 95% and data\.train is null.*: give a number"):
        load(tiny_model, "predict", predict=str(wires_csv), max_length="95%")
