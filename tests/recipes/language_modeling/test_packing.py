"""Documents become blocks, and no token is lost on the way."""

from itertools import chain

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from recipes.language_modeling.packing import IGNORED, Packer, collate, pack, tokenize

documents = st.lists(st.lists(st.integers(0, 99), max_size=20), min_size=1, max_size=30)


@given(documents=documents, block_size=st.integers(2, 16), batch_size=st.integers(1, 7))
def test_no_token_is_lost_or_moved_across_batches(documents: list[list[int]], block_size: int, batch_size: int) -> None:
    packer = Packer(block_size, len(documents))
    blocks: list[list[int]] = []

    for start in range(0, len(documents), batch_size):
        batch = documents[start : start + batch_size]
        blocks += packer({"input_ids": batch}, list(range(start, start + len(batch))))["input_ids"]

    assert list(chain(*blocks)) == list(chain(*documents))
    assert all(len(block) == block_size for block in blocks[:-1])
    assert all(0 < len(block) <= block_size for block in blocks[-1:])


def test_a_packer_starts_again_with_the_first_document() -> None:
    packer = Packer(4, 2)
    packer({"input_ids": [[1, 2, 3]]}, [0])

    blocks = packer({"input_ids": [[4, 5], [6]]}, [0, 1])["input_ids"]

    assert blocks == [[4, 5, 6]]


def test_documents_end_with_the_end_of_text_token_and_blocks_span_documents(tiny_lm, tales) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)

    blocks = pack(Dataset.from_dict({"t": tales, "n": tales}), tokenizer, "t", True, 32, "train")

    assert blocks.column_names == ["input_ids"]
    joined = tokenizer.decode(list(chain(*blocks["input_ids"])))
    assert joined == "".join(tale + tokenizer.eos_token for tale in tales)


def test_rows_of_a_running_text_are_joined_with_nothing_between(tiny_lm) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)

    ids = tokenize({"t": ["\ufeffOnce ", "there was"]}, tokenizer, "t", end_of_text=False)["input_ids"]

    assert tokenizer.decode(list(chain(*ids))) == "Once there was"


def test_an_end_of_text_token_that_is_already_there_is_not_duplicated(tiny_lm) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    end = tokenizer.eos_token

    ids = tokenize({"t": [f"Once{end}"]}, tokenizer, "t", end_of_text=True)["input_ids"]

    assert tokenizer.decode(ids[0]) == f"Once{end}"


def test_packed_blocks_are_cached(tiny_lm, tales_csv, monkeypatch) -> None:
    from datasets import load_dataset

    def packed() -> Dataset:
        rows = load_dataset("csv", data_files=str(tales_csv), split="train")
        return pack(rows, AutoTokenizer.from_pretrained(tiny_lm), "Content", True, 16, "train")

    first = packed()
    monkeypatch.setattr(Packer, "__call__", lambda *_: pytest.fail("packed again"))

    assert packed()["input_ids"] == first["input_ids"]


def test_labels_are_the_next_tokens_and_padding_has_none() -> None:
    batch = collate([{"input_ids": [7, 8, 9]}, {"input_ids": [5, 0]}])

    assert batch["input_ids"][0].tolist() == [7, 8, 9]
    assert batch["input_ids"][1, :2].tolist() == [5, 0]
    assert batch["labels"].tolist() == [[8, 9, IGNORED], [0, IGNORED, IGNORED]]
    assert (batch["input_ids"] >= 0).all()


def test_the_end_of_text_token_counts_although_it_may_be_the_padding_token_too() -> None:
    assert collate([{"input_ids": [3, 0, 4, 0]}])["labels"].tolist() == [[0, 4, 0, IGNORED]]


def test_a_single_token_has_nothing_to_predict() -> None:
    assert torch.equal(collate([{"input_ids": [0]}])["labels"], torch.tensor([[IGNORED]]))
