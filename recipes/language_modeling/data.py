"""The data of language modeling: texts, tokenized and packed into blocks of one length."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from recipes.data.caching import Cached
from recipes.data.sources import check_columns, check_text, load_split, suffix
from recipes.data.splitting import cut_off, split_fractions
from recipes.data.summary import count_duplicates
from recipes.language_modeling.packing import collate, pack
from recipes.language_modeling.tokenizer import learn_tokenizer
from recipes.messages import RecipeError
from recipes.ranges import IntFrom2, IntFrom257, PositiveInt
from recipes.recipe_data import RecipeData

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class LanguageModelingData(RecipeData):
    """Running text from files or the Hugging Face hub, in blocks of tokens.

    A split is named by its file or files (.txt, csv, tsv, Orange .tab, json, jsonl, parquet, compressed or not;
    glob patterns and lists too) or, where ``path`` is given, by a split of that dataset. A .txt file is one
    document, a row of the others too; blank ones are dropped and counted. ``validation`` and ``test`` may also
    be a fraction: of the training documents, whole ones, or, where there is a single one, of its end. With
    ``end_of_text: false`` it is the last rows.

    The documents of a split are concatenated and split into blocks. Tokens that do not fill a last block are dropped
    from the training split, and counted; in the other splits they are a shorter block, whose padding is ignored.

    Args:
        train: Training file or files, or a split of ``path``. Not needed to test a model that has a tokenizer.
        text: The column that holds the text.
        load_args: More arguments for ``datasets.load_dataset``, such as ``{sep: ";"}``, ``{revision: main}``
            or, for files whose paragraphs are documents, ``{sample_by: paragraph}``.
        vocabulary_size: Tokens of the byte-pair tokenizer that is trained on the training documents if there is neither
            ``tokenizer`` nor ``model.pretrained``. At least 257: the bytes and the end-of-text token.
        end_of_text: Whether the end-of-text token ends each document. False for rows that are the lines of one
            running text.
        block_size: Tokens in a block: the context length in training. Time and activation memory grow with it.
        batch_size: Training blocks in a batch, on each device.
        eval_batch_size: Blocks in a batch when validating and testing.
        kwargs: The arguments of the data of every recipe.

    Attributes:
        tokens: Tokens in the blocks of each split, and ``dropped``: those of the training split that fill no block.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        *,
        text: str = "text",
        load_args: dict[str, Any] | None = None,
        vocabulary_size: IntFrom257 = 1024,
        end_of_text: bool = True,
        block_size: IntFrom2 = 512,
        batch_size: PositiveInt = 8,
        eval_batch_size: PositiveInt = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, batch_size=batch_size, eval_batch_size=eval_batch_size, load_args=load_args, **kwargs)
        self.text = text
        self.vocabulary_size = vocabulary_size
        self.end_of_text = end_of_text
        self.block_size = block_size
        self.tokens: dict[str, int] = {}
        self._documents_of: dict[str, dict[str, Any]] = {}
        self._dropped: dict[str, int] = {}

    def load_splits(self, command: str) -> "dict[str, Dataset]":
        """Reads, checks, tokenizes and packs the documents of each split."""
        if command == "predict":
            raise RecipeError(
                "a language model has no labels to predict: `python -m recipes generate --run RUN --prompt TEXT` "
                "generates text, `python -m recipes test` gives its perplexity"
            )
        documents = self._documents(command)
        self.tokenizer = self._tokenizer(documents.get("train"))
        if self.end_of_text and self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "data.end_of_text is true, but the tokenizer has no end-of-text token: give another tokenizer, or set "
                "data.end_of_text to false to join documents without one"
            )
        for split, rows in documents.items():
            self._documents_of[split] = {"documents": len(rows), "blank_documents_dropped": self._dropped.get(split, 0)}
            if split != "train" and "train" in documents:
                texts, known = (
                    (text for batch in part.iter(1000) for text in batch[self.text])
                    for part in (rows, documents["train"])
                )
                self._documents_of[split]["duplicates_of_training_documents"] = count_duplicates(texts, known)
        return {split: self._pack(split, rows) for split, rows in documents.items()}

    def summary(self) -> dict[str, dict[str, Any]]:
        """For each split its documents, blocks and tokens, what was dropped, and duplicates of training documents."""
        summary = {
            split: {**self._documents_of.get(split, {}), "blocks": len(rows), "tokens": self.tokens[split]}
            for split, rows in self.splits.items()
        }
        if "train" in summary:
            summary["train"]["tokens_that_fill_no_block"] = self.tokens["dropped"]
        return summary

    def inspect(self) -> None:
        """Loads the tokenizer or, for a model that is trained from scratch, trains it."""
        if self._pretrained is None:
            self.tokenizer = self._tokenizer(None if self.tokenizer_name else self._documents().get("train"))

    def largest_batch(self) -> dict[str, Tensor]:
        """A training batch of full blocks, with arbitrary values."""
        return {key: torch.zeros(self.batch_size, self.block_size, dtype=torch.long) for key in ("input_ids", "labels")}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of blocks, with the next token of each token as its label."""
        return collate(rows)

    def _documents(self, command: str = "fit") -> "dict[str, Dataset]":
        """The documents of each split; fractions are split off the training split."""
        read = {split: self.read(split) for split in self.sources}
        documents = {split: rows for split, rows in read.items() if rows is not None}
        # Of one running text the end is held out: text from its middle would leak into training, and lines that are
        # chosen at random are no text.
        if len(documents.get("train", ())) == 1:
            split_fractions(documents, self.sources, self._cut, command)
        elif not self.end_of_text:
            split_fractions(documents, self.sources, cut_off, command)
        else:
            self.split_fractions(documents, command=command)
        return documents

    def _cut(self, document: "Dataset", share: float, key: str, given: float) -> "tuple[Dataset, Dataset]":
        """A document without its end, and the end, which starts at a paragraph if one begins nearby."""
        text = document[self.text][0]
        place = round(len(text) * (1 - share))
        if not 0 < share < 1 or not 0 < place < len(text):
            raise RecipeError(
                f"{key} is {given}: give a fraction between 0 and 1 of the only "
                "document that data.train has, or a file or split of its own"
            )
        nearest = place - max(1, (len(text) - place) // 4)  # at most a quarter more is held out
        for boundary in ("\n\n", "\n", " "):
            found = text.rfind(boundary, max(nearest, 0), place)
            if found > 0:
                place = found + len(boundary)
                break
        rest, end = (
            document.map(Cached(part), fn_kwargs={"column": self.text, "start": start, "end": end})
            for start, end in ((0, place), (place, None))
        )
        return rest, end

    def read(self, split: str) -> "Dataset | None":
        """The documents of a split that are not blank."""
        source, key, load_args = self.sources[split], f"data.{split}", self.load_args
        if not isinstance(source, str | list):
            return None
        if suffix(source if isinstance(source, str) else source[0] if source else "") == ".txt":
            load_args = {"sample_by": "document", **(load_args or {})}
        rows = load_split(source, key=key, path=self.path, name=self.name, load_args=load_args)
        check_columns(rows, {self.text: "data.text"}, key, source)
        check_text(rows, self.text, key)
        documents = rows.filter(Cached(not_blank), batched=True, input_columns=[self.text], desc=f"Reading {split}")
        if len(documents) == 0:
            raise RecipeError(f"{key} has no text: all of its {len(rows)} documents are empty or blank")
        self._dropped[split] = len(rows) - len(documents)
        if dropped := self._dropped[split]:
            rank_zero_info(f"{key}: dropped {dropped} of {len(rows)} documents, which are blank.")
        return documents

    def _tokenizer(self, train: "Dataset | None") -> "PreTrainedTokenizerBase":
        if self.tokenizer_name is not None or self._pretrained is not None:
            return self.load_tokenizer(padding=False)
        if train is None:
            raise RecipeError(
                "data.train is null, and there is no data.tokenizer: give one of them, the text to learn a tokenizer "
                "from or the folder model/ of a run"
            )
        texts = (text for batch in train.iter(1000) for text in batch[self.text])
        return learn_tokenizer(texts, self.vocabulary_size)

    def _pack(self, split: str, documents: "Dataset") -> "Dataset":
        blocks = pack(documents, self.tokenizer, self.text, self.end_of_text, self.block_size, split)
        last = len(blocks[-1]["input_ids"]) if len(blocks) else 0
        tokens = (len(blocks) - 1) * self.block_size + last
        note = f"data.{split}: {tokens:,} tokens of {len(documents):,} documents"
        if split == "train":
            if tokens < self.block_size:
                raise RecipeError(
                    f"data.train has {max(tokens, 0)} tokens, too few for one block of data.block_size "
                    f"{self.block_size}: give more text or a smaller block"
                )
            self.tokens["dropped"] = dropped = tokens % self.block_size
            tokens -= dropped
            blocks = blocks.select(range(tokens // self.block_size))
            note += (
                f" make {len(blocks):,} blocks of {self.block_size}; the last {dropped} fill no block and are dropped."
            )
        elif tokens < 2:
            raise RecipeError(f"data.{split} has {max(tokens, 0)} tokens, too few to predict one from another")
        else:
            note += f" make {len(blocks):,} blocks, the last one of {last}."
        self.tokens[split] = tokens
        rank_zero_info(note)
        return blocks

    def filler(self, row: dict[str, Any]) -> dict[str, Any]:
        """A block of a single token: it has no token to predict."""
        return {"input_ids": [0]}


def part(row: dict[str, Any], column: str, start: int, end: int | None) -> dict[str, str]:
    """The text of a document between two characters."""
    return {column: row[column][start:end]}


def not_blank(texts: list[str | None]) -> list[bool]:
    """Whether each text has anything but white space."""
    return [bool(text and text.strip("\ufeff \t\r\n\f\v\u00a0")) for text in texts]
