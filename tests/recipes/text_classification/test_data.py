"""Rows of any source become batches: labels numbered, texts tokenized and padded, mistakes told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from recipes.messages import RecipeError
from recipes.text_classification.data import TextClassificationData
from recipes.text_classification.module import TextClassifier


def load(pretrained: Path | str, stage: str = "fit", limit: float = 1.0, **arguments: Any) -> TextClassificationData:
    data = TextClassificationData(**{"text": "headline", "label": "desk", "max_length": 16, **arguments})
    trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    data.tokenize_for(str(pretrained))
    trainer.state.fn = stage
    trainer.limit_val_batches = trainer.limit_test_batches = limit
    data.trainer = trainer
    data.prepare_data()
    data.setup(stage)
    return data


def batches(loader: Any) -> list[dict[str, torch.Tensor]]:
    return list(loader)


def labels_of(loader: Any) -> list[int]:
    return [label for batch in loader for label in batch["labels"].tolist()]


def test_batches_are_padded_to_their_longest_text(tiny_model: Path, wires_csv: Path) -> None:
    data = load(tiny_model, train=str(wires_csv), pad_to_multiple_of=None, eval_batch_size=4)

    for batch in batches(data.train_dataloader()) + batches(data.val_dataloader()):
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
        assert batch["attention_mask"].sum(dim=1).max() == batch["input_ids"].shape[1]


def test_padding_rounds_up_to_the_multiple_asked_for(tiny_model: Path, wires_csv: Path) -> None:
    data = load(tiny_model, train=str(wires_csv), pad_to_multiple_of=8)

    assert {batch["input_ids"].shape[1] % 8 for batch in data.train_dataloader()} == {0}


def test_no_batch_is_padded_beyond_what_the_model_reads(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    """A model with 100 positions reads no 104 tokens."""
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 9
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    data = load(tmp_path / "model", train=str(wires_csv), max_length=9, pad_to_multiple_of=8)

    lengths = {batch["input_ids"].shape[1] for batch in data.train_dataloader()}
    assert lengths <= {8, 9}
    assert 9 in lengths
    assert data.largest_batch()["input_ids"].shape == (data.batch_size, 9)


def test_texts_are_truncated_to_max_length(tiny_model: Path, wires_csv: Path) -> None:
    data = load(tiny_model, train=str(wires_csv), max_length=5, pad_to_multiple_of=None)

    assert max(batch["input_ids"].shape[1] for batch in data.train_dataloader()) == 5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_limited_evaluation_keeps_the_order_of_the_file_and_a_whole_one_begins_with_the_longest(
    split: str, tiny_model: Path, wires_csv: Path
) -> None:
    def lengths(limit: float) -> list[int]:
        return load(tiny_model, train=str(wires_csv), limit=limit, **{split: str(wires_csv)}).splits[split]["length"][:]

    in_file = load(tiny_model, train=str(wires_csv), validation=None).splits["train"]["length"][:]
    assert lengths(0.5) == lengths(1) == in_file
    assert lengths(1.0) == sorted(in_file, reverse=True)


def test_two_text_columns_are_read_as_a_pair(tiny_model: Path, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"left": ["apple", "iron"] * 10, "right": ["pear", "saw"] * 10, "same": [1, 0] * 10})
    frame.to_csv(tmp_path / "pairs.csv", index=False)

    data = load(tiny_model, text=["left", "right"], label="same", train=str(tmp_path / "pairs.csv"), validation=0.1)
    batch = batches(data.val_dataloader())[0]

    assert batch["token_type_ids"].unique().tolist() == [0, 1]
    assert data.tokenizer.decode(batch["input_ids"][0]).split()[:5] in (
        ["[CLS]", "apple", "[SEP]", "pear", "[SEP]"],
        ["[CLS]", "iron", "[SEP]", "saw", "[SEP]"],
    )


def test_split_off_rows_and_training_rows_are_disjoint(tiny_model: Path, wires_csv: Path) -> None:
    data = load(tiny_model, train=str(wires_csv), validation=0.1, test=0.2)

    sizes = [
        len(labels_of(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]

    assert sizes == [84, 12, 24]
    assert sorted(labels_of(data.val_dataloader())) == [0] * 4 + [1] * 4 + [2] * 4


def test_columns_may_have_the_names_that_batches_use(tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path) -> None:
    wires.set_axis(["input_ids", "labels"], axis=1).assign(length="x").to_csv(tmp_path / "a.csv", index=False)

    data = load(tiny_model, text="input_ids", label="labels", train=str(tmp_path / "a.csv"))

    assert data.labels == ["fruit", "metal", "tool"]
    assert sorted(labels_of(data.train_dataloader())) == [0] * 36 + [1] * 36 + [2] * 36


def test_the_run_seed_does_not_move_rows_between_splits(
    tiny_model: Path, wires_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = load(tiny_model, train=str(wires_csv))
        texts.append([row for batch in data.val_dataloader() for row in batch["input_ids"].tolist()])

    assert texts[0] == texts[1]


def test_rows_without_text_or_label_are_dropped_and_counted(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["headline,desk", *["apple,fruit", "iron,metal"] * 10, ",fruit", '"  ",metal', "saw,", ","]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    with caplog.at_level("INFO"):
        data = load(tiny_model, train=str(tmp_path / "a.csv"))

    assert data.labels == ["fruit", "metal"]
    assert len(labels_of(data.train_dataloader())) + len(labels_of(data.val_dataloader())) == 20
    assert "data.train: dropped 4 of 24 rows" in caplog.text


def test_a_label_of_rows_without_a_text_is_neither_an_output_nor_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = ["headline,desk", *["apple,fruit", "iron,metal"] * 10, ",tool"]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        rows.append(",wood")

    data = load(tiny_model, train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))

    assert data.labels == ["fruit", "metal"]
    assert data.summary()["test"]["rows_dropped_without_text_or_label"] == 2


def test_a_split_that_another_command_did_not_need_is_asked_for(
    tiny_model: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path
) -> None:
    """A test without training rows needs no validation, which is a fraction of them."""
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    names = sorted(wires["desk"].unique())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    data = load(tmp_path / "model", "test", test=str(wires_csv), validation=0.1)
    assert data.splits.keys() == {"test"}

    assert data.trainer is not None
    data.trainer.state.fn = TrainerFn.VALIDATING
    with pytest.raises(RecipeError, match=r"data\.validation is 0\.1, a fraction of data\.train, which is null"):
        data.setup("validate")


def test_rows_to_predict_are_all_kept_in_their_order(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,headline\n3,gold gold\n1,\n2,apple\n", encoding="utf-8")

    data = load(
        tiny_model,
        "predict",
        train=str(wires_csv),
        predict=str(tmp_path / "new.csv"),
        pad_to_multiple_of=None,
    )
    (batch,) = batches(data.predict_dataloader())

    assert data.predict_rows["id"][:] == ["3", "1", "2"]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 2, 3]
    assert data.labels == ["fruit", "metal", "tool"]


@pytest.mark.parametrize("group_by_length", [True, False])
def test_order_depends_on_seed_and_epoch_alone(
    group_by_length: bool, tiny_model: Path, wires_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(seed: str, epoch: int) -> list[list[int]]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        loader = load(tiny_model, train=str(wires_csv), group_by_length=group_by_length).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [row for batch in loader for row in batch["input_ids"].tolist()]

    assert order("1", 0) == order("1", 0)
    assert order("1", 0) != order("1", 1)
    assert order("1", 0) != order("7", 0)


def test_the_missing_label_of_a_class_label_is_dropped_from_each_split_and_counted(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_dict({"headline": ["apple", "iron", "saw"] * 10, "desk": [1, 0, -1] * 10})
    for split in ("train", "validation", "test"):
        rows.cast_column("desk", ClassLabel(names=["yes", "no"])).to_parquet(tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "validation", "test")}

    with caplog.at_level("INFO"):
        data = load(tiny_model, **files)

    assert data.labels == ["no", "yes"]
    for split in files:
        assert len(data.splits[split]) == 20
        assert f"data.{split}: dropped 10 of 30 rows" in caplog.text


def test_a_class_without_a_name_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"headline": ["apple", "iron"] * 10, "desk": [1, 0] * 10})
    rows.cast_column("desk", ClassLabel(names=["", "no"])).to_parquet(tmp_path / "a.parquet")

    with pytest.raises(RecipeError, match="has no name"):
        load(tiny_model, train=str(tmp_path / "a.parquet"))


def test_texts_of_numbers_are_predicted(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("headline\n12345\n", encoding="utf-8")

    data = load(tiny_model, "predict", train=str(wires_csv), predict=str(tmp_path / "new.csv"))

    assert data.predict_rows["headline"][:] == ["12345"]


@pytest.mark.parametrize("key", ["tokenizer", "model", "path"])
def test_a_home_folder_is_found(key: str, tiny_model: Path, wires_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    home = f"~/{tiny_model.name}"

    if key == "model":
        assert TextClassifier(home).pretrained == str(tiny_model)
    elif key == "path":
        assert TextClassificationData("headline", "desk", path=home).path == str(tiny_model)
    else:
        assert len(load(tiny_model, train=str(wires_csv), tokenizer=home).tokenizer) == 20


def test_a_folder_without_the_files_of_its_tokenizer_is_refused(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())

    with pytest.raises(RecipeError, match=r"model\.pretrained: .* no tokenizer|cannot be loaded"):
        load(tmp_path, train=str(wires_csv))


@pytest.mark.parametrize("content", ["[1, 2]", '"text"', "null", "[" * 100_000 + "]" * 100_000])
def test_a_configuration_that_is_none_is_reported(
    content: str, tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    for file in tiny_model.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(content, encoding="utf-8")

    with pytest.raises(RecipeError, match=r"model\.pretrained"):
        load(tmp_path, train=str(wires_csv))


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "text column missing": (
        {"text": "headlines"},
        ["data.text", "'headlines'", "headline, desk", "did you mean 'headline'"],
    ),
    "label column missing": ({"label": "topic"}, ["data.label", "'topic'", "headline, desk"]),
    "label column missing in the test": (
        {"test": "texts.csv"},
        ["data.label", "'desk'", "data.test", "headline"],
    ),
    "three text columns": ({"text": ["a", "b", "c"]}, ["data.text", "3 columns"]),
    "text is label": ({"text": "desk"}, ["data.text", "data.label", "same column"]),
    "numbers for text": ({"train": "numbers.csv"}, ["data.text", "'headline'", "numbers"]),
    "lists for text": ({"train": "lists.jsonl"}, ["data.text", "'headline'", "not text"]),
    "a column as one object": ({"train": "columns.json"}, ["data.text", "'headline'", "120 keys", "records"]),
    "labels of rows without text only": ({"train": "textless.csv"}, ["data.label", "1 different", "two or more"]),
    "fractions for labels": ({"train": "scores.csv"}, ["data.label", "whole numbers"]),
    "lists for labels": ({"train": "listed.jsonl"}, ["data.label", "'desk'"]),
    "one label": ({"train": "one.csv"}, ["data.label", "'desk'", "two or more"]),
    "texts for labels": (
        {"text": "desk", "label": "headline", "train": "many.csv"},
        ["data.label", "'headline'", "different"],
    ),
    "unknown label in the test": ({"test": "other.csv"}, ["data.test", "'paper'", "data.train"]),
    "unlabeled test of the hub": (
        {"test": "minus.jsonl", "train": "ones.jsonl"},
        ["data.test", "'-1'", "without a label"],
    ),
    "no rows": ({"train": "none.csv"}, ["data.train", "none.csv", "no rows"]),
    "blank rows": ({"test": "blank.csv"}, ["data.test", "none with both"]),
    "nothing to train on": ({"train": None}, ["data.train", "null"]),
    "share too small": ({"validation": 0.001}, ["data.validation", "0 of 120"]),
    "share too large": ({"validation": 1.5}, ["data.validation", "1.5"]),
    "tokenizer missing": ({"tokenizer": "no/such"}, ["data.tokenizer", "no/such", "network"]),
    "folder without tokenizer": ({"tokenizer": "."}, ["data.tokenizer", "folder '.'"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_a_sentence(
    arguments: dict[str, Any],
    words: list[str],
    tiny_model: Path,
    wires: pandas.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    wires.to_csv("wires.csv", index=False)
    wires[["headline"]].to_csv("texts.csv", index=False)
    wires.assign(headline=range(120)).to_csv("numbers.csv", index=False)
    wires.assign(headline=[["apple"]] * 120).to_json("lists.jsonl", orient="records", lines=True)
    wires.to_json("columns.json")
    wires.assign(desk=["fruit", "metal"] * 60, headline=["apple", ""] * 60).to_csv("textless.csv", index=False)
    wires.assign(desk=[0.5, 1.25, 2.0] * 40).to_csv("scores.csv", index=False)
    wires.assign(desk=[["fruit"]] * 120).to_json("listed.jsonl", orient="records", lines=True)
    wires.assign(desk="fruit").to_csv("one.csv", index=False)
    pandas.concat([wires] * 2).assign(headline=[f"apple {i}" for i in range(240)]).to_csv("many.csv", index=False)
    wires.assign(desk="paper").to_csv("other.csv", index=False)
    wires.assign(desk=[0, 1] * 60).to_json("ones.jsonl", orient="records", lines=True)
    wires.assign(desk=-1).to_json("minus.jsonl", orient="records", lines=True)
    wires[:0].to_csv("none.csv", index=False)
    wires.assign(headline=" ").to_csv("blank.csv", index=False)

    with pytest.raises(RecipeError) as raised:
        load(tiny_model, **{"train": "wires.csv", **arguments})

    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_texts_that_the_tokenizer_does_not_know_are_named(
    tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wires.to_csv(tmp_path / "known.csv", index=False)
    load(tiny_model, train=str(tmp_path / "known.csv"))
    assert "unknown" not in capsys.readouterr().err

    wires.assign(headline=["яблоко груша"] * 120).to_csv(tmp_path / "other.csv", index=False)
    data = load(tiny_model, train=str(tmp_path / "other.csv"))
    assert data.summary()["train"]["unknown_tokens"] == 2 * data.summary()["train"]["rows"]
    assert "data.text: 50% of the tokens of data.train are unknown to the tokenizer" in capsys.readouterr().err


def test_predicting_without_rows_is_reported_in_a_sentence(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.predict is null"):
        load(tiny_model, "predict")


def test_predicting_with_a_model_without_labels_is_reported_in_a_sentence(tiny_model: Path, wires_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"knows no labels \(names like LABEL_0 are taken for placeholders"):
        load(tiny_model, "predict", predict=str(wires_csv))
