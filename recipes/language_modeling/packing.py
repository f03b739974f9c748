"""Packs documents into blocks of tokens of one length, across the batches of ``Dataset.map``."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.data.caching import Cached

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of ignored tokens: padding, and the successor of the last token of a block."""


class Packer:
    """Packs documents, given batch by batch and in order, into blocks of ``block_size`` tokens.

    The remainder of one batch begins the first block of the next. After the last document, the remainder is a last
    block, which may be shorter. It is passed to ``Dataset.map`` with ``with_indices``.

    Args:
        block_size: Tokens in a block.
        rows: Number of documents, to recognize the last one.
    """

    def __init__(self, block_size: int, rows: int) -> None:
        self.block_size = block_size
        self.rows = rows
        self.rest: list[int] = []

    def __call__(self, batch: dict[str, list[list[int]]], indices: list[int]) -> dict[str, list[list[int]]]:
        """Blocks of a batch of documents, in the column ``input_ids``."""
        tokens = [] if indices[0] == 0 else self.rest
        tokens.extend(token for document in batch["input_ids"] for token in document)
        last = indices[-1] == self.rows - 1
        end = len(tokens) if last else len(tokens) - len(tokens) % self.block_size
        self.rest = tokens[end:]
        return {"input_ids": [tokens[i : min(i + self.block_size, end)] for i in range(0, end, self.block_size)]}


def tokenize(
    batch: dict[str, list[str]], tokenizer: "PreTrainedTokenizerBase", text: str, end_of_text: bool
) -> dict[str, list[list[int]]]:
    """Tokenizes documents.

    Args:
        batch: Columns of the documents.
        tokenizer: The tokenizer.
        text: The column of the text.
        end_of_text: Whether a document begins as the tokenizer begins a text and ends with its end-of-text
            token; else no special tokens are added.

    Returns:
        The tokens, in the column ``input_ids``.
    """
    texts = [value.removeprefix("\ufeff") for value in batch[text]]
    ids = tokenizer(texts, add_special_tokens=end_of_text, return_attention_mask=False, verbose=False)["input_ids"]
    if end_of_text:
        end = tokenizer.eos_token_id
        ids = [document if document[-1:] == [end] else [*document, end] for document in ids]
    return {"input_ids": ids}


def pack(
    documents: "Dataset", tokenizer: "PreTrainedTokenizerBase", text: str, end_of_text: bool, block_size: int, name: str
) -> "Dataset":
    """Tokenizes documents and packs them into blocks; both are cached.

    Args:
        documents: The documents.
        tokenizer: The tokenizer.
        text: The column of the text.
        end_of_text: Whether the end-of-text token ends each document.
        block_size: Tokens in a block.
        name: Name of the split, for the progress bar.

    Returns:
        Blocks of tokens in the column ``input_ids``; the last one may be shorter.
    """
    from datasets import Features, Sequence, Value

    settings: dict[str, Any] = {"batched": True, "features": Features({"input_ids": Sequence(Value("int32"))})}
    tokens = documents.map(
        Cached(tokenize),
        remove_columns=documents.column_names,
        desc=f"Tokenizing {name}",
        fn_kwargs={"tokenizer": tokenizer, "text": text, "end_of_text": end_of_text},
        **settings,
    )
    packer = Packer(block_size, len(tokens))
    return tokens.map(Cached(packer), with_indices=True, desc=f"Packing {name}", **settings)


def collate(blocks: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collates blocks into a batch; shorter ones are padded on the right, which a causal model does not attend to.

    Args:
        blocks: Each with ``input_ids``.

    Returns:
        ``input_ids`` of shape (batch, tokens), padded with an arbitrary token, and ``labels`` of the same shape:
        the next token of each token, :data:`IGNORED` if there is none.
    """
    tokens = [torch.as_tensor(block["input_ids"], dtype=torch.long) for block in blocks]
    padded = pad_sequence(tokens, batch_first=True, padding_value=IGNORED)
    labels = torch.full_like(padded, IGNORED)
    labels[:, :-1] = padded[:, 1:]
    return {"input_ids": padded.clamp(min=0), "labels": labels}
