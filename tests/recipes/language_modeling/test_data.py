"""Texts from files become splits of whole documents, in blocks; what is wrong with them is said in a sentence."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from torch import Tensor
from transformers import AutoTokenizer

from recipes import LanguageModelingData
from recipes.language_modeling.packing import IGNORED
from recipes.messages import RecipeError


def loaded(
    model: Path | None, train: Any, *, fn: str = "fit", world_size: int = 1, rank: int = 0, **arguments: Any
) -> LanguageModelingData:
    arguments.setdefault("text", "Content" if str(train).endswith(".csv") else "text")
    arguments.setdefault("block_size", 16)
    data = LanguageModelingData(train if isinstance(train, list) or train is None else str(train), **arguments)
    data.tokenize_for(None if model is None else str(model))
    state = SimpleNamespace(fn=fn)
    processes = {"strategy": None, "world_size": world_size, "global_rank": rank}
    data.trainer = SimpleNamespace(state=state, **processes)  # type: ignore[assignment]
    data.prepare_data()
    data.setup(fn)
    return data


def text_of(data: LanguageModelingData, split: str) -> str:
    return data.tokenizer.decode(list(chain(*data.splits[split]["input_ids"])))


def labeled(labels: Tensor) -> int:
    return int((labels != IGNORED).sum())


def test_fractions_hold_out_whole_documents(tiny_lm: Path, tales_csv: Path, tales: list[str]) -> None:
    data = loaded(tiny_lm, tales_csv, validation=0.2, test=0.1)

    end = data.tokenizer.eos_token
    held_out = [text_of(data, split).split(end)[:-1] for split in ("validation", "test")]
    assert [len(documents) for documents in held_out] == [6, 3]
    assert set(chain(*held_out)) <= set(tales)
    assert not set(held_out[0]) & set(held_out[1])
    assert not any(tale in text_of(data, "train") for tale in chain(*held_out))


def test_splits_are_the_same_documents_each_time(tiny_lm: Path, tales_csv: Path) -> None:
    first, second = (loaded(tiny_lm, tales_csv, validation=0.2) for _ in range(2))

    assert text_of(first, "validation") == text_of(second, "validation")


def test_the_end_of_training_text_that_fills_no_block_is_counted(tiny_lm: Path, tales_csv: Path, tales: list) -> None:
    data = loaded(tiny_lm, tales_csv, validation=str(tales_csv), block_size=33)

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    total = sum(len(tokenizer(tale)["input_ids"]) + 1 for tale in tales)
    assert data.tokens["train"] + data.tokens["dropped"] == total
    assert data.tokens["train"] == 33 * len(data.splits["train"])
    assert 0 < data.tokens["dropped"] < 33
    assert data.tokens["validation"] == total


def test_a_text_file_is_one_document_with_its_line_ends(tiny_lm: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"The {name} tale.\n\nOnce there was a saw.\n", encoding="utf-8")

    data = loaded(tiny_lm, str(tmp_path / "*.txt"), validation=str(tmp_path / "a.txt"))

    assert text_of(data, "validation") == f"The a tale.\n\nOnce there was a saw.\n{data.tokenizer.eos_token}"
    assert text_of(data, "train").count(data.tokenizer.eos_token + "The b tale.\n\n") == 1


def test_of_a_single_document_the_end_is_held_out_from_a_paragraph_on(tiny_lm: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {i:02d} of the book, which is long enough." for i in range(20)]
    file.write_text("\n\n".join(paragraphs), encoding="utf-8")

    data = loaded(tiny_lm, file, validation=0.25, test=0.25, block_size=2)

    end = data.tokenizer.eos_token
    train, validation, test = (text_of(data, split) for split in ("train", "validation", "test"))
    assert test == "\n\n".join(paragraphs[-6:]) + end
    assert validation.endswith(paragraphs[-7] + "\n\n" + end)
    assert train.startswith(paragraphs[0])
    assert validation.startswith("Paragraph")


def test_a_paragraph_far_from_the_share_that_is_held_out_does_not_change_it(tiny_lm: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    lines = [f"Line {i:02d} of the book, which is long enough." for i in range(40)]
    file.write_text("\n".join(lines[:20]) + "\n\n" + "\n".join(lines[20:]), encoding="utf-8")

    data = loaded(tiny_lm, file, validation=0.1, block_size=2)

    assert text_of(data, "validation") == "\n".join(lines[-5:]) + data.tokenizer.eos_token


def test_of_the_lines_of_one_running_text_the_last_ones_are_held_out_in_their_order(
    tiny_lm: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lines.csv"
    lines = [f"Line {i:02d} of the book. " for i in range(20)]
    pandas.DataFrame({"Content": lines}).to_csv(file, index=False)

    data = loaded(tiny_lm, file, validation=0.1, test=0.2, block_size=2, end_of_text=False)

    train, validation, test = (text_of(data, split) for split in ("train", "validation", "test"))
    assert (validation, test) == ("".join(lines[14:16]), "".join(lines[16:]))
    assert train in ("".join(lines[:14]), "".join(lines[:14])[:-1])  # a last token may fill no block


def test_the_blocks_of_a_single_document_come_from_the_cache_the_second_time(tiny_lm: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n".join(f"Line {i:02d} of another book." for i in range(40)), encoding="utf-8")

    first, second = (loaded(tiny_lm, file, validation=0.1, block_size=2).splits["train"] for _ in range(2))

    assert first.cache_files
    assert first.cache_files == second.cache_files


def test_blank_documents_are_dropped(tiny_lm: Path, tales: list[str], tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    pandas.DataFrame({"Content": [tales[0], " \n", "", tales[1]]}).to_csv(file, index=False)

    data = loaded(tiny_lm, file, validation=str(file))

    assert text_of(data, "validation") == tales[0] + data.tokenizer.eos_token + tales[1] + data.tokenizer.eos_token


def test_orange_files_are_read_without_their_two_rows_of_types(tiny_lm: Path, tales: list, tmp_path: Path) -> None:
    file = tmp_path / "tales.tab"
    file.write_text(
        "Title\tContent\nstring\tstring\nmeta\tinclude=True\n"
        + "".join(f"T{i}\t{tale.replace(chr(10), ' ')}\n" for i, tale in enumerate(tales)),
        encoding="utf-8",
    )

    data = loaded(tiny_lm, file, validation=0.2, text="Content")

    assert text_of(data, "validation").startswith("Once there was a ")
    assert text_of(data, "validation").count(data.tokenizer.eos_token) == 6


def test_the_order_of_training_depends_on_seed_and_epoch_alone(
    tiny_lm: Path, tales_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        loader = loaded(tiny_lm, tales_csv).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return list(loader.sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_a_model_from_scratch_gets_a_tokenizer_of_its_training_text(tales_csv: Path, tales: list[str]) -> None:
    first, second = (loaded(None, tales_csv, vocabulary_size=280) for _ in range(2))

    assert len(first.tokenizer) == 280
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    odd = tales[0] + " – «é» \t\n 漢 \U0001f600"
    assert first.tokenizer.decode(first.tokenizer(odd)["input_ids"]) == odd


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": "Contents"}, "data.text is 'Contents', but data.train has no such column.*did you mean 'Content'"),
        ({"block_size": 100_000}, r"data.train has \d+ tokens, too few for one block of data.block_size 100000"),
        ({"validation": 0.001}, "data.validation is 0.001, which splits off 0 of 30 training rows"),
        ({"validation": 1.5}, "data.validation is 1.5"),
        ({"tokenizer": "nowhere/to/be/found"}, "data.tokenizer: 'nowhere/to/be/found' is neither a local folder"),
    ],
)
def test_a_wrong_argument_is_named(tiny_lm: Path, tales_csv: Path, arguments: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        loaded(tiny_lm, tales_csv, **arguments)


@pytest.mark.parametrize("content", ["", " \n\n \t\n", "\ufeff\n"])
def test_a_file_without_text_is_named(tiny_lm: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "empty.txt"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(RecipeError, match=r"data\.train.*(has no text|no rows|no data|empty)"):
        loaded(tiny_lm, file)


def test_a_column_of_numbers_is_refused(tiny_lm: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    file.write_text('{"text": 1}\n{"text": 2}\n', encoding="utf-8")

    with pytest.raises(RecipeError, match=r"data\.text: column 'text' of data\.train holds .*int64.*not text"):
        loaded(tiny_lm, file)


def test_text_that_is_not_utf_8_is_reported(tiny_lm: Path, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("Es war einmal ein Müller".encode("latin-1"))

    with pytest.raises(RecipeError, match=r"data\.train: .*latin\.txt.*(utf-8|decode)"):
        loaded(tiny_lm, file)


def test_there_is_nothing_to_train_on_without_a_training_split(tiny_lm: Path, tales_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train is null, so there is nothing to train on"):
        loaded(tiny_lm, None, validation=str(tales_csv), text="Content")


def test_a_run_is_tested_without_a_training_split(tiny_lm: Path, tales_csv: Path) -> None:
    data = loaded(tiny_lm, None, fn="test", validation=str(tales_csv), test=str(tales_csv), text="Content")

    assert data.tokens["test"] > 0


def test_a_run_is_tested_without_a_training_split_that_a_fraction_is_validated_on(
    tiny_lm: Path, tales_csv: Path
) -> None:
    data = loaded(tiny_lm, None, fn="test", validation=0.1, test=str(tales_csv), text="Content")

    assert data.splits.keys() == {"test"}


def test_there_is_nothing_to_test_on_without_a_test_split(tiny_lm: Path, tales_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.test is null"):
        loaded(tiny_lm, tales_csv).test_dataloader()


def test_predict_names_the_command_that_generates_text(tiny_lm: Path, tales_csv: Path) -> None:
    with pytest.raises(RecipeError, match="python -m recipes generate --run"):
        loaded(tiny_lm, tales_csv, fn="predict")
