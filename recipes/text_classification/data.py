"""The data of text classification: one or two text columns and a label column, tokenized and batched."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from recipes.data.caching import Cached
from recipes.data.sources import check_columns, check_text
from recipes.data.summary import count_duplicates, padding_share
from recipes.messages import RecipeError, tell
from recipes.models.gguf import config_location
from recipes.models.positions import positions_of
from recipes.models.pretrained import load_config
from recipes.ranges import IntFrom2, IntFrom3, NonNegativeFloat, Percentage, PositiveInt
from recipes.recipe_data import RecipeData
from recipes.text_classification.balanced_sampler import BalancedSampler, shares_of
from recipes.text_classification.encoding import complete, encode
from recipes.text_classification.head import some_of_each
from recipes.text_classification.label_column import choose_labels, class_names, match_labels
from recipes.text_classification.labels import trained_labels
from recipes.text_classification.lengths import count_tokens, covering, longest_input, longest_training_text
from recipes.text_classification.metrics import IGNORED
from recipes.text_classification.sampler import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset


COUNTS = ("length", "cut", "unknown")
"""Columns of encoded rows that are no inputs of the model."""

MANY_UNKNOWN = 0.1
"""Share of unknown tokens above which a note says so."""

NO_LIMIT = 1_000_000
"""A tokenizer without a limit has a larger ``model_max_length``."""


class TextClassificationData(RecipeData):
    """Texts and their labels from files or the Hugging Face hub.

    A split is named by its file or files (csv, tsv, Orange .tab, json, jsonl, parquet, compressed or not;
    glob patterns and lists too) or, if ``path`` is given, by a split of that dataset. ``validation`` and
    ``test`` may also be a fraction of the training rows, stratified by label. Rows with an empty text or
    label are dropped and counted.

    Args:
        text: The column that holds the text, or a list of two columns for tasks on pairs of texts.
        label: The column that holds the label: names or integers.
        train: Training file or files, or a split of ``path``. Not needed to test or predict with a model that
            has its labels.
        predict: File or files, or a split of ``path``, to label with ``predict``. They need no label column.
        max_length: Texts are truncated to this number of tokens. Time and activation memory grow with it. A percentage
            such as ``95%``: the length at which this share of the texts of ``train`` is not truncated, up to what the
            model reads; without ``train``, the length that the model was trained with.
        max_labels: Maximum number of different labels in the training rows. Null: 100, or half the number of rows.
        balance: How much more often rows of rare labels are drawn: their probability is proportional to the label's
            number of training rows to the power of minus this. 0: each row once an epoch. 1: all labels equally often;
            0.5: in between. An epoch keeps its number of rows: some come several times, others not at all. An
            alternative to ``model.class_weights``, rarely of use together with it.
        group_by_length: Whether training batches hold texts of similar length, for less padding.
        pad_to_multiple_of: Batches are padded to the longest text, rounded up to a multiple of this where the model
            reads as many tokens.
        kwargs: The arguments of the data of every recipe.

    Attributes:
        covered: The share of the training texts that is not truncated, if ``max_length`` is a percentage.
        labels: The label names in the order of their ids, once loaded.
        predict_rows: The rows to predict, unchanged, once loaded.
    """

    def __init__(
        self,
        text: str | list[str],
        label: str,
        train: str | list[str] | None = None,
        *,
        predict: str | list[str] | None = None,
        max_length: IntFrom3 | Percentage = 128,
        max_labels: IntFrom2 | None = None,
        balance: NonNegativeFloat = 0.0,
        group_by_length: bool = True,
        pad_to_multiple_of: PositiveInt | None = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        self.text = [text] if isinstance(text, str) else list(text)
        self.label = label
        self.sources["predict"] = predict
        self.covered = float(max_length.rstrip("%")) / 100 if isinstance(max_length, str) else None
        # with a percentage, 0 until the texts are loaded
        self.max_length: int = 0 if isinstance(max_length, str) else max_length
        self.max_labels = max_labels
        self.balance = balance
        self.group_by_length = group_by_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self._check_arguments()
        self.labels: list[str] = []
        self.predict_rows: Dataset
        self._dropped: dict[str, int] = {}
        self._most = math.inf  # tokens that the model reads

    def _check_arguments(self) -> None:
        if not 1 <= len(self.text) <= 2:
            raise RecipeError(f"data.text names {len(self.text)} columns: give one or two")
        if len({*self.text, self.label}) < len(self.text) + 1:
            raise RecipeError(
                f"data.text ({', '.join(self.text)}) and data.label ({self.label}) name the same column: "
                "each needs a column of its own"
            )

    def inspect(self) -> None:
        """Loads tokenizer and labels as training does."""
        train = self.read("train")
        self._load_tokenizer(train)
        self.labels = self._choose_labels(train)

    def _load_tokenizer(self, train: "Dataset | None") -> None:
        self.tokenizer = self.load_tokenizer()
        if self.covered is not None and not self.max_length:
            self.max_length = self._covering_length(train)
        self.tokenizer.model_max_length = self.max_length
        positions = positions_of(self._model_config())
        self._most = math.inf if positions is None else positions

    def _covering_length(self, train: "Dataset | None") -> int:
        """The length for ``max_length`` as a percentage."""
        if train is None:
            longest = longest_input(self._model_config(), self.tokenizer)
            if longest > NO_LIMIT:
                raise RecipeError(
                    f"data.max_length is {100 * (self.covered or 1):g}% and data.train is null, so there are no texts "
                    "to measure: give a number of tokens"
                )
            return int(longest)
        counted = self._complete(train).map(
            Cached(count_tokens),
            batched=True,
            remove_columns=train.column_names,
            desc="Counting tokens",
            fn_kwargs={"tokenizer": self.tokenizer, "text": self.text},
        )
        if len(counted) == 0:
            raise RecipeError(f"data.train has {len(train)} rows, but none with both a text and a label")
        wanted = covering(counted["tokens"][:], self.covered or 1.0)
        longest, reader = longest_training_text(self._model_config(), self.tokenizer)
        capped = int(min(wanted, longest))
        limit = f", of which the {reader} reads {capped}" if capped < wanted else ""
        share = f"{100 * (self.covered or 1):g}%"
        tell(f"data.max_length: {share} of the training texts have {wanted} tokens or fewer{limit}")
        return capped

    def load_splits(self, command: str) -> "dict[str, Dataset]":
        """Token ids, label ids and lengths of the rows of each split, with the labels in a deterministic order."""
        if command == "predict":
            if not self.labels:
                self._load_tokenizer(None if self.covered is None else self.read("train"))
            return {"predict": self._load_predict()}
        rows = {split: self.read(split) for split in ("train", "validation", "test")}
        if not self.labels:
            self._load_tokenizer(rows["train"])
        self.labels = self._choose_labels(rows["train"])
        splits = {split: self._encode(split, dataset) for split, dataset in rows.items() if dataset is not None}
        self.split_fractions(splits, stratify_by="labels", command=command)
        return {
            split: rows if split == "train" or self._is_limited(split) else _longest_first(rows)
            for split, rows in splits.items()
        }

    def _is_limited(self, split: str) -> bool:
        """Whether the trainer evaluates some batches of a split only.

        No metric of all batches depends on their order, and sorted texts need less padding; but the first batches of
        sorted texts are the longest texts alone.
        """
        name = "limit_val_batches" if split == "validation" else "limit_test_batches"
        limit = 1.0 if self.trainer is None else getattr(self.trainer, name)
        return not (isinstance(limit, float) and limit == 1.0)  # the integer 1 is a single batch

    def _load_predict(self) -> "Dataset":
        if not self.labels:
            self.labels = trained_labels(self._model_config())
        # A checkpoint may have other labels than the model that its training started from.
        from_data = self.sources["train"] is not None and self.trainer is not None and self.trainer.ckpt_path
        if from_data or not self.labels:
            train = self.read("train")
            if train is None:
                raise RecipeError(
                    f"model.pretrained: '{self._pretrained}' knows no labels (names like LABEL_0 are taken for "
                    "placeholders) and data.train is null: give the folder model/ of a run, or the data.train that "
                    "the checkpoint was trained on"
                )
            self.labels = self._choose_labels(train)
        rows = self.read("predict")
        assert rows is not None
        self.predict_rows = rows
        return self._encode("predict", rows)

    def read(self, split: str) -> "Dataset | None":
        """The rows of a split, checked to have the text columns and, except for ``predict``, the label column."""
        rows = super().read(split)
        if rows is None:
            return None
        key = f"data.{split}"
        columns = dict.fromkeys(self.text, "data.text")
        check_columns(
            rows, columns if split == "predict" else {**columns, self.label: "data.label"}, key, self.sources[split]
        )
        for column in self.text:
            check_text(rows, column, key)
            if split == "train":
                _refuse_numbers(rows, column, key)
        names = getattr(rows.features.get(self.label), "names", None) or []
        if any(not name.strip() for name in names):
            raise RecipeError(f"data.label: a class of column '{self.label}' of {key} has no name: name all of them")
        return rows

    def _model_config(self) -> Any:
        location = config_location(str(self._pretrained), "model.pretrained")
        return load_config(key="model.pretrained", trust_remote_code=self._trust_remote_code, **location)

    def _choose_labels(self, train: "Dataset | None") -> list[str]:
        known, trainer = trained_labels(self._model_config()), self.trainer
        # Only training, or a checkpoint of one, can give a trained head other labels.
        fixed = trainer is not None and trainer.state.fn not in (None, "fit") and not trainer.ckpt_path
        if train is not None:
            train = self._labels_of(train) or train  # rows without a text and a label are refused later
        return choose_labels(train, self.label, known, str(self._pretrained), self.max_labels, fixed)

    def _encode(self, split: str, dataset: "Dataset") -> "Dataset":
        """Token ids, label ids and lengths; cached."""
        from datasets import ClassLabel

        labeled = split != "predict"
        names, aliases = None, {}
        if labeled:
            names = class_names(dataset, self.label)
            known = trained_labels(self._model_config()) == self.labels
            found = self._labels_of(dataset)
            aliases = match_labels(split, found, self.label, self.labels, str(self._pretrained) if known else None)
        rows = dataset
        if labeled:
            rows = self._complete(dataset)
            self._dropped[split] = len(dataset) - len(rows)
            if dropped := self._dropped[split]:
                rank_zero_info(f"data.{split}: dropped {dropped} of {len(dataset)} rows, without a text or a label.")
            if len(rows) == 0:
                raise RecipeError(f"data.{split} has {len(dataset)} rows, but none with both a text and a label")
        encoded = rows.map(
            Cached(encode),
            batched=True,
            remove_columns=dataset.column_names,
            desc=f"Tokenizing {split}",
            fn_kwargs={
                "tokenizer": self.tokenizer,
                "text": self.text,
                "label": self.label if labeled else None,
                "labels": self.labels,
                "class_names": names,
                "max_length": self.max_length,
                "aliases": aliases,
            },
        )
        if split == "train":
            _tell_of_unknown_tokens(encoded, str(self._pretrained))
        return encoded.cast_column("labels", ClassLabel(names=self.labels)) if labeled else encoded

    def _labels_of(self, dataset: "Dataset") -> "Dataset":
        """The label column of the rows with a text and a label; of all rows where it holds no names or numbers."""
        from datasets import ClassLabel, Value

        if isinstance(dataset.features[self.label], Value | ClassLabel):
            dataset = self._complete(dataset)
        return dataset.select_columns([self.label])

    def _complete(self, dataset: "Dataset") -> "Dataset":
        """The rows with a text and a label; cached."""
        columns = {"text": self.text, "label": self.label, "class_names": class_names(dataset, self.label)}
        return dataset.filter(Cached(complete), batched=True, fn_kwargs=columns)

    def train_sampler(self, rows: "Dataset", **shard: Any) -> DistributedSampler:
        """Batches of similar lengths, and rows of rare labels more often, if asked for."""
        lengths = rows["length"][:]

        def ordering(drawn: Sequence[int]) -> DistributedSampler:
            if not self.group_by_length:
                return super(TextClassificationData, self).train_sampler(rows, **shard)
            return LengthGroupedSampler([lengths[row] for row in drawn], self.batch_size, **shard)

        if not self.balance:
            return ordering(range(len(rows)))
        return BalancedSampler(shares_of(rows["labels"][:], self.label_counts(), self.balance), ordering, **shard)

    def some_training_batches(self, most: int) -> DataLoader:
        """Training texts in a fixed order, the longest first, the same on all processes.

        Args:
            most: Number of texts at most; of more, some of each label and others at random are taken.
        """
        rows = self.splits["train"]
        rows = _longest_first(rows.select(some_of_each(rows["labels"][:], most)))
        return self._loader(DataLoader, rows, self.eval_batch_size, shuffle=False)

    def label_counts(self, split: str = "train") -> list[int]:
        """The number of rows of a split with each label, in the order of their ids."""
        counts = Counter(self.splits[split]["labels"][:])
        return [counts[number] for number in range(len(self.labels))]

    def summary(self) -> dict[str, dict[str, Any]]:
        """For each split rows, labels, dropped rows, duplicates of training rows, cut and unknown tokens, padding."""
        splits = {split: rows for split, rows in self.splits.items() if split != "predict"}
        summary: dict[str, dict[str, Any]] = {}
        for split, rows in splits.items():
            summary[split] = {
                "rows": len(rows),
                "labels": dict(zip(self.labels, self.label_counts(split), strict=True)),
                "rows_dropped_without_text_or_label": self._dropped.get(split, 0),
                "tokens_cut_off": sum(rows["cut"][:]),
                "unknown_tokens": sum(rows["unknown"][:]),
            }
            if self.covered is not None:
                summary[split]["max_length"] = self.max_length
            if split != "train" and "train" in splits:
                summary[split]["duplicates_of_training_rows"] = count_duplicates(
                    _tokens(rows), _tokens(splits["train"])
                )
        if "train" in splits:
            sampler = self.train_sampler(
                splits["train"], num_replicas=1, rank=0, seed=int(os.environ.get("PL_GLOBAL_SEED", "0"))
            )
            lengths = splits["train"]["length"][:]
            share = padding_share(lengths, sampler, self.batch_size, self._padded)
            summary["train"]["share_of_padding"] = share
        return summary

    def filler(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row without its label."""
        return {**row, "labels": IGNORED} if "labels" in row else row

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pads rows to the longest of them."""
        from transformers import DataCollatorWithPadding

        padded = self._padded(max(1, *(len(row["input_ids"]) for row in rows)))  # decoders read no empty batch
        rows = [{name: value for name, value in row.items() if name not in COUNTS} for row in rows]
        return dict(DataCollatorWithPadding(self.tokenizer, padding="max_length", max_length=padded)(rows))

    def _padded(self, longest: int) -> int:
        """The length of a batch: that of its longest text, rounded up where the model reads as much."""
        multiple = self.pad_to_multiple_of or 1
        rounded = -(-longest // multiple) * multiple
        return rounded if rounded <= self._most else longest

    def largest_batch(self) -> dict[str, Tensor]:
        """A training batch of texts of ``max_length`` tokens, with arbitrary values; called after ``inspect``."""
        size = self.batch_size, self._padded(self.max_length)
        batch = {name: torch.ones(size, dtype=torch.long) for name in self.tokenizer.model_input_names}
        return {**batch, "labels": torch.zeros(self.batch_size, dtype=torch.long)}


def _tokens(rows: "Dataset") -> Iterator[tuple[int, ...]]:
    return (tuple(tokens) for batch in rows.select_columns("input_ids").iter(1000) for tokens in batch["input_ids"])


def _longest_first(rows: "Dataset") -> "Dataset":
    return rows.select(torch.tensor(rows["length"][:]).argsort(descending=True, stable=True).tolist())


def _refuse_numbers(rows: "Dataset", column: str, key: str) -> None:
    """Raises an error for a column of numbers, which in delimited files are read as text."""
    sample = [value for value in rows[column][:1000] if value]
    if sample and all(value.replace(".", "", 1).lstrip("+-").isdecimal() for value in sample):
        raise RecipeError(f"data.text: column '{column}' of {key} holds numbers, not text: name a column of texts")


def _tell_of_unknown_tokens(rows: "Dataset", pretrained: str) -> None:
    """Names texts that the tokenizer cannot read, such as those in another script."""
    share = sum(rows["unknown"][:]) / max(sum(rows["length"][:]), 1)
    if share > MANY_UNKNOWN:
        tell(
            f"data.text: {share:.0%} of the tokens of data.train are unknown to the tokenizer of '{pretrained}', as "
            "those of another script are: choose a model.pretrained for the language of the texts"
        )
