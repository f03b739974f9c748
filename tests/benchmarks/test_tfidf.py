"""The TF-IDF baseline: it tests on the rows that the recipe tests on."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import OmegaConf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, PreTrainedTokenizerFast

from benchmarks import tfidf
from recipes.text_classification.data import TextClassificationData

WORDS = {"grain": "wheat corn harvest", "ship": "port vessel cargo", "trade": "tariff export deficit"}


def write(file: Path, rows: int) -> Path:
    """Rows of three labels in turn, each with a number of its own."""
    lines = ["text,label"]
    for number in range(rows):
        label = sorted(WORDS)[number % 3]
        lines.append(f"{WORDS[label]} number {number},{label}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def recipe(folder: Path, test: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(
        f"data:\n  init_args:\n    train: {folder / 'train.csv'}\n    test: {test}\n    text: text\n    label: label\n",
        encoding="utf-8",
    )
    return str(file)


def test_labels_that_words_tell_apart_are_found(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", 30)
    write(tmp_path / "test.csv", 12)

    result = tfidf.measure(recipe(tmp_path, str(tmp_path / "test.csv")))

    assert (result["train"], result["test"], result["labels"]) == (30, 12, 3)
    assert result["accuracy"] == result["f1"] == 1.0


def test_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", 30)
    file.write_text(file.read_text() + ",grain\n", encoding="utf-8")

    result = tfidf.measure(recipe(tmp_path, str(write(tmp_path / "test.csv", 12))))

    assert result["train"] == 30


def test_a_fraction_splits_off_the_rows_that_the_recipe_splits_off(tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", 60)
    data = TextClassificationData("text", "label", train=str(file), test=0.2)
    data.tokenize_for(str(model_that_knows_each_word_of(file)))
    recipes_rows = data.load_splits("fit")["test"]["input_ids"]

    _, test = tfidf._splits(OmegaConf.load(recipe(tmp_path, "0.2")).data.init_args)

    assert len(test) == 12
    assert [data.tokenizer.decode(ids) for ids in recipes_rows] == list(test["text"])


def model_that_knows_each_word_of(file: Path) -> Path:
    """The folder of a configuration and of a tokenizer that tells all rows apart."""
    words = [
        "[PAD]",
        "[UNK]",
        *sorted({word for line in file.read_text().splitlines() for word in re.split("[ ,]", line)}),
    ]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    folder = file.parent / "model"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    BertConfig(vocab_size=len(words)).save_pretrained(folder)
    return folder
